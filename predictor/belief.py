"""A Gaussian process over all pairs of model and dataset, for choosing what to measure.

The score y of model m on dataset d, smaller is better, is

    y(m, d) = level(d) + a(m) + g(m, d) + noise,

where a is how good a model is anywhere, g how much better it is on datasets of this kind, and the level, in
which datasets differ, tells nothing about models. Models are similar by their features, datasets by their
recorded similarity. Scores are normal scores of the ranks within each dataset, as ranks are what the
predictor learns. The noise also holds what is particular to a dataset, which does not carry over to a new
one.

It is another process than the one that predicts (`predictor.gaussian`): that one has rows of one model each,
which share their covariance, and this one has all pairs at once, models correlated by their features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.gaussian import rank_scores
from matchgraph.predictor.kernels import dataset_distances, feature_distances, positive_definite
from matchgraph.predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

Pair = tuple[str, str]

# Variance of a model's general standing, of its standing on a kind of dataset, and of the noise; scores have
# a variance of about 1. The first is used until there are enough results to choose by likelihood.
SHARES = ((0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.3, 0.1, 0.6), (0.1, 0.3, 0.6))
# Length scale of the similarity of datasets, in medians of their distances.
REACHES = (1.0, 0.5, 0.25)
# How much of models' standing their features can tell.
FEATURE_SHARES = (0.5, 0.0, 0.9)
LEVEL_VARIANCE = 1.0
# Chosen on other zoos than those it was measured on (bench/README.md): it found the best model a little
# more often than 0 did and ordered as well, both within noise. --share-for-the-best compares.
SHARE_FOR_THE_BEST = 0.5
DRAWS = 500
FEWEST_RESULTS = 20
# A Cholesky factor of this many results takes hundredths of a second, and there are 45 choices.
MOST_RESULTS_FOR_LIKELIHOOD = 400


@dataclass(frozen=True)
class Kernel:
    """The variances and reaches of a belief.

    Attributes:
        general: variance of a model's standing anywhere.
        special: variance of its standing on a kind of dataset.
        noise: variance of what a single measurement has to itself.
        reach: length scale of the similarity of datasets, in medians of their distances.
        feature_share: how much of a model's standing its features can tell.
    """

    general: float
    special: float
    noise: float
    reach: float
    feature_share: float


class Belief:
    """Posterior over all pairs of a zoo, see the module.

    Pair (m, d) has the number m * n_datasets + d, models and datasets in sorted order.

    Args:
        snapshot: the graph, whose results are known.
        kernel: the variances; None to choose them by the likelihood of the results.
    """

    def __init__(self, snapshot: Snapshot, kernel: Kernel | None = None) -> None:
        self.models = tuple(model.id for model in snapshot.models)
        self.datasets = tuple(dataset.id for dataset in snapshot.datasets)
        self._model_distances = feature_distances(snapshot)
        self._dataset_distances = dataset_distances(snapshot)
        known, scores = self._known(snapshot)
        self.results = len(known)
        numbers = np.divmod(known, max(len(self.datasets), 1))
        self.reached = {self.models[m] for m in numbers[0]} | {self.datasets[d] for d in numbers[1]}
        self.kernel = kernel or self._likeliest(known, scores)
        self.covariance = self._prior(self.kernel, np.arange(len(self.models) * len(self.datasets)))
        self.mean = np.zeros(len(self.covariance))
        for start in range(0, len(known), MOST_RESULTS_FOR_LIKELIHOOD):
            part = slice(start, start + MOST_RESULTS_FOR_LIKELIHOOD)
            self._learn(known[part], scores[part])
        # Symmetric, so that its transpose is itself in the order that the in-place update wants.
        self.covariance = np.ascontiguousarray(self.covariance).T
        self.weights = self._weights()
        self._told = np.array(
            [self.weights @ self.contrasts(number) ** 2 for number in range(len(self.covariance))]
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of models and of datasets."""
        return len(self.models), len(self.datasets)

    def number(self, pair: Pair) -> int:
        """The number of a pair."""
        return self.models.index(pair[0]) * len(self.datasets) + self.datasets.index(pair[1])

    def contrasts(self, number: int) -> np.ndarray:
        """Covariance of all contrasts with the score of one pair, (n_pairs,)."""
        return self._centred(self.covariance[:, number])

    def gains(self) -> np.ndarray:
        """By how much a measurement of each pair would reduce the uncertainty."""
        return self._told / (np.diag(self.covariance) + self.kernel.noise)

    def uncertainty(self) -> float:
        """Weighted sum of the variances of all contrasts."""
        return float(self.weights @ self._contrast_variances())

    def chance_of_best(self) -> np.ndarray:
        """Chance of each model to be the best on each dataset, (n_models, n_datasets); columns sum to 1.

        From draws with a fixed seed, in which models are independent of each other.
        """
        spread = np.sqrt(np.maximum(self._contrast_variances(), 0.0)).reshape(self.shape)
        draws = np.random.default_rng(0).standard_normal((DRAWS, *self.shape)) * spread
        best = (draws + self._centred(self.mean).reshape(self.shape)).argmin(axis=1)
        return np.stack([(best == model).mean(axis=0) for model in range(self.shape[0])])

    def measure(self, number: int) -> None:
        """Treat a pair as measured; the covariance does not depend on the value."""
        from scipy.linalg.blas import dger

        column = self.covariance[:, number].copy()
        contrasts = self._centred(column)
        share = column / (column[number] + self.kernel.noise)
        # The squares of the new contrasts, without recomputing those of all pairs.
        weighed = self.weights * contrasts
        self._told += share**2 * (weighed @ contrasts) - 2 * share * (
            self.covariance @ self._centred(weighed)
        )
        # In place: at thousands of pairs this matrix is most of the memory.
        self.covariance = dger(-1.0, column, share, a=self.covariance, overwrite_a=True)

    def _centred(self, columns: np.ndarray) -> np.ndarray:
        """Each column minus its mean over the models of each dataset."""
        per_model = columns.reshape(*self.shape, -1)
        return (per_model - per_model.mean(axis=0)).reshape(columns.shape)

    def _weights(self) -> np.ndarray:
        """How much each contrast counts, 1 on average."""
        chances = self.chance_of_best().reshape(-1) * self.shape[0]
        return (1 - SHARE_FOR_THE_BEST) + SHARE_FOR_THE_BEST * chances

    def _contrast_variances(self) -> np.ndarray:
        per_model = self.covariance.reshape(*self.shape, *self.shape)
        variances = np.empty(self.shape)
        for dataset in range(self.shape[1]):
            own = per_model[:, dataset, :, dataset]
            variances[:, dataset] = np.diag(own) - 2 * own.mean(axis=0) + own.mean()
        return variances.reshape(-1)

    def _learn(self, numbers: np.ndarray, scores: np.ndarray) -> None:
        """Condition on many measurements at once."""
        columns = self.covariance[:, numbers]
        among = columns[numbers] + self.kernel.noise * np.eye(len(numbers))
        self.mean += columns @ np.linalg.solve(among, scores - self.mean[numbers])
        self.covariance -= columns @ np.linalg.solve(among, columns.T)

    def _prior(self, kernel: Kernel, numbers: np.ndarray) -> np.ndarray:
        m, d = np.divmod(numbers, len(self.datasets))
        models = (1 - kernel.feature_share) * np.eye(len(self.models))
        models += kernel.feature_share * np.exp(-((self._model_distances) ** 2) / 2)
        datasets = positive_definite(np.exp(-self._dataset_distances / kernel.reach))
        model_similarity, dataset_similarity = models[np.ix_(m, m)], datasets[np.ix_(d, d)]
        level = LEVEL_VARIANCE * (d[:, None] == d)
        return model_similarity * (kernel.general + kernel.special * dataset_similarity) + level

    def _known(self, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of the measured pairs."""
        matrix = loss_matrix(snapshot)
        scores = rank_scores(matrix)
        rows, columns = np.nonzero(~np.isnan(scores))
        place = np.array([self.datasets.index(dataset) for dataset in matrix.datasets], dtype=int)
        return rows * len(self.datasets) + place[columns], scores[rows, columns]

    def _likeliest(self, known: np.ndarray, scores: np.ndarray) -> Kernel:
        choices = [
            Kernel(*shares, reach, feature_share)
            for shares, reach, feature_share in product(SHARES, REACHES, FEATURE_SHARES)
        ]
        if len(known) < FEWEST_RESULTS:
            return choices[0]
        # Evenly spread, so that all models and datasets are among them.
        chosen = np.unique(np.linspace(0, len(known) - 1, MOST_RESULTS_FOR_LIKELIHOOD).astype(int))
        return max(choices, key=lambda kernel: self._likelihood(kernel, known[chosen], scores[chosen]))

    def _likelihood(self, kernel: Kernel, known: np.ndarray, scores: np.ndarray) -> float:
        """Logarithm of the results' density, up to a constant."""
        factor = np.linalg.cholesky(self._prior(kernel, known) + kernel.noise * np.eye(len(known)))
        whitened = np.linalg.solve(factor, scores)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())
