"""From a matching graph and a dataset to a ranking of the zoo's models, with its reasons.

A `Matcher` is a whole method of ranking: see `predictor.stack`, `predictor.gaussian` and `predictor.paper`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from matchgraph.predictor.familiarity import Familiarity, familiarity
from matchgraph.predictor.samples import widened
from matchgraph.predictor.visibility import (
    add_dataset,
    graph_hash,
    hide_results,
    loss_matrix,
    similarities_of,
    similarity_direction,
)

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Snapshot
    from matchgraph.predictor.ranks import RankPrediction

TOP_ATTRIBUTES = 4
EVIDENCE_DATASETS = 3
LIBRARIES = ("catboost", "gensim", "graphdatascience", "neo4j", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Cost:
    """What it takes to use a model, None where nothing is recorded.

    Attributes:
        train_seconds: median time of a fine-tuning.
        sample_seconds_per_image: median time to sample one image.
        params: number of parameters.
        tflop: floating-point operations for one image, in units of 10^12.
        throughput: as recorded with the model.
    """

    train_seconds: float | None = None
    sample_seconds_per_image: float | None = None
    params: float | None = None
    tflop: float | None = None
    throughput: float | None = None


@dataclass(frozen=True)
class Reason:
    """One part of the input and how far it lifts a model towards the top, in the method's own unit.

    That is log-odds of ranking near the top for the paper's recipe, and standard deviations of the score for
    the Gaussian one.
    """

    part: str
    lift: float


@dataclass(frozen=True)
class RankedModel:
    """A model's place in the answer.

    Attributes:
        model: its id.
        expected_rank: mean of its predicted rank, 1..n_models.
        rank_std: standard deviation of its predicted rank.
        p_best: chance of being the best of the zoo.
        cost: what it takes to use it.
        why: the parts of the input by how much they moved it, largest first; empty where the ranker cannot
            tell.
    """

    model: str
    expected_rank: float
    rank_std: float
    p_best: float
    cost: Cost
    why: tuple[Reason, ...]


@dataclass(frozen=True)
class Neighbour:
    """Evidence: a similar dataset and the models that were best on it.

    Attributes:
        dataset: its id.
        similarity: the recorded value, in the metric of the similarities.
        best: up to three models, best first; empty where nothing was measured.
        n: images of the smaller of the two samples that were compared; None where that is not recorded.
    """

    dataset: str
    similarity: float
    best: tuple[str, ...]
    n: int | None = None


@dataclass(frozen=True)
class Prediction:
    """A ranking of the whole zoo for one dataset.

    Attributes:
        dataset: its id.
        ranking: all models, best expected rank first.
        neighbours: the most similar datasets, most similar first.
        provenance: what it was computed from and with.
        rehearsed: see `Ranked.rehearsed`.
        familiarity: how far the dataset is from those with results; off the zoo, the chances are widened.
    """

    dataset: str
    ranking: tuple[RankedModel, ...]
    neighbours: tuple[Neighbour, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    rehearsed: Mapping[str, RankPrediction] = field(default_factory=dict)
    familiarity: Familiarity | None = None


@dataclass(frozen=True, eq=False)
class Ranked:
    """The bare outcome for one dataset: all that evaluation needs.

    Attributes:
        models: ids of the zoo, sorted.
        prediction: expected rank, its deviation and chance of being best, in that order of models.
        parts: what each column of the contributions belongs to: "graph", "dataset", "model:<attribute>", or
            "general" for how a model does anywhere.
        contributions: float64, (n_models, n_parts), how far each lifts a model towards the top; None where
            they were not asked for, or the method cannot tell.
        rehearsed: predictions of the same method for other datasets, each made without its results; empty
            where the method makes none on its way.
        details: what the method found out about the graph, ready for JSON.
    """

    models: tuple[str, ...]
    prediction: RankPrediction
    parts: tuple[str, ...] = ()
    contributions: np.ndarray | None = None
    rehearsed: Mapping[str, RankPrediction] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Matcher(Protocol):
    """A whole method of ranking the zoo for datasets that nothing was measured on.

    An implementation promises: none of the results of the datasets asked about is used, also where they are
    in the graph it gets; the same graph gives the same answer, bit for bit; every model of the zoo is ranked,
    also one that was never measured.

    Attributes:
        name: of the recipe.
        needs_similarities: whether it cannot rank for a dataset without a SIMILAR edge.
        notes: what a user should know of how it was put together, one sentence each.
    """

    name: str
    needs_similarities: bool
    notes: tuple[str, ...]

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        """Rank the zoo for some datasets, of none of which a result is used.

        Args:
            visible: the graph without results of these datasets, see `hide_results`; they are taken out
                again, in case.
            datasets: ids of datasets, nodes of `visible`.
            explain: whether contributions are wanted, which may take longer than the ranking.

        Returns:
            By dataset.

        Raises:
            NotEnoughResults: no other dataset has two measured models.
            NoSimilarity: a dataset has no SIMILAR edge, and the method needs one.
            UnknownTarget: the graph has no such dataset.
        """
        ...

    def quick(self) -> Matcher:
        """The method, or where it takes seconds a faster one that ranks nearly as it does."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that could change the answer but the graph, ready for JSON."""
        ...


def predict(
    snapshot: Snapshot,
    dataset: str | Dataset,
    matcher: Matcher,
    *,
    distances: Mapping[str, float] | None = None,
    costs: Mapping[str, Cost] | None = None,
    reliability: float = 1.0,
) -> Prediction:
    """Rank the zoo's models for a dataset, with costs and reasons. Writes nothing.

    Args:
        snapshot: the graph.
        dataset: the id of one of its datasets, predicted for as if none of its results were known; or a new
            one.
        matcher: the method.
        distances: of a new dataset, by id of the known one, in the metric of the snapshot's similarities.
        costs: by model id.
        reliability: probability, from 0 to 1, that the dataset's images show what it is like; below 1 the
            ranks are less certain, see `predictor.samples`.

    Returns:
        The ranking.

    Raises:
        PredictorError: see `Matcher.rank`.
    """
    if isinstance(dataset, str):
        target, visible = dataset, hide_results(snapshot, dataset)
    else:
        target, visible = dataset.id, add_dataset(snapshot, dataset, distances or {})
    ranked = matcher.rank(visible, [target], explain=True)[target]
    order = np.lexsort((np.array(ranked.models), -ranked.prediction.p_best, ranked.prediction.expected_rank))
    familiar = familiarity(visible, target)
    reliability = min(reliability, familiar.reliability if familiar else 1.0)
    expected = widened(ranked.prediction, reliability) if reliability < 1 else ranked.prediction
    reasons = explain(ranked.contributions, ranked.parts)
    ranking = tuple(
        RankedModel(
            model=ranked.models[row],
            expected_rank=float(expected.expected_rank[row]),
            rank_std=float(expected.rank_std[row]),
            p_best=float(expected.p_best[row]),
            cost=(costs or {}).get(ranked.models[row], Cost()),
            why=reasons[row] if reasons else (),
        )
        for row in order
    )
    extractor = next(known for known in visible.datasets if known.id == target).properties.get("extractor")
    source = {**provenance(visible, matcher), "extractor": extractor, **ranked.details}
    return Prediction(target, ranking, evidence(visible, target), source, ranked.rehearsed, familiar)


def explain(contributions: np.ndarray | None, parts: Sequence[str]) -> list[tuple[Reason, ...]]:
    """Sum the columns' contributions to readable parts, for each row.

    Args:
        contributions: (n_rows, n_columns) of `Ranked`, or None.
        parts: of each column.

    Returns:
        For each row the dataset embedding, the graph embedding, the model attributes that moved it most by
        name, and the rest of them in one; by size. Their sum is the sum of the contributions. Empty for None.
    """
    if contributions is None:
        return []
    names = sorted(set(parts))
    sums = {name: contributions[:, [part == name for part in parts]].sum(axis=1) for name in names}
    explained = []
    for row in range(len(contributions)):
        lifts = {name: float(values[row]) for name, values in sums.items()}
        attributes = sorted(
            (name for name in lifts if name.startswith("model:")), key=lambda name: -abs(lifts[name])
        )
        reasons = [
            Reason(name, lift) for name, lift in lifts.items() if name not in attributes[TOP_ATTRIBUTES:]
        ]
        if attributes[TOP_ATTRIBUTES:]:
            rest = sum(lifts[name] for name in attributes[TOP_ATTRIBUTES:])
            reasons.append(Reason("other model attributes", rest))
        explained.append(tuple(sorted(reasons, key=lambda reason: (-abs(reason.lift), reason.part))))
    return explained


def evidence(visible: Snapshot, dataset: str) -> tuple[Neighbour, ...]:
    """The datasets most like this one, and the models that were best on them.

    Args:
        visible: the visible graph.
        dataset: id of the dataset.

    Returns:
        Up to three datasets, most similar first.
    """
    near = similarities_of(visible, dataset)
    sign = -1.0 if similarity_direction(visible) else 1.0
    matrix = loss_matrix(visible)
    images = {known.id: _count(known.properties.get("n_real")) for known in visible.datasets}
    neighbours = []
    for other in sorted(near, key=lambda name: (sign * near[name], name))[:EVIDENCE_DATASETS]:
        best: tuple[str, ...] = ()
        if other in matrix.datasets:
            measured = matrix.losses[:, matrix.datasets.index(other)]
            order = [row for row in np.argsort(measured, kind="stable") if not np.isnan(measured[row])]
            best = tuple(matrix.models[row] for row in order[:3])
        counts = [images[name] for name in (dataset, other)]
        n = None if None in counts else min(count for count in counts if count is not None)
        neighbours.append(Neighbour(other, near[other], best, n))
    return tuple(neighbours)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def provenance(visible: Snapshot, matcher: Matcher) -> dict[str, Any]:
    """What predictions were computed from and with, ready for JSON."""
    return {
        "metric": visible.metric.name,
        "larger_is_better": visible.metric.larger_is_better,
        "similarity": visible.similarity.name if visible.similarity else None,
        "graph": graph_hash(visible),
        "models": len(visible.models),
        "datasets": len(visible.datasets),
        "results": int(visible.performs["value"].notna().sum()),
        "recipe": matcher.name,
        **matcher.describe(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
