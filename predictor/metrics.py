"""Quality of a predicted ranking of models: OSR, weighted Kendall tau, O2B and O2O.

Kernels over NumPy arrays: they know no graph. Two conventions hold throughout.

Orientation. Everything is a *loss*: smaller is better. Bring measured values into that form with `losses`
(a larger-is-better metric such as accuracy changes its sign), so that smaller O2B and O2O are better for
every metric. A predicted score is a loss as well, such as an expected rank; only the order of predicted
scores matters.

Ties. A method that puts several models first selects one of them uniformly at random, and its figures are the
expectation over that choice; so the figures never depend on the order in which the models are listed. A
prediction that ties all models is thus the random choice, whose figures come out analytically.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb.weights import average_ranks
from matchgraph.predictor.errors import InvalidRows

if TYPE_CHECKING:
    from matchgraph.stats.intervals import Interval


@dataclass(frozen=True)
class SelectionMetric:
    """A figure of merit of model selection, with its direction and range.

    Attributes:
        key: its name in tables and JSON.
        title: its readable name, as in the paper.
        larger_is_better: its direction.
        low: the smallest value it can take.
        high: the largest value it can take.
    """

    key: str
    title: str
    larger_is_better: bool
    low: float
    high: float


OSR = SelectionMetric("osr", "OSR", True, 0.0, 1.0)
TAU = SelectionMetric("tau_w", "Kendall τ_w", True, -1.0, 1.0)
O2B = SelectionMetric("o2b", "O2B", False, -np.inf, np.inf)
O2O = SelectionMetric("o2o", "O2O", False, 0.0, np.inf)
SELECTION_METRICS = (OSR, TAU, O2B, O2O)
TAU_SCIPY = SelectionMetric("tau_scipy", "Kendall τ, SciPy's weights", True, -1.0, 1.0)


def losses(values: np.ndarray, larger_is_better: bool) -> np.ndarray:
    """Measured values as losses: the sign is changed where larger is better.

    Args:
        values: float64, any shape; NaN stays NaN.
        larger_is_better: the metric's direction.

    Returns:
        float64 of the same shape, smaller is better.
    """
    array = np.asarray(values, dtype=np.float64)
    return -array if larger_is_better else array.copy()


def selected(predicted: np.ndarray) -> np.ndarray:
    """Which models are tied in first place, one of which the method selects at random.

    Args:
        predicted: float64, (n_models,), smaller is better. NaN says that the method does not rank this model:
            it
            is selected only where the method ranks none.

    Returns:
        bool, (n_models,), at least one True.

    Raises:
        InvalidRows: for no model at all.
    """
    scores = _unranked_last(_vector(predicted, "predicted scores"))
    return scores == scores.min()


def optimal_selection(predicted: np.ndarray, truth: np.ndarray) -> float:
    """1 if the selected model is the best one, else 0; the mean over datasets is the optimal selection ratio.

    Where several models share the optimum, selecting any of them counts as success. With ties in the
    prediction it is the share of the tied models that are optimal.

    Args:
        predicted: float64, (n_models,), predicted losses.
        truth: float64, (n_models,), measured losses, finite.

    Returns:
        The chance of having selected an optimal model, in [0, 1].

    Raises:
        InvalidRows: for unequal lengths, no model, or a truth that is not finite.

    Source:
        Match & Choose, section 5.1 (OSR).
    """
    scores, measured = _pair(predicted, truth)
    return float((measured == measured.min())[selected(scores)].mean())


def weighted_tau(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Weighted Kendall tau between predicted and measured order; disagreement about good models weighs more.

    `scipy.stats.weightedtau` with additive hyperbolic weights: a pair of models weighs w_i + w_j, where w = 1
    / r and r is the model's *true* rank, 1 for the best (the losses are negated first, as larger means better
    there). SciPy's default averages that with the weighting by predicted rank; we weigh by the truth alone,
    so that all methods are measured by one scale.

    Models tied in truth share the average of their ranks. Pairs tied in one of the rankings count for neither
    side, and the denominator is that of tau-b, so equal groups in both rankings still give 1. A prediction
    that ties all models claims no order and gets 0, which is also the expectation of a random order. NaN
    predictions are tied in last place.

    Args:
        predicted: float64, (n_models,), predicted losses.
        truth: float64, (n_models,), measured losses, finite.

    Returns:
        A number in [-1, 1]; NaN where it is not defined: fewer than two models, or all of them tied in truth.

    Raises:
        InvalidRows: for unequal lengths, no model, or a truth that is not finite.

    Source:
        Match & Choose, section 5.1, which leaves the weighting open; S. Vigna, "A weighted correlation index
        for rankings with ties", WWW 2015, is what SciPy implements.
    """
    from scipy.stats import weightedtau

    scores, measured, undecided = _comparable(predicted, truth)
    if undecided is not None:
        return undecided
    weights = 1.0 / average_ranks(measured)
    # SciPy wants integer ranks, but ties share fractional ones. So each model gets its index as rank, and the
    # weigher looks the weight up.
    result = weightedtau(
        -_dense(scores), -_dense(measured), rank=np.arange(len(weights)), weigher=lambda index: weights[index]
    )
    return float(np.clip(result.statistic, -1.0, 1.0))


def weighted_taus(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`weighted_tau` of many predictions at once, of few models: work and memory grow with their square.

    Args:
        scores: float64, (n_predictions, n_models), predicted losses, finite.
        truth: float64, (n_models,), measured losses, finite and not all equal.

    Returns:
        float64, (n_predictions,).
    """
    one, other = np.triu_indices(len(truth), 1)
    weights = 1.0 / average_ranks(truth)
    weights = weights[one] + weights[other]
    order = np.sign(truth[one] - truth[other])
    predicted = np.sign(scores[:, one] - scores[:, other])
    sizes = np.abs(predicted) @ weights * (np.abs(order) @ weights)
    return np.where(sizes > 0, predicted @ (order * weights) / np.sqrt(np.where(sizes > 0, sizes, 1.0)), 0.0)


def scipy_tau(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Weighted Kendall tau as `scipy.stats.weightedtau` has it by default, which other papers report.

    It is the mean of two, weighted by the true and by the predicted ranks, where `weighted_tau` weighs by the
    true ones alone. Otherwise see there.

    Args:
        predicted: float64, (n_models,), predicted losses.
        truth: float64, (n_models,), measured losses, finite.

    Returns:
        A number in [-1, 1]; 0 for a prediction that ties all models, NaN where it is not defined.

    Raises:
        InvalidRows: for unequal lengths, no model, or a truth that is not finite.
    """
    from scipy.stats import weightedtau

    scores, measured, undecided = _comparable(predicted, truth)
    if undecided is not None:
        return undecided
    return float(weightedtau(-_dense(scores), -_dense(measured)).statistic)


def after_measuring(predicted: np.ndarray, truth: np.ndarray, count: int) -> tuple[float, float]:
    """What comes of measuring the first models and taking the best of them.

    Args:
        predicted: float64, (n_models,), predicted losses; of models tied at the end of the list, each choice
            is equally likely.
        truth: float64, (n_models,), measured losses, finite.
        count: how many are measured, at least 1; more than there are count as all.

    Returns:
        The chance that a best model is among them, and the expected loss of the best of them minus the
        smallest loss, in the metric's own unit.

    Raises:
        InvalidRows: for unequal lengths, no model, a truth that is not finite, or a count below 1.
    """
    scores, measured = _pair(predicted, truth)
    if count < 1:
        raise InvalidRows(f"at least 1 model has to be measured, got {count}")
    scores = _unranked_last(scores)
    count = min(count, len(scores))
    last = np.sort(scores)[count - 1]
    sure, tied = measured[scores < last], np.sort(measured[scores == last])
    left = count - len(sure)
    # The smallest of a random choice is the i-th of those tied if the rest come from after it.
    chances = np.array([comb(len(tied) - i - 1, left - 1) for i in range(len(tied))]) / comb(len(tied), left)
    best = np.minimum(tied, sure.min(initial=np.inf))
    return float(chances @ (best == measured.min())), float(chances @ best - measured.min())


def outscore_to_best(predicted: np.ndarray, truth: np.ndarray, average: np.ndarray) -> float:
    """O2B: the loss of the selected model minus that of the model best on average, both on this dataset.

    The paper's "difference of the predicted best model's score with best model over all datasets on average"
    can be read in two ways: the average may belong to the score (mean score of the best model) or to the
    model (the model that is best on average). Its Table 3 gives the Overall baseline an O2B of exactly 0.0,
    which only the second reading does, and its explanation ("the selected models actually perform better than
    it on average") says the same. Negative is better. As everything here is a loss, the sign is already
    flipped for larger-is-better metrics.

    Args:
        predicted: float64, (n_models,), predicted losses.
        truth: float64, (n_models,), measured losses, finite.
        average: float64, (n_models,), the models' average losses. In a leave-one-out evaluation they come
            from the other datasets only: a
            reference chosen with the held-out values would know more than any method may.

    Returns:
        The difference in the metric's own unit; 0 when both select the same model.

    Raises:
        InvalidRows: for unequal lengths, no model, or a truth that is not finite.

    Source:
        Match & Choose, section 5.1 (O2B) and Table 3.
    """
    scores, measured = _pair(predicted, truth)
    reference, _ = _pair(average, truth)
    return float(measured[selected(scores)].mean() - measured[selected(reference)].mean())


def outscore_to_optimal(predicted: np.ndarray, truth: np.ndarray) -> float:
    """O2O: the loss of the selected model minus the smallest loss on this dataset; 0 is perfect.

    Args:
        predicted: float64, (n_models,), predicted losses.
        truth: float64, (n_models,), measured losses, finite.

    Returns:
        The difference in the metric's own unit, at least 0.

    Raises:
        InvalidRows: for unequal lengths, no model, or a truth that is not finite.

    Source:
        Match & Choose, section 5.1 (O2O).
    """
    scores, measured = _pair(predicted, truth)
    return float((measured - measured.min())[selected(scores)].mean())


def interval_as_dict(interval: Interval) -> dict[str, float | int | None]:
    """A mean over datasets with its interval and how many datasets count, ready for JSON."""
    ends = {"mean": interval.value, "low": interval.low, "high": interval.high}
    return {**without_nan(ends), "folds": interval.count}


def without_nan(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures ready for JSON: None for what is not defined."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in figures.items()
    }


def _vector(values: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise InvalidRows(f"{what} must be a non-empty vector, got shape {array.shape}")
    return array


def _comparable(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Two rankings as a tau compares them, and the tau where one of them ties all models."""
    scores, measured = _pair(predicted, truth)
    if len(measured) < 2 or np.all(measured == measured[0]):
        return scores, measured, float("nan")
    scores = _unranked_last(scores)
    return scores, measured, 0.0 if np.all(scores == scores[0]) else None


def _pair(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, measured = _vector(predicted, "predicted scores"), _vector(truth, "measured values")
    if len(scores) != len(measured):
        raise InvalidRows(f"{len(scores)} predicted scores for {len(measured)} measured values")
    if not np.isfinite(measured).all():
        raise InvalidRows("measured values must be finite: leave out the models that were not measured")
    return scores, measured


def _unranked_last(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), np.inf, scores)


def _dense(values: np.ndarray) -> np.ndarray:
    """Dense ranks as floats: the same order and ties, without infinities."""
    return np.unique(values, return_inverse=True)[1].astype(np.float64)
