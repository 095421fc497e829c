"""Ways to rank that were thought of beside the product's recipes, as parts that `bench.recipes` compares.

None of them is part of the product; one that wins there would become so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from graphdb.embedding import Embedder, index_graph
from graphdb.node2vecplus import weight_matrix
from graphdb.weights import SHARPNESS
from predictor.baselines import Baseline
from predictor.errors import InvalidRows, NotEnoughResults
from predictor.features import Operator, assemble, dataset_features, model_features
from predictor.gaussian import comparable, scores, without_levels
from predictor.matching import Ranked
from predictor.ranker import RankPrediction, summarise_normal
from predictor.visibility import (
    check_enough,
    hide_results,
    loss_matrix,
    node_names,
    similarities_of,
    similarity_direction,
    weighted_edges,
    without_results,
)

if TYPE_CHECKING:
    import pandas as pd

    from graphdb.models import Snapshot

Learner: TypeAlias = Literal["forest", "regression", "yetirank", "pairlogit"]
LEARNERS: tuple[str, ...] = get_args(Learner)
CATBOOST_LOSSES = {"regression": "RMSE", "yetirank": "YetiRank", "pairlogit": "PairLogit"}
Weights: TypeAlias = Literal["rank", "value", "inverse"]
WEIGHTS: tuple[str, ...] = get_args(Weights)
TREES = 100


class BaselineMatcher:
    """A baseline as a method, so that it can be chosen like any other; models that it ties are tied.

    Args:
        baseline: one that needs nothing measured on the dataset.
        seed: of it.
    """

    needs_similarities = False

    def __init__(self, baseline: Baseline, seed: int = 0) -> None:
        self.name, self._baseline, self._seed = baseline.key, baseline, seed

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:  # noqa: ARG002
        """See `predictor.matching.Matcher.rank`."""
        visible = without_results(visible, datasets)
        nothing = np.full(len(visible.models), np.nan)
        models = tuple(model.id for model in visible.models)
        ranked = {}
        for dataset in datasets:
            losses = self._baseline.predict(visible, dataset, nothing, self._seed)
            ranked[dataset] = Ranked(models, by_order(nothing if losses is None else losses))
        return ranked

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return {"baseline": self.name}


class NearestMatcher:
    """The mean score of each model over the k datasets most alike, weighed by how much alike they are.

    Args:
        k: how many of the datasets with a measured similarity count.
        sharpness: of the weight exp(-sharpness * distance / median distance).
    """

    name = "nearest"
    needs_similarities = False

    def __init__(self, k: int = 5, sharpness: float = 1.0) -> None:
        if k < 1:
            raise InvalidRows(f"k must be at least 1, got {k}")
        self.k, self.sharpness = k, sharpness

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:  # noqa: ARG002
        """See `predictor.matching.Matcher.rank`; models without a result nearby get their mean anywhere."""
        visible = without_results(visible, datasets)
        check_enough(visible)
        matrix = comparable(loss_matrix(visible))
        values, effects = without_levels(scores(matrix, visible.metric))
        ranked = {}
        for dataset in datasets:
            near = similarities_of(visible, dataset)
            known = [d for d in near if d in matrix.datasets]
            sign = -1.0 if similarity_direction(visible) else 1.0
            nearest = sorted(known, key=lambda other: (sign * near[other], other))[: self.k]
            losses = np.nan_to_num(effects, nan=float(np.nanmean(effects)))
            if nearest:
                distances = sign * np.array([near[other] for other in nearest])
                usual = np.median(sign * np.array(list(near.values())))
                weights = np.exp(-self.sharpness * (distances - distances.min()) / (abs(usual) or 1.0))
                own = values[:, [matrix.datasets.index(other) for other in nearest]]
                there = ~np.isnan(own) * weights
                seen = there.sum(axis=1) > 0
                sums = (np.nan_to_num(own) * there).sum(axis=1)
                losses[seen] = sums[seen] / there.sum(axis=1)[seen]
            ranked[dataset] = Ranked(matrix.models, by_order(losses))
        return ranked

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return {"k": self.k, "sharpness": self.sharpness}


@dataclass(frozen=True)
class RowsConfig:
    """How rows are made and learned from.

    Attributes:
        learner: what learns the scores: a forest, or CatBoost by squared error or by a ranking loss within
            each dataset.
        operator: how two node embeddings make that of an edge.
        weights: of the edges: exponential in ranks and distances as the product's, exponential in the values
            themselves, or their inverse.
        hidden_in_turn: whether a training row is embedded without its dataset's results, as the target's is.
        trees: of the learner.
        seed: of the learner.
    """

    learner: Learner = "forest"
    operator: Operator = "concat"
    weights: Weights = "rank"
    hidden_in_turn: bool = False
    trees: int = TREES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS or self.weights not in WEIGHTS or self.trees < 1:
            raise InvalidRows(f"unknown learner or weights, or no trees: {self}")


class RowsMatcher:
    """The paper's rows, with scores in place of rank classes.

    Args:
        embedder: of the graph's nodes.
        config: how rows are made and learned from.
    """

    name = "rows"
    needs_similarities = True

    def __init__(self, embedder: Embedder, config: RowsConfig | None = None) -> None:
        self.embedder, self.config = embedder, config or RowsConfig()

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:  # noqa: ARG002
        """See `predictor.matching.Matcher.rank`."""
        visible = without_results(visible, datasets)
        check_enough(visible)
        matrix = comparable(loss_matrix(visible))
        values, _ = without_levels(scores(matrix, visible.metric))
        measured, columns = np.nonzero(~np.isnan(values))
        pairs = [(matrix.models[m], matrix.datasets[d]) for m, d in zip(measured, columns, strict=True)]
        asked = [(model, dataset) for dataset in datasets for model in matrix.models]
        rows = self._rows(visible, pairs, asked)
        y = values[measured, columns]
        predicted, spread = fitted(self.config, rows[: len(pairs)], y, columns, rows[len(pairs) :])
        n_models = len(matrix.models)
        return {
            dataset: Ranked(
                matrix.models,
                summarise_normal(predicted[i * n_models :][:n_models], np.full(n_models, spread)),
            )
            for i, dataset in enumerate(datasets)
        }

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return asdict(self.config)

    def _rows(
        self, visible: Snapshot, pairs: list[tuple[str, str]], asked: list[tuple[str, str]]
    ) -> np.ndarray:
        models, datasets = model_features(visible.models), dataset_features(visible.datasets)
        base = self._embeddings(visible)

        def made(wanted: list[tuple[str, str]], vectors: dict[str, np.ndarray]) -> np.ndarray:
            return assemble(wanted, models, datasets, vectors, operator=self.config.operator).values

        if not self.config.hidden_in_turn:
            return made(pairs + asked, base)
        blocks = {}
        for dataset in {dataset for _, dataset in pairs}:
            try:
                check_enough(hidden := hide_results(visible, dataset))
            except NotEnoughResults:
                hidden = visible
            own = turned_onto(self._embeddings(hidden), base)
            blocks.update({pair: made([pair], own)[0] for pair in pairs if pair[1] == dataset})
        return np.vstack([*(blocks[pair] for pair in pairs), made(asked, base)])

    def _embeddings(self, visible: Snapshot) -> dict[str, np.ndarray]:
        return self.embedder.embed(node_names(visible), reweighted(visible, self.config.weights))


def reweighted(visible: Snapshot, weights: Weights) -> pd.DataFrame:
    """The graph's edges with weights of another form, see `RowsConfig`."""
    edges = weighted_edges(visible)
    if weights == "rank":
        return edges
    matrix = loss_matrix(visible)
    values = scores(matrix, visible.metric)
    # From 0 for the best on each dataset.
    above = values - np.nanmin(values, axis=0)
    measured, columns = np.nonzero(~np.isnan(values))
    distances = visible.similar["value"].to_numpy(dtype=np.float64)
    distances = distances.max(initial=0) - distances if similarity_direction(visible) else distances
    usual = np.median(distances) if len(distances) and np.median(distances) > 0 else 1.0
    both = np.concatenate([above[measured, columns], distances / usual])
    # Rows of `weighted_edges` come in the same order: results by model and dataset, then similarities.
    form = np.exp(-SHARPNESS / 2 * both) if weights == "value" else 1 / (0.1 + np.maximum(both, 0.0))
    return edges.assign(weight=np.maximum(form, 1e-12))


def turned_onto(vectors: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings turned so that they lie as near as can be to others of the same nodes.

    Walks on two graphs give vectors in two coordinate systems; only after this can rows of both be compared.

    Source:
        P. H. Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    from scipy.linalg import orthogonal_procrustes

    names = sorted(vectors)
    own = np.array([vectors[name] for name in names])
    turn, _ = orthogonal_procrustes(own, np.array([base[name] for name in names]))
    return dict(zip(names, own @ turn, strict=True))


class FastRp:
    """Embeddings by random projection: weighted averages of random vectors over one and two steps.

    It takes milliseconds, and vectors of two graphs with the same nodes lie in the same coordinates.

    Args:
        dimension: length of a vector.
        weights: of the averages over one step, two steps and so on.
        seed: of the random vectors.

    Source:
        Chen et al., "Fast and Accurate Network Embeddings via Very Sparse Random Projection", CIKM 2019.
    """

    name = "fastrp"

    def __init__(
        self, dimension: int = 64, weights: Sequence[float] = (1.0, 1.0, 1.0), seed: int = 0
    ) -> None:
        self.dimension, self.weights, self.seed = dimension, tuple(weights), seed

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `graphdb.embedding.Embedder.embed`; a node without edges gets zeros."""
        graph = index_graph(nodes, edges)
        steps = weight_matrix(graph)
        steps /= np.maximum(steps.sum(axis=1, keepdims=True), 1e-300)
        generator = np.random.default_rng(self.seed)
        size = len(graph.nodes), self.dimension
        own = generator.choice([-1.0, 0.0, 1.0], p=[1 / 6, 2 / 3, 1 / 6], size=size) * np.sqrt(3)
        total = np.zeros(own.shape)
        for weight in self.weights:
            own = steps @ own
            length = np.linalg.norm(own, axis=1, keepdims=True)
            total += weight * own / np.where(length > 0, length, 1.0)
        return dict(zip(graph.nodes, total, strict=True))


class Remembering:
    """An embedder that gives again what it was asked before, told by the content of nodes and edges.

    With two datasets hidden, either may be the target and the other a training dataset: one embedding serves
    both, and all candidates.

    Args:
        embedder: asked for what is new.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.name, self._embedder = embedder.name, embedder
        self._known: dict[int, dict[str, np.ndarray]] = {}
        self.asked = self.computed = 0

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `graphdb.embedding.Embedder.embed`."""
        self.asked += 1
        content = sorted(zip(edges["source"], edges["target"], edges["weight"], strict=True))
        key = hash((tuple(sorted(nodes)), tuple(content)))
        if key not in self._known:
            self.computed += 1
            self._known[key] = self._embedder.embed(nodes, edges)
        return self._known[key]


def fitted(
    config: RowsConfig, rows: np.ndarray, y: np.ndarray, groups: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, float]:
    """Learn scores, smaller is better, and predict those of other rows.

    Returns:
        The predicted scores, and the standard deviation of the scores that were learned from: ranking losses
        tell nothing of their own.
    """
    spread = float(np.std(y)) or 1.0
    if config.learner == "forest":
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(config.trees, random_state=config.seed, n_jobs=1, max_features=0.3)
        return forest.fit(rows, y).predict(wanted), spread
    from catboost import CatBoost, Pool

    order = np.argsort(groups, kind="stable")
    ranking = config.learner != "regression"
    pool = Pool(rows[order], -y[order], group_id=groups[order] if ranking else None)
    trees = CatBoost(
        {
            "loss_function": CATBOOST_LOSSES[config.learner],
            "iterations": config.trees,
            "depth": 4,
            "rsm": 0.1,
            "border_count": 32,
            "random_seed": config.seed,
            "thread_count": 1,
            "allow_writing_files": False,
            "verbose": False,
        }
    ).fit(pool)
    return -trees.predict(wanted), spread


def by_order(losses: np.ndarray) -> RankPrediction:
    """Ranks of losses as a prediction without doubt; NaN is last, the first are as likely to be best."""
    from scipy.stats import rankdata

    ranks = rankdata(np.where(np.isnan(losses), np.inf, losses))
    first = ranks == ranks.min()
    return RankPrediction(ranks, np.zeros(len(ranks)), first / first.sum())


def pooled(predictions: Sequence[RankPrediction]) -> RankPrediction:
    """The mixture of several predictions, each as likely: a linear opinion pool."""
    expected = np.mean([one.expected_rank for one in predictions], axis=0)
    squares = np.mean([one.rank_std**2 + one.expected_rank**2 for one in predictions], axis=0)
    best = np.mean([one.p_best for one in predictions], axis=0)
    return RankPrediction(expected, np.sqrt(np.maximum(squares - expected**2, 0.0)), best)
