"""Rankers behind one interface: from rows of features to a distribution over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranks import checked_distributions, finite_matrix

if TYPE_CHECKING:
    from catboost import CatBoostClassifier

# The multiples of no other number spread as evenly over the unit interval.
GOLDEN_RATIO = (5**0.5 - 1) / 2
# CatBoost is not made for two threads at once: they share a stack of loggers, and now and then it crashes.
_ALONE = Lock()


class Ranker(Protocol):
    """Learns the distribution of a model's rank from a row of features.

    An implementation must be deterministic: the same rows and targets give the same probabilities, bit for
    bit.
    """

    name: str

    def fit(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Learn from rows (n_rows, n_columns) and their class shares (n_rows, n_classes)."""

    def predict_distribution(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities, float64, (n_rows, n_classes); rows sum to 1."""

    def contributions(self, rows: np.ndarray) -> np.ndarray | None:
        """How far each column lifts each row towards the top, (n_rows, n_columns), or None if unknown."""


@dataclass(frozen=True)
class CatBoostConfig:
    """The paper's estimator with everything fixed that could change its result.

    Attributes:
        iterations: trees (the paper's Table 7: 300).
        depth: of each symmetric tree.
        border_count: thresholds tried for each column. A few hundred rows have few distinct values.
        columns_tried: at each split, on average (CatBoost's `rsm` times the columns). Hundreds of embedding
            columns are nearly redundant: a tenth or a thirtieth of them rank equally well, in less time.
        seed: of the sampling of rows and columns.
        threads: fixed, as another number of threads may give other trees.
    """

    iterations: int = 300
    depth: int = 6
    border_count: int = 32
    columns_tried: int = 8
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("iterations", "depth", "border_count", "columns_tried", "threads"):
            if getattr(self, name) < 1:
                raise InvalidRows(f"{name} must be at least 1, got {getattr(self, name)}")


class CatBoostRanker:
    """Gradient-boosted trees with one class for each rank.

    Where the rows leave nothing to learn (every row in one class, or no column that varies) the answer is the
    distribution of the classes themselves.

    Args:
        config: hyperparameters and seed.

    Source:
        Match & Choose, sections 4.4 and 5.7, Table 7.
    """

    name = "catboost"

    def __init__(self, config: CatBoostConfig | None = None) -> None:
        self.config = config or CatBoostConfig()
        self._prior = np.empty(0)
        self._trees: CatBoostClassifier | None = None
        self._seen = np.empty(0, dtype=np.int64)

    def fit(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Learn from rows (n_rows, n_columns), finite, and their class shares (n_rows, n_classes).

        Raises:
            InvalidRows: for wrong shapes, numbers that are not finite, or no rows.
        """
        values, labels, weights = weighted_examples(rows, targets)
        self._prior = targets.mean(axis=0)
        self._trees = None
        self._seen = np.unique(labels).astype(np.int64)
        if len(self._seen) < 2 or not np.ptp(values, axis=0).any():
            return
        from catboost import CatBoostClassifier

        trees = CatBoostClassifier(
            loss_function="MultiClass",
            classes_count=targets.shape[1],
            iterations=self.config.iterations,
            depth=self.config.depth,
            border_count=self.config.border_count,
            rsm=min(1.0, self.config.columns_tried / values.shape[1]),
            random_seed=self.config.seed,
            thread_count=self.config.threads,
            task_type="CPU",
            allow_writing_files=False,
            verbose=False,
        )
        with _ALONE:
            self._trees = trees.fit(values, labels, sample_weight=weights)

    def predict_distribution(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities, float64, (n_rows, n_classes)."""
        values = finite_matrix(rows, "rows")
        if self._trees is None:
            return np.tile(self._prior, (len(values), 1))
        with _ALONE:
            probabilities = self._trees.predict_proba(values, thread_count=self.config.threads)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def contributions(self, rows: np.ndarray) -> np.ndarray | None:
        """SHAP values of the score that says "near the top", float64, (n_rows, n_columns).

        The score is the weighted sum of the classes' log-odds with weights falling evenly from the best class
        to the worst, so positive lifts a model. SHAP values are additive: a row's contributions and a
        constant sum to its score.
        """
        values = finite_matrix(rows, "rows")
        if self._trees is None:
            return np.zeros(values.shape)
        from catboost import Pool

        with _ALONE:
            shap = self._trees.get_feature_importance(
                Pool(values), type="ShapValues", thread_count=self.config.threads
            )
        # (n_rows, classes seen in training, n_columns + 1); the last column is the expected score.
        return np.einsum("c,rcf->rf", top_weights(len(self._prior))[self._seen], shap[:, :, :-1])


@dataclass(frozen=True)
class ForestConfig:
    """How a forest is trained.

    Attributes:
        trees: of the forest.
        seed: of the sampling of rows and columns.
    """

    trees: int = 300
    seed: int = 0


class ForestRanker:
    """A random forest with one class for each rank: the runner-up of the paper's comparison, many times
    faster.

    Args:
        config: how it is trained.

    Source:
        Match & Choose, Table 7 (RF).
    """

    name = "forest"

    def __init__(self, config: ForestConfig | None = None) -> None:
        self.config = config or ForestConfig()

    def fit(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Learn from rows (n_rows, n_columns), finite, and their class shares (n_rows, n_classes)."""
        from sklearn.ensemble import RandomForestClassifier

        values, labels, weights = weighted_examples(rows, targets)
        self._n_classes = targets.shape[1]
        self._forest = RandomForestClassifier(self.config.trees, random_state=self.config.seed, n_jobs=1)
        self._forest.fit(values, labels, sample_weight=weights)

    def predict_distribution(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities, float64, (n_rows, n_classes)."""
        values = finite_matrix(rows, "rows")
        probabilities = np.zeros((len(values), self._n_classes))
        probabilities[:, self._forest.classes_] = self._forest.predict_proba(values)
        return probabilities

    def contributions(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """None: a forest offers no exact additive contributions."""
        return None


def top_weights(n_classes: int) -> np.ndarray:
    """Each class's weight in the score that says "near the top": even steps, sum 0, absolute sum 2."""
    centred = (n_classes - 1) / 2 - np.arange(n_classes)
    size = np.abs(centred).sum()
    return 2 * centred / size if size else centred


def spread_rows(groups: np.ndarray, ranks: np.ndarray, most: int) -> np.ndarray:
    """Choose which rows to learn from where there are more than can be held.

    Each group gives the same share of its rows, at least two, at even steps of its ranking, which begin
    elsewhere in each group, so that each class keeps its share. Nothing is random.

    Args:
        groups: (n_rows,), which dataset each row belongs to.
        ranks: float64, (n_rows,), within the groups.
        most: how many rows to choose, but for rounding and those two.

    Returns:
        int64, rising row numbers; all of them if there are no more than `most`.
    """
    if len(groups) <= most:
        return np.arange(len(groups))
    order = np.lexsort((ranks, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(np.asarray(groups)[order]) != 0])
    chosen = []
    for number, own in enumerate(np.split(order, starts[1:]), start=1):
        count = min(len(own), max(2, round(len(own) * most / len(groups))))
        first = number * GOLDEN_RATIO % 1
        chosen.append(own[((np.arange(count) + first) * len(own) / count).astype(np.int64)])
    return np.sort(np.concatenate(chosen))


def weighted_examples(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One weighted example for each class that a row has a share in."""
    values, shares = finite_matrix(rows, "rows"), checked_distributions(targets)
    if len(values) != len(shares):
        raise InvalidRows(f"{len(values)} rows for {len(shares)} targets")
    index, labels = np.nonzero(shares)
    return values[index], labels, shares[index, labels]
