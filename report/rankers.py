"""The rankers of the paper's Table 7 that lost: support vectors, a perceptron and XGBoost.

They are compared with, and nothing else: CatBoost and the forest, which predictions use, are
`predictor.ranker`'s.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranker import (
    CatBoostConfig,
    CatBoostRanker,
    ForestConfig,
    ForestRanker,
    weighted_examples,
)

if TYPE_CHECKING:
    from matchgraph.predictor.ranker import Ranker

TREES = 300


@dataclass(frozen=True)
class ComparedConfig:
    """What could change the answer of a compared ranker.

    Attributes:
        seed: of everything random.
        settings: the estimator's parameters that are not its library's defaults.
    """

    seed: int
    settings: tuple[tuple[str, Any], ...]


class ClassifierRanker:
    """A classifier of scikit-learn's form, with one class for each rank.

    Classes that no training row has get no chance, and where all rows are of one class that one is the
    answer. A row with shares in several classes (see `predictor.ranks.RankClasses`) counts in each by its
    share.

    Args:
        name: of the ranker.
        config: its seed and settings.
    """

    def __init__(self, name: str, config: ComparedConfig) -> None:
        if name not in COMPARED:
            raise InvalidRows(f"unknown ranker {name!r}: choose one of {', '.join(COMPARED)}")
        self.name, self.config = name, config
        self._estimator: Any = None
        self._known = np.empty(0, dtype=int)
        self._n_classes = 0

    def fit(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Learn from rows (n_rows, n_columns), finite, and their class shares (n_rows, n_classes)."""
        values, labels, shares = weighted_examples(rows, targets)
        self._n_classes = targets.shape[1]
        # XGBoost wants the labels 0, 1, 2... without a gap.
        self._known, dense = np.unique(labels, return_inverse=True)
        self._estimator = None
        if len(self._known) < 2:
            return
        self._estimator = _estimator(self.name, self.config)
        with warnings.catch_warnings():
            # A perceptron that stops at its last pass over the rows says so on every fold.
            warnings.simplefilter("ignore")
            self._estimator.fit(values, dense, sample_weight=shares)

    def predict_distribution(self, rows: np.ndarray) -> np.ndarray:
        """Class probabilities, float64, (n_rows, n_classes); rows sum to 1."""
        probabilities = np.zeros((len(rows), self._n_classes))
        if self._estimator is None:
            probabilities[:, self._known] = 1.0
            return probabilities
        probabilities[:, self._known] = self._estimator.predict_proba(rows)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def contributions(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """None: these are compared, not explained."""
        return None


# Settings that the paper names (section 5.7, Table 7): a radial basis function kernel for SVC, a hidden
# dimension of 256 for the MLP; the rest are the libraries' defaults, with as many trees as CatBoost has.
COMPARED: dict[str, tuple[tuple[str, Any], ...]] = {
    "svc": (("kernel", "rbf"),),
    "mlp": (("hidden_layer_sizes", (256,)),),
    "xgboost": (("n_estimators", TREES), ("max_depth", 6), ("max_bin", 32), ("colsample_bynode", 0.1)),
}
TITLES = {
    "svc": "SVC",
    "mlp": "MLP",
    "forest": "Random forest",
    "xgboost": "XGBoost",
    "catboost": "CatBoost",
}


def compared_ranker(name: str, seed: int) -> Ranker:
    """A ranker of Table 7 by its name, `TITLES`.

    Raises:
        InvalidRows: an unknown name.

    Source:
        Match & Choose, section 5.7, Table 7.
    """
    match name:
        case "catboost":
            return CatBoostRanker(CatBoostConfig(iterations=TREES, seed=seed))
        case "forest":
            return ForestRanker(ForestConfig(TREES, seed))
    return ClassifierRanker(name, ComparedConfig(seed, COMPARED.get(name, ())))


class _ScoredSvc:
    """A support vector classifier with chances: the softmax of its one-against-rest scores.

    Platt's scaling, the usual way, needs several rows of each class in every one of its inner folds, which
    datasets of ten models do not have.
    """

    def __init__(self, seed: int, **settings: Any) -> None:
        from sklearn.svm import SVC

        self._svc = SVC(**settings, decision_function_shape="ovr", random_state=seed)

    def fit(self, rows: np.ndarray, labels: np.ndarray, sample_weight: np.ndarray) -> None:
        self._svc.fit(rows, labels, sample_weight=sample_weight)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        from scipy.special import softmax

        scores = self._svc.decision_function(rows)
        if scores.ndim == 1:
            scores = np.column_stack([-scores, scores])
        return softmax(scores, axis=1)


def _estimator(name: str, config: ComparedConfig) -> Any:
    settings = dict(config.settings)
    match name:
        case "svc":
            return _ScoredSvc(config.seed, **settings)
        case "mlp":
            from sklearn.neural_network import MLPClassifier

            return MLPClassifier(**settings, random_state=config.seed)
        case _:
            from xgboost import XGBClassifier

            return XGBClassifier(**settings, random_state=config.seed, n_jobs=1, verbosity=0)
