"""The part of a large graph that a prediction learns from.

The work of a prediction grows with the cube of the number of datasets, and far datasets hardly count in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.visibility import part_of, similarities_of, similarity_direction

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Snapshot

MOST_DATASETS = 100


def nearby(
    snapshot: Snapshot, target: str | Dataset, distances: Mapping[str, float], most: int = MOST_DATASETS
) -> tuple[Snapshot, str | None]:
    """Keep the measured datasets nearest to one, where a graph has more datasets than a prediction can use.

    Args:
        snapshot: the graph.
        target: the id of one of its datasets, or a new one.
        distances: of a new dataset, by id of the known one.
        most: how many datasets to keep.

    Returns:
        The graph with these datasets and that of the target, and a note that says so; the graph as it is and
        None where it has no more.
    """
    if len(snapshot.datasets) <= most:
        return snapshot, None
    name = target if isinstance(target, str) else target.id
    measured = {*snapshot.performs.loc[snapshot.performs["value"].notna(), "dataset"]} - {name}
    known = {dataset.id: dataset for dataset in snapshot.datasets}
    own = known.get(name) if isinstance(target, str) else target
    values = distances or similarities_of(snapshot, name)
    sign = -1.0 if similarity_direction(snapshot) else 1.0
    near = sorted(measured & values.keys(), key=lambda other: (sign * values[other], other))[:most]
    # Those beyond the nearest have no distance in the graph; their mean embeddings stand in for it.
    rest = sorted(measured - {*near})
    if own is not None and own.embedding is not None:
        apart = np.full(len(rest), np.inf)
        for place, other in enumerate(rest):
            embedding = known[other].embedding
            if embedding is not None and len(embedding) == len(own.embedding):
                apart[place] = np.sum((np.asarray(embedding) - own.embedding) ** 2)
        rest = [rest[place] for place in np.argsort(apart, kind="stable")]
    kept = {*near, *rest[: most - len(near)], name}
    part = part_of(snapshot, datasets=kept)
    count = len(kept - {name})
    return part, f"the ranking is computed from the {count} nearest of {len(measured)} measured datasets."
