"""Kinds of datasets that are held out together, as a user's dataset may be of a kind that the graph has not.

With one dataset held out, others of its style mostly stay: what a method does there says little of how it
does on a style that nothing was measured on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.config import GROUP_KINDS
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.kernels import dataset_distances
from matchgraph.predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot


def groups_of(snapshot: Snapshot, kind: str) -> Mapping[str, str]:
    """The group of each dataset with results.

    Args:
        snapshot: the graph.
        kind: "style" or "category", a property of the datasets, or where none has it the part of the id
            before or after its last hyphen; or "cluster", by their distances (average linkage, about the
            square root of half of the datasets).

    Returns:
        By dataset; a dataset without the property is a group of its own.

    Raises:
        InvalidRows: an unknown kind, or it makes no group of two datasets, or one of all.
    """
    if kind not in GROUP_KINDS:
        raise InvalidRows(f"unknown kind of group {kind!r}: choose one of {', '.join(GROUP_KINDS)}")
    datasets = loss_matrix(snapshot).datasets
    groups = _clusters(snapshot, datasets) if kind == "cluster" else _named(snapshot, datasets, kind)
    sizes = Counter(groups.values())
    if len(sizes) < 2 or max(sizes.values()) < 2:
        raise InvalidRows(
            f"The {len(datasets)} datasets with results make {len(sizes)} groups by {kind}: give each a "
            f"property {kind!r} with `matchgraph ingest datasets FILE.csv`, or hold out clusters."
        )
    return groups


def _named(snapshot: Snapshot, datasets: tuple[str, ...], kind: str) -> dict[str, str]:
    known = {dataset.id: dataset.properties.get(kind) for dataset in snapshot.datasets}
    if any(known[dataset] is not None for dataset in datasets):
        return {dataset: str(known[dataset] or dataset) for dataset in datasets}
    half = 0 if kind == "style" else -1
    return {dataset: dataset.rpartition("-")[half] or dataset for dataset in datasets}


def _clusters(snapshot: Snapshot, datasets: tuple[str, ...]) -> dict[str, str]:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(datasets) < 2:
        return dict.fromkeys(datasets, "all")
    place = {dataset.id: index for index, dataset in enumerate(snapshot.datasets)}
    own = [place[dataset] for dataset in datasets]
    distances = dataset_distances(snapshot)[np.ix_(own, own)]
    finite = distances[np.isfinite(distances)]
    distances = np.where(np.isfinite(distances), distances, 2 * finite.max(initial=1.0))
    count = max(2, round(np.sqrt(len(datasets) / 2)))
    numbers = fcluster(linkage(squareform(distances, checks=False), "average"), count, "maxclust")
    return {dataset: f"cluster {number}" for dataset, number in zip(datasets, numbers, strict=True)}
