"""The recipe: from a matching graph and a dataset to a ranking of the zoo's models, with its reasons.

Embed the visible graph, put together one row for each measured (model, dataset) pair, learn the rank from the
rows, and ask for the rows of the new dataset.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.errors import InvalidRows, NoSimilarity
from predictor.features import (
    FEATURE_SETS,
    OPERATORS,
    FeatureSet,
    Operator,
    assemble,
    dataset_features,
    model_features,
)
from predictor.ranker import (
    DEFAULT_MAX_CLASSES,
    RankClasses,
    Ranker,
    RankPrediction,
    ranks_within,
    summarise,
)
from predictor.visibility import (
    add_dataset,
    check_enough,
    graph_hash,
    hide_results,
    loss_matrix,
    node_names,
    similarities_of,
    similarity_direction,
    weighted_edges,
)

if TYPE_CHECKING:
    from graphdb.embedding import Embedder
    from graphdb.models import Dataset, Snapshot

TOP_ATTRIBUTES = 4
EVIDENCE_DATASETS = 3
LIBRARIES = ("catboost", "gensim", "graphdatascience", "neo4j", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Recipe:
    """What goes into a row, and how finely ranks are told apart.

    Attributes:
        features: which of the three vectors: all, only the edge embedding ("graph"), only the nodes' features
            ("node").
        operator: how two node embeddings make an edge embedding.
        max_classes: see `RankClasses`.

    Raises:
        InvalidRows: an unknown name, or no class.
    """

    features: FeatureSet = "all"
    operator: Operator = "concat"
    max_classes: int = DEFAULT_MAX_CLASSES

    def __post_init__(self) -> None:
        if self.features not in FEATURE_SETS:
            raise InvalidRows(f"unknown features {self.features!r}: choose one of {', '.join(FEATURE_SETS)}")
        if self.operator not in OPERATORS:
            raise InvalidRows(f"unknown operator {self.operator!r}: choose one of {', '.join(OPERATORS)}")
        if self.max_classes < 2:
            raise InvalidRows(f"max_classes must be at least 2, got {self.max_classes}")


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
    """One part of the input and how far it lifts a model, in log-odds of ranking near the top."""

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
    """

    dataset: str
    similarity: float
    best: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """A ranking of the whole zoo for one dataset.

    Attributes:
        dataset: its id.
        ranking: all models, best expected rank first.
        neighbours: the most similar datasets, most similar first.
        provenance: what it was computed from and with.
    """

    dataset: str
    ranking: tuple[RankedModel, ...]
    neighbours: tuple[Neighbour, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ranked:
    """The bare outcome of the recipe: all that evaluation needs.

    Attributes:
        models: ids of the zoo, sorted.
        prediction: expected rank, its deviation and chance of being best, in that order of models.
        values: float64, (n_models, n_columns), the rows that were asked for.
        parts: what each column belongs to.
    """

    models: tuple[str, ...]
    prediction: RankPrediction
    values: np.ndarray
    parts: tuple[str, ...]


def rank_models(
    visible: Snapshot, dataset: str, embedder: Embedder, ranker: Ranker, recipe: Recipe | None = None
) -> Ranked:
    """Train on the visible results and rank the zoo for one dataset; see `rank_models_for`."""
    return rank_models_for(visible, [dataset], embedder, ranker, recipe)[dataset]


def rank_models_for(
    visible: Snapshot,
    datasets: Sequence[str],
    embedder: Embedder,
    ranker: Ranker,
    recipe: Recipe | None = None,
) -> dict[str, Ranked]:
    """Train on the visible results and rank the zoo for some datasets, of none of which a result is used.

    Args:
        visible: the graph without results of these datasets, see `hide_results`; they are taken out here
            again, in case.
        datasets: ids of the datasets, nodes of `visible`.
        embedder: of the graph's nodes; not called for features="node".
        ranker: is trained anew, once for all of them.
        recipe: what goes into the rows.

    Returns:
        By dataset, the predictions for every model, also those never measured.

    Raises:
        NotEnoughResults: no other dataset has two measured models.
        NoSimilarity: a dataset has no SIMILAR edge, so the graph says nothing about it.
        UnknownTarget: the graph has no such dataset.

    Source:
        Match & Choose, sections 4.4 and 4.5.
    """
    recipe = recipe or Recipe()
    for dataset in datasets:
        visible = hide_results(visible, dataset)
    check_enough(visible)
    for dataset in datasets:
        if recipe.features != "node" and not similarities_of(visible, dataset):
            raise NoSimilarity(
                f"Dataset {dataset!r} has no similarity to any other dataset, so the graph says nothing "
                "about it. Record some with `matchgraph ingest similarities FILE.csv`, ingest the datasets' "
                "images with one probe, or use --features node."
            )
    embeddings = (
        {} if recipe.features == "node" else embedder.embed(node_names(visible), weighted_edges(visible))
    )
    matrix = loss_matrix(visible)
    # A dataset with a single measured model ranks nothing.
    usable = (~np.isnan(matrix.losses)).sum(axis=0) >= 2
    rows, columns = np.nonzero(~np.isnan(matrix.losses) & usable)
    pairs = [(matrix.models[row], matrix.datasets[column]) for row, column in zip(rows, columns, strict=True)]
    asked = [(model, dataset) for dataset in datasets for model in matrix.models]
    table = assemble(
        pairs + asked,
        model_features(visible.models),
        dataset_features(visible.datasets),
        embeddings,
        features=recipe.features,
        operator=recipe.operator,
    )
    classes = RankClasses(len(matrix.models), recipe.max_classes)
    ranks = ranks_within(matrix.losses[rows, columns], columns)
    ranker.fit(table.values[: len(pairs)], classes.targets(ranks, columns))
    ranked = {}
    for number, dataset in enumerate(datasets):
        start = len(pairs) + number * len(matrix.models)
        own = table.values[start : start + len(matrix.models)]
        prediction = summarise(ranker.predict_distribution(own), classes)
        ranked[dataset] = Ranked(matrix.models, prediction, own, table.parts)
    return ranked


def predict(
    snapshot: Snapshot,
    dataset: str | Dataset,
    embedder: Embedder,
    ranker: Ranker,
    recipe: Recipe | None = None,
    *,
    distances: Mapping[str, float] | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Prediction:
    """Rank the zoo's models for a dataset, with costs and reasons. Writes nothing.

    Args:
        snapshot: the graph.
        dataset: the id of one of its datasets, predicted for as if none of its results were known; or a new
            one.
        embedder: of the graph's nodes.
        ranker: is trained anew.
        recipe: what goes into the rows.
        distances: of a new dataset, by id of the known one, in the metric of the snapshot's similarities.
        costs: by model id.

    Returns:
        The ranking.

    Raises:
        PredictorError: see `rank_models`.
    """
    recipe = recipe or Recipe()
    if isinstance(dataset, str):
        target, visible = dataset, hide_results(snapshot, dataset)
    else:
        target, visible = dataset.id, add_dataset(snapshot, dataset, distances or {})
    ranked = rank_models(visible, target, embedder, ranker, recipe)
    order = np.lexsort((ranked.models, -ranked.prediction.p_best, ranked.prediction.expected_rank))
    reasons = explain(ranker.contributions(ranked.values), ranked.parts)
    ranking = tuple(
        RankedModel(
            model=ranked.models[row],
            expected_rank=float(ranked.prediction.expected_rank[row]),
            rank_std=float(ranked.prediction.rank_std[row]),
            p_best=float(ranked.prediction.p_best[row]),
            cost=(costs or {}).get(ranked.models[row], Cost()),
            why=reasons[row] if reasons else (),
        )
        for row in order
    )
    return Prediction(
        target, ranking, evidence(visible, target), provenance(visible, target, embedder, ranker, recipe)
    )


def explain(contributions: np.ndarray | None, parts: Sequence[str]) -> list[tuple[Reason, ...]]:
    """Sum the columns' contributions to readable parts, for each row.

    Args:
        contributions: (n_rows, n_columns) of `Ranker.contributions`, or None.
        parts: of each column, see `Rows`.

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
    neighbours = []
    for other in sorted(near, key=lambda name: (sign * near[name], name))[:EVIDENCE_DATASETS]:
        best: tuple[str, ...] = ()
        if other in matrix.datasets:
            measured = matrix.losses[:, matrix.datasets.index(other)]
            order = [row for row in np.argsort(measured, kind="stable") if not np.isnan(measured[row])]
            best = tuple(matrix.models[row] for row in order[:3])
        neighbours.append(Neighbour(other, near[other], best))
    return tuple(neighbours)


def provenance(
    visible: Snapshot, dataset: str, embedder: Embedder, ranker: Ranker, recipe: Recipe
) -> dict[str, Any]:
    """What a prediction was computed from and with, ready for JSON."""
    target = next(known for known in visible.datasets if known.id == dataset)
    return {
        "metric": visible.metric.name,
        "larger_is_better": visible.metric.larger_is_better,
        "similarity": visible.similarity.name if visible.similarity else None,
        "graph": graph_hash(visible),
        "models": len(visible.models),
        "datasets": len(visible.datasets),
        "results": int(visible.performs["value"].notna().sum()),
        "extractor": target.properties.get("extractor"),
        "embedder": {"name": embedder.name, **_settings(embedder)} if recipe.features != "node" else None,
        "ranker": {"name": ranker.name, **_settings(ranker)},
        "recipe": asdict(recipe),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _settings(part: object) -> dict[str, Any]:
    config = getattr(part, "config", None)
    return asdict(config) if config is not None else {}
