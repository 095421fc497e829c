"""Ranking by a Gaussian process over datasets: a model performs as it did on similar datasets.

The score y of model m on dataset d, smaller is better, is

    y(m, d) = level(d) + standing(m) + g_m(d) + noise,

where the level of a dataset carries no information about models, the standing is the quality of a model on
all datasets, and g_m is its advantage on datasets of this kind. The standing of a model without results is
predicted from its features.
The kernel of datasets mixes the graph's SIMILAR edges and the probe embeddings. Given the levels, models are
independent of each other, so the posterior has a closed form, from one small matrix for each set of datasets
on which some models were measured. Variances and mix are averaged over, each choice weighted by how well it
predicts the results of each dataset from those of the others, which has a closed form as well.

Models are ordered by posterior mean; the probability of being best follows from the posterior with the noise
of a single fine-tuning. The mean is a sum over the kernels, so each part's share of it is known exactly.

Source:
    Gaussian processes and their leave-one-out predictions: Rasmussen and Williams, "Gaussian Processes for
    Machine Learning", 2006, sections 2.2 and 5.4.2. What it learns from, the graph's two kinds of edges and
    the features of its nodes, is that of Match & Choose, section 4; the process in place of its embedding and
    classifier is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from matchgraph.predictor.features import FeatureTable, model_features
from matchgraph.predictor.kernels import embedding_kernel, similarity_kernel
from matchgraph.predictor.matching import Ranked
from matchgraph.predictor.ranks import summarise_normal
from matchgraph.predictor.visibility import LossMatrix, check_enough, loss_matrix, without_results

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Metric, Snapshot
    from matchgraph.predictor.config import FeatureSet

GENERAL = "general"
Scale: TypeAlias = Literal["value", "rank"]

# Variance of a model's standing anywhere and of the noise, in units of that on a kind of dataset; and how
# much of the kernel of datasets comes from their embeddings, the rest from their similarities. With the
# largest standing, kinds of datasets count for nothing.
STANDINGS = (0.3, 1.0, 3.0, 10.0, 100.0)
NOISES = (0.1, 0.3, 1.0, 3.0)
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Ridges on the models' features, whose squared length is about the number of features.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
FEWEST_STANDINGS = 4
# A value further from its dataset's median than that, in robust standard deviations, counts as that far.
FARTHEST = 4.0
# Sweeps that take rows' and columns' means out in turn; a complete matrix needs one.
SWEEPS = 30
# Choices less likely than that against the likeliest are left out.
LEAST_WEIGHT = 1e-3
# Sets of datasets to judge choices by, and matrices to invert for the answer: some milliseconds each.
MOST_PATTERNS = 400
MOST_INVERSES = 5_000


class GaussianMatcher:
    """Ranks by a Gaussian process, see the module.

    It needs no similarities: a dataset that nothing is known of gets the ranking by general standing.

    Args:
        features: what it sees: all, only the graph's edges ("graph"), or only what is known of the nodes
            ("node").
        scale: of the scores: "value", one for all datasets, or "rank", normal scores of the ranks within each
            dataset.
    """

    name = "gaussian"
    needs_similarities = False
    notes: tuple[str, ...] = ()

    def __init__(self, features: FeatureSet = "all", scale: Scale = "value") -> None:
        self.features: FeatureSet = features
        self.scale: Scale = scale

    def learn(self, visible: Snapshot) -> Process:
        """The process, having learned from a graph.

        Raises:
            NotEnoughResults: no dataset has two measured models.
        """
        check_enough(visible)
        matrix = comparable(loss_matrix(visible))
        values = scores(matrix, visible.metric) if self.scale == "value" else rank_scores(matrix)
        place = {dataset.id: index for index, dataset in enumerate(visible.datasets)}
        known = np.array([place[dataset] for dataset in matrix.datasets])
        table = None if self.features == "graph" else model_features(visible.models)
        return Process(values, known, dataset_kernels(visible, self.features), table)

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        """See `predictor.matching.Matcher.rank`."""
        visible = without_results(visible, datasets)
        process = self.learn(visible)
        models = tuple(model.id for model in visible.models)
        place = {dataset.id: index for index, dataset in enumerate(visible.datasets)}
        ranked = {}
        predicted = process.predict([place[dataset] for dataset in datasets])
        for dataset, (mean, std, parts) in zip(datasets, predicted, strict=True):
            # In standard deviations of what is not known, positive for the better.
            lifts = -np.column_stack(list(parts.values())) / std.mean() if explain else None
            if lifts is not None:
                lifts -= lifts.mean(axis=0)
            prediction = summarise_normal(mean, std)
            ranked[dataset] = Ranked(models, prediction, tuple(parts), lifts)
        return ranked

    def quick(self) -> GaussianMatcher:
        """See `predictor.matching.Matcher.quick`."""
        return self

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return {
            "process": {
                "features": self.features,
                "scale": self.scale,
                "standings": STANDINGS,
                "noises": NOISES,
                "mixes": MIXES,
                "ridges": RIDGES,
            }
        }


def dataset_kernels(snapshot: Snapshot, features: FeatureSet) -> dict[str, np.ndarray]:
    """The kernels of datasets, by the part of the input that they come from.

    Args:
        snapshot: the graph.
        features: see `GaussianMatcher`.

    Returns:
        "graph", of the similarities, and "dataset", of embeddings, as far as asked for and known; each
        float64, (n_datasets, n_datasets).
    """
    kernels = {}
    if features != "node" and len(snapshot.similar):
        kernels["graph"] = similarity_kernel(snapshot)
    if features != "graph" and (own := embedding_kernel(snapshot)) is not None:
        kernels["dataset"] = own
    return kernels


def comparable(matrix: LossMatrix) -> LossMatrix:
    """The results on datasets with two measured models: a single one says nothing of its model."""
    columns = np.flatnonzero((~np.isnan(matrix.losses)).sum(axis=0) >= 2)
    datasets = tuple(matrix.datasets[column] for column in columns)
    return LossMatrix(matrix.models, datasets, matrix.losses[:, columns])


def scores(matrix: LossMatrix, metric: Metric) -> np.ndarray:
    """Losses about their dataset's median, on a scale on which those of different datasets compare.

    Args:
        matrix: the losses.
        metric: what they were measured by.

    Returns:
        float64, (n_models, n_datasets), NaN where not measured.
    """
    values = matrix.losses
    if compared_by_ratio(values, metric):
        values = np.log(values)
    values = values - np.nanmedian(values, axis=0)
    # 1.4826 median absolute deviations are a standard deviation of normal values.
    spread = 1.4826 * np.nanmedian(np.abs(values), axis=0)
    usual = np.median(spread[spread > 0]) if (spread > 0).any() else (np.nanmax(np.abs(values)) or 1.0)
    farthest = FARTHEST * np.maximum(spread, usual)
    return np.clip(values, -farthest, farthest) / usual


def compared_by_ratio(values: np.ndarray, metric: Metric) -> bool:
    """Whether values of a metric are compared by their ratios.

    That is so where smaller is better and no value can be negative, as long as all are above 0. Others, such
    as accuracies or unbiased estimates of a distance, are compared by their differences.
    """
    distance = not metric.larger_is_better and metric.minimum is not None and metric.minimum >= 0
    return distance and bool(np.nanmin(values) > 0)


def rank_scores(matrix: LossMatrix) -> np.ndarray:
    """Normal scores of the ranks within each dataset, (n_models, n_datasets), NaN where not measured.

    However far the values of a dataset lie apart, all datasets count the same.
    """
    from scipy.special import ndtri

    return ndtri(matrix.scaled_ranks())


def without_levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values without what is common to their column, and the rows' effects.

    Fits value(m, d) = effect(m) + level(d) by least squares, so that a dataset on which only good models were
    measured does not look like an easy one.

    Args:
        values: float64, (n_models, n_datasets), NaN where not measured.

    Returns:
        The values without levels, of the same shape, and the effects, (n_models,), NaN for a row of gaps.
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    per_row, per_column = np.maximum(known.sum(axis=1), 1), np.maximum(known.sum(axis=0), 1)
    effects, levels = np.zeros(len(values)), np.zeros(values.shape[1])
    for _ in range(1 if known.all() else SWEEPS):
        levels = (filled - known * effects[:, None]).sum(axis=0) / per_column
        effects = (filled - known * levels).sum(axis=1) / per_row
    return values - levels, np.where(known.any(axis=1), effects, np.nan)


@dataclass(frozen=True)
class _Choice:
    """Variances of a process, in units of that of g, and the mix of its kernels."""

    standing: float
    noise: float
    mix: Mapping[str, float]


class Process:
    """The process, having learned from scores on one scale.

    Args:
        values: float64, (n_models, n_known), scores, smaller is better; NaN where not measured.
        known: the numbers of their datasets among those of the kernels.
        kernels: see `dataset_kernels`.
        table: features of the models; None to use none.
    """

    def __init__(
        self,
        values: np.ndarray,
        known: np.ndarray,
        kernels: Mapping[str, np.ndarray],
        table: FeatureTable | None,
    ) -> None:
        self._known, self._kernels = known, kernels
        residuals, effects = without_levels(values)
        self._residuals = residuals - np.nanmean(effects)
        self._expected = feature_standings(table, effects)
        self._patterns = _patterns(~np.isnan(values))
        self._step = max(1, len(self._patterns) // MOST_PATTERNS)
        # Each level was fitted to the results, so that they lie nearer to it than they should.
        results, levels = int((~np.isnan(values)).sum()), values.shape[1]
        self._freedom = (results - levels) / results
        self._weighed = self._likely()

    def _choices(self) -> list[_Choice]:
        mixes: list[dict[str, float]] = [dict.fromkeys(self._kernels, 1.0)]
        if len(self._kernels) == 2:
            mixes = [{"graph": 1 - mix, "dataset": mix} for mix in MIXES]
        return [_Choice(*chosen) for chosen in product(STANDINGS, NOISES, mixes)]

    def _covariance(self, choice: _Choice, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Of the scores of one model without the noise, between datasets by number."""
        total = np.full((len(rows), len(columns)), choice.standing)
        for part, share in choice.mix.items():
            total += share * self._kernels[part][np.ix_(rows, columns)]
        return total

    def _inverse(self, choice: _Choice, columns: np.ndarray) -> np.ndarray:
        own = self._known[columns]
        return np.linalg.inv(self._covariance(choice, own, own) + choice.noise * np.eye(len(own)))

    def _likely(self) -> list[tuple[_Choice, float, float]]:
        """The likelier choices with their weights and the variance of g."""
        outcomes = []
        for choice in self._choices():
            squares = logarithms = count = 0.0
            for rows, columns in self._patterns[:: self._step]:
                inverse = self._inverse(choice, columns)
                precision = np.diag(inverse)
                # Each dataset's score as predicted from the others, against what it was.
                errors = self._residuals[np.ix_(rows, columns)] @ inverse / precision
                squares += (errors**2 * precision).sum()
                logarithms -= len(rows) * np.log(precision).sum()
                count += errors.size
            variance = max(squares / count / self._freedom, np.finfo(float).tiny)
            outcomes.append((choice, -0.5 * (count * np.log(variance) + logarithms), variance))
        best = max(likelihood for _, likelihood, _ in outcomes)
        likely = [
            (c, np.exp(value - best), v) for c, value, v in outcomes if np.exp(value - best) > LEAST_WEIGHT
        ]
        likely.sort(key=lambda one: -one[1])
        likely = likely[: max(1, MOST_INVERSES // len(self._patterns))]
        total = sum(weight for _, weight, _ in likely)
        return [(choice, weight / total, variance) for choice, weight, variance in likely]

    def left_out(self) -> np.ndarray:
        """Each result's mean given the results of the model on all other datasets.

        Returns:
            float64, (n_models, n_known), in closed form; NaN where not measured, and for models of the
            patterns that choices are not judged by.
        """
        means = np.full(self._residuals.shape, np.nan)
        for rows, columns in self._patterns[:: self._step]:
            own = self._residuals[np.ix_(rows, columns)]
            total = np.zeros(own.shape)
            for choice, weight, _ in self._weighed:
                inverse = self._inverse(choice, columns)
                total += weight * (own - own @ inverse / np.diag(inverse))
            means[np.ix_(rows, columns)] = total
        return means

    def predict(self, targets: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """Mean and deviation of all models' scores on each dataset, and what the mean is the sum of."""
        n_models = len(self._residuals)
        parts = [{name: np.zeros(n_models) for name in (GENERAL, *self._kernels)} for _ in targets]
        squares = [np.zeros(n_models) for _ in targets]
        for choice, weight, variance in self._weighed:
            means = [np.zeros(n_models) for _ in targets]
            priors = [self._covariance(choice, at, at)[0, 0] for at in np.array(targets)[:, None]]
            variances = [np.full(n_models, choice.noise + prior) for prior in priors]
            for rows, columns in self._patterns:
                inverse = self._inverse(choice, columns)
                learned = self._residuals[np.ix_(rows, columns)] @ inverse
                own = self._known[columns]
                for number, target in enumerate(targets):
                    shares = {GENERAL: learned.sum(axis=1) * choice.standing}
                    for part, share in choice.mix.items():
                        shares[part] = share * learned @ self._kernels[part][own, target]
                    for part, values in shares.items():
                        parts[number][part][rows] += weight * values
                        means[number][rows] += values
                    across = self._covariance(choice, np.array([target]), own)[0]
                    variances[number][rows] -= across @ inverse @ across
            for square, mean, uncertain in zip(squares, means, variances, strict=True):
                square += weight * (variance * np.maximum(uncertain, choice.noise) + mean**2)
        predicted = []
        nothing = np.zeros(n_models)
        for own_parts, square in zip(parts, squares, strict=True):
            mean = sum(own_parts.values(), nothing)
            std = np.sqrt(np.maximum(square - mean**2, 1e-12))
            own_parts |= self._expected
            predicted.append((sum(own_parts.values(), nothing), std, own_parts))
        return predicted


def feature_standings(table: FeatureTable | None, effects: np.ndarray) -> dict[str, np.ndarray]:
    """Standings of models without results, predicted from their features, by `model:<attribute>`.

    A ridge regression of the others' standings on their features, with the strength that predicts left-out
    models best; empty if no strength does better than the mean.

    Args:
        table: features of all models, in their order; None to expect nothing.
        effects: float64, (n_models,), the models' standings; NaN where not known.

    Returns:
        For each attribute its part of the predicted deviation from the mean standing, (n_models,); 0 for a
        model with results.
    """
    known = ~np.isnan(effects)
    if table is None or not table.columns or known.all() or known.sum() < FEWEST_STANDINGS:
        return {}
    centre = table.values[known].mean(axis=0)
    points = (table.values - centre) / np.sqrt(len(table.columns))
    standings = effects[known] - effects[known].mean()
    left, values, right = np.linalg.svd(points[known], full_matrices=False)
    best, coefficients = (standings**2).mean() * (len(standings) / (len(standings) - 1)) ** 2, None
    for ridge in RIDGES:
        shrunk = values**2 / (values**2 + ridge)
        leverage = 1 / len(standings) + (left**2) @ shrunk
        errors = (standings - left @ (shrunk * (left.T @ standings))) / np.maximum(1 - leverage, 1e-9)
        if (errors**2).mean() < best:
            best = (errors**2).mean()
            coefficients = right.T @ (values / (values**2 + ridge) * (left.T @ standings))
    if coefficients is None:
        return {}
    columns = np.where(known[:, None], 0.0, points * coefficients)
    attributes = np.array(table.attributes)
    return {
        f"model:{name}": columns[:, attributes == name].sum(axis=1) for name in sorted(set(table.attributes))
    }


def _patterns(measured: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The models that were measured on the same datasets, with these: numbers of rows and of columns."""
    packed: dict[bytes, list[int]] = {}
    for row, own in enumerate(measured):
        if own.any():
            packed.setdefault(own.tobytes(), []).append(row)
    return [(np.array(rows), np.flatnonzero(measured[rows[0]])) for rows in packed.values()]
