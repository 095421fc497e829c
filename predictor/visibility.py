"""What a prediction for a dataset may see of the matching graph, and that part of it in the forms that are
computed with.

Everything a method learns from goes through a snapshot from which the target's results were taken out first
(`hide_results`), so nothing downstream can leak them: weights, embeddings, features, rankers and baselines
get the rest only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.weights import rank_fraction, result_weight, similarity_weight
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults, UnknownTarget
from matchgraph.predictor.metrics import losses

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Dataset, Snapshot


def hide_results(snapshot: Snapshot, dataset: str) -> Snapshot:
    """The graph without any result of one dataset, neither before nor after fine-tuning; its similarities
    stay.

    Args:
        snapshot: the graph.
        dataset: id of the dataset to predict for.

    Returns:
        A snapshot without its PERFORMS edges.

    Raises:
        UnknownTarget: the graph has no such dataset.

    Source:
        Match & Choose, section 5.2: "removing the model edges connected to the dataset being evaluated".
    """
    if all(known.id != dataset for known in snapshot.datasets):
        raise UnknownTarget(
            f"The graph has no dataset {dataset!r}: list them with `matchgraph graph list datasets`."
        )
    visible = snapshot.performs[snapshot.performs["dataset"] != dataset].reset_index(drop=True)
    return replace(snapshot, performs=visible)


def without_results(snapshot: Snapshot, datasets: Iterable[str]) -> Snapshot:
    """The graph without any result of some datasets, see `hide_results`."""
    for dataset in datasets:
        snapshot = hide_results(snapshot, dataset)
    return snapshot


def remove_results(snapshot: Snapshot, share: float, seed: int) -> Snapshot:
    """The graph with a share of its results after fine-tuning taken away at random.

    For one seed, what is taken away at a smaller share is taken away at a larger one as well.

    Args:
        snapshot: the graph.
        share: of the PERFORMS edges with a value, rounded to a whole number of them; in [0, 1).
        seed: of the choice.

    Returns:
        A snapshot with the other edges; those between datasets stay.

    Raises:
        InvalidRows: for another share.

    Source:
        Match & Choose, section 5.3 and Figure 6: "a 10% sparsity means we remove randomly 10% of the
        model-dataset edges".
    """
    if not 0 <= share < 1:
        raise InvalidRows(f"the share of results to remove must be at least 0 and below 1, got {share}")
    measured = np.flatnonzero(snapshot.performs["value"].notna())
    order = np.random.default_rng(seed).permutation(measured)
    gone = snapshot.performs.index[order[: round(share * len(measured))]]
    return replace(snapshot, performs=snapshot.performs.drop(index=gone).reset_index(drop=True))


def part_of(
    snapshot: Snapshot, *, models: Collection[str] | None = None, datasets: Collection[str] | None = None
) -> Snapshot:
    """The graph as if it had these models and datasets alone.

    Args:
        snapshot: the graph.
        models: ids of the models to keep; None for all.
        datasets: ids of the datasets to keep; None for all.
    """
    part = snapshot
    if models is not None:
        performs = part.performs[part.performs["model"].isin(list(models))].reset_index(drop=True)
        own = tuple(model for model in part.models if model.id in models)
        part = replace(part, models=own, performs=performs)
    if datasets is not None:
        wanted, similar = list(datasets), part.similar
        joined = similar["dataset"].isin(wanted) & similar["other"].isin(wanted)
        part = replace(
            part,
            datasets=tuple(dataset for dataset in part.datasets if dataset.id in datasets),
            performs=part.performs[part.performs["dataset"].isin(wanted)].reset_index(drop=True),
            similar=similar[joined].reset_index(drop=True),
        )
    return part


def without_dataset(snapshot: Snapshot, dataset: str) -> Snapshot:
    """The graph without a dataset, its results and its similarities, if it has it at all."""
    return part_of(snapshot, datasets={known.id for known in snapshot.datasets} - {dataset})


def add_dataset(snapshot: Snapshot, dataset: Dataset, distances: Mapping[str, float]) -> Snapshot:
    """The graph as it would be with one more dataset, joined to others by SIMILAR edges only. Nothing is
    written.

    Args:
        snapshot: the graph.
        dataset: the new dataset; one of the same id is replaced together with its similarities and results.
        distances: by id of the other dataset, in the metric of the snapshot's similarities.

    Returns:
        A snapshot with nodes and edges in sorted order.
    """
    import pandas as pd

    others = without_dataset(snapshot, dataset.id)
    pairs = [(*sorted((dataset.id, other)), float(value)) for other, value in distances.items()]
    similar = pd.concat(
        [others.similar, pd.DataFrame(pairs, columns=["dataset", "other", "value"])], ignore_index=True
    )
    return replace(
        others,
        datasets=tuple(sorted([*others.datasets, dataset], key=lambda each: each.id)),
        similar=similar.sort_values(["dataset", "other"], ignore_index=True),
    )


@dataclass(frozen=True, eq=False)
class LossMatrix:
    """Measured values as losses, smaller is better.

    Attributes:
        models: sorted ids, the rows; all of the zoo.
        datasets: sorted ids, the columns; only those with a measured model.
        losses: float64, (n_models, n_datasets), after fine-tuning; NaN where not measured.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    losses: np.ndarray

    def scaled_ranks(self) -> np.ndarray:
        """The rank of each model within each dataset as a fraction (`graphdb.weights.rank_fraction`).

        Returns:
            float64, (n_models, n_datasets), NaN where not measured.
        """
        return self._within(rank_fraction)

    def weights(self) -> np.ndarray:
        """The walk weight of each result (`graphdb.weights.result_weight`).

        Returns:
            float64, (n_models, n_datasets), NaN where not measured.
        """
        return self._within(result_weight)

    def _within(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Apply a function to what was measured on each dataset."""
        outcome = np.full(self.losses.shape, np.nan)
        for column, own in enumerate(self.losses.T):
            measured = ~np.isnan(own)
            outcome[measured, column] = function(own[measured])
        return outcome


def loss_matrix(snapshot: Snapshot) -> LossMatrix:
    """The results after fine-tuning as a matrix of losses."""
    return _matrix(snapshot, snapshot.performs[snapshot.performs["value"].notna()], "value")


def initial_losses(snapshot: Snapshot, dataset: str) -> np.ndarray:
    """The losses of the pretrained models on one dataset, float64, (n_models,); NaN where not measured."""
    own = snapshot.performs[(snapshot.performs["dataset"] == dataset) & snapshot.performs["initial"].notna()]
    matrix = _matrix(snapshot, own, "initial")
    return matrix.losses[:, 0] if matrix.datasets else np.full(len(matrix.models), np.nan)


def similarities_of(snapshot: Snapshot, dataset: str) -> dict[str, float]:
    """The similarity values of one dataset, by id of the other one, sorted by id."""
    one, other, value = (snapshot.similar[column].to_numpy() for column in ("dataset", "other", "value"))
    forth, back = one == dataset, other == dataset
    values = dict(zip(other[forth], value[forth], strict=True))
    values.update(zip(one[back], value[back], strict=True))
    return {other: float(values[other]) for other in sorted(values)}


def similarity_direction(snapshot: Snapshot) -> bool:
    """Whether larger values mean more similar datasets; for distances, the usual case, they do not."""
    return snapshot.similarity is not None and snapshot.similarity.larger_is_better


def similarity_weights(snapshot: Snapshot) -> np.ndarray:
    """The walk weights of the SIMILAR edges (`graphdb.weights.similarity_weight`), in their order, float64,
    (n_edges,).
    """
    return similarity_weight(snapshot.similar["value"].to_numpy(), similarity_direction(snapshot))


def weighted_edges(snapshot: Snapshot) -> pd.DataFrame:
    """All edges of the graph with positive weights, for an embedder.

    Weights are those of `graphdb.weights`, from the edges of this snapshot only.

    Args:
        snapshot: the visible graph.

    Returns:
        Columns source, target (`model:<id>`, `dataset:<id>`) and weight; only results after fine-tuning
        count.
    """
    import pandas as pd

    matrix, similar = loss_matrix(snapshot), snapshot.similar
    results = matrix.weights()
    models, datasets = np.nonzero(~np.isnan(results))
    return pd.DataFrame(
        {
            "source": [f"model:{matrix.models[row]}" for row in models]
            + [f"dataset:{dataset}" for dataset in similar["dataset"]],
            "target": [f"dataset:{matrix.datasets[column]}" for column in datasets]
            + [f"dataset:{other}" for other in similar["other"]],
            "weight": np.concatenate([results[models, datasets], similarity_weights(snapshot)]),
        }
    )


def node_names(snapshot: Snapshot) -> list[str]:
    """The nodes as an embedder names them."""
    return [f"model:{model.id}" for model in snapshot.models] + [
        f"dataset:{dataset.id}" for dataset in snapshot.datasets
    ]


def check_enough(snapshot: Snapshot) -> None:
    """Refuse to learn a ranking where there is none.

    Args:
        snapshot: the visible graph.

    Raises:
        NotEnoughResults: no dataset, besides the one to predict for, has two measured models.
    """
    measured = (~np.isnan(loss_matrix(snapshot).losses)).sum(axis=0)
    if not (measured >= 2).any():
        raise NotEnoughResults(
            f"The graph has {len(snapshot.models)} models, and no other dataset with at least 2 of them "
            f"measured by {snapshot.metric.name} after fine-tuning: there is no ranking to learn from. "
            "Add results with `matchgraph ingest results FILE.csv` or `matchgraph ingest run`."
        )


def graph_hash(snapshot: Snapshot) -> str:
    """A fingerprint of everything a prediction can depend on, 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    content = [
        [snapshot.metric.name, snapshot.metric.larger_is_better],
        [snapshot.similarity.name if snapshot.similarity else None, similarity_direction(snapshot)],
        [[model.id, dict(model.properties)] for model in snapshot.models],
        [[dataset.id, dict(dataset.properties), dataset.embedding] for dataset in snapshot.datasets],
        [
            [row.model, row.dataset, repr(row.value), repr(row.initial)]
            for row in snapshot.performs.itertuples()
        ],
        [[row.dataset, row.other, repr(row.value)] for row in snapshot.similar.itertuples()],
    ]
    digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _matrix(snapshot: Snapshot, rows: pd.DataFrame, column: str) -> LossMatrix:
    models = tuple(model.id for model in snapshot.models)
    datasets = tuple(sorted(set(rows["dataset"])))
    row_of = {model: row for row, model in enumerate(models)}
    column_of = {dataset: index for index, dataset in enumerate(datasets)}
    matrix = np.full((len(models), len(datasets)), np.nan)
    values = losses(rows[column].to_numpy(dtype=np.float64), snapshot.metric.larger_is_better)
    places = [row_of[model] for model in rows["model"]], [column_of[dataset] for dataset in rows["dataset"]]
    matrix[places] = values
    return LossMatrix(models, datasets, matrix)
