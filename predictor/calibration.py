"""Calibration of the probabilities of being best, and sets that contain the best model.

Both need folds of a leave-one-dataset-out evaluation, in each of which a method gave every model a chance of
being best (`Fold.p_best`) and measurements say which one was. Sets are never judged by a fold that they were
learned from: `conformal_coverage` leaves each fold out in turn.

Where only some models were measured on a dataset, only they can have been found best. Reliability is then
that of their chances given that the best is one of them. A prediction set is made from the chances among the
whole zoo, which errs on the side of larger sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.stats.intervals import Interval, bootstrap, mean_interval

if TYPE_CHECKING:
    from matchgraph.predictor.folds import Fold

BINS = 10
RESAMPLES = 2000
# What rounding may add to (n + 1) c where that is a whole number on paper.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Bin:
    """Probabilities of similar size, and the observed share of best models.

    Attributes:
        low: the least chance in it.
        high: the greatest.
        predicted: their mean.
        observed: share of them whose model was the best, where several tie each counts as a part of one;
            with its 95 % interval over datasets.
        pairs: how many (model, dataset) pairs are in it.
    """

    low: float
    high: float
    predicted: float
    observed: Interval
    pairs: int


@dataclass(frozen=True)
class PredictionSet:
    """The smallest set of models that contains the best one with a confidence.

    Attributes:
        models: their ids, the most likely first.
        confidence: that was asked for.
        least_chance: the chance of being best from which on a model is in the set; 0 where all are.
        folds: datasets that it was learned from.
        attainable: the highest confidence for which this number of datasets gives a set without all models.
        reason: why the set is all models; None where it is not for want of datasets.
    """

    models: tuple[str, ...]
    confidence: float
    least_chance: float
    folds: int
    attainable: float
    reason: str | None = None


@dataclass(frozen=True)
class Coverage:
    """Coverage and size of prediction sets on held-out datasets.

    Attributes:
        confidence: that was asked for.
        coverage: share of the datasets whose set contains a best model.
        size: models in a set.
        attainable: see `PredictionSet`, of the sets that were measured.
    """

    confidence: float
    coverage: Interval
    size: Interval
    attainable: float


def reliability(folds: Sequence[Fold], *, bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability curve of the probabilities of being best.

    Args:
        folds: of an evaluation.
        bins: how many bins of equally many pairs; fewer where many chances are equal, which share a bin, and
            where there would be fewer than four pairs for each.

    Returns:
        The bins, by rising chance.

    Raises:
        NotEnoughResults: there is no fold.
        InvalidRows: `bins` is below 1.
    """
    table = _Table.of(folds)
    kept = ~np.isnan(table.chances)
    numbers = _bin_numbers(table.chances, kept, bins)
    inside = [numbers == number for number in np.unique(numbers[kept])]
    # (n_folds, n_bins): of each dataset, how many of its pairs are in a bin, and how many of them came true.
    pairs = np.stack([own.sum(axis=1) for own in inside], axis=1)
    hits = np.stack([np.where(own, table.best, 0.0).sum(axis=1) for own in inside], axis=1)

    def shares(weights: np.ndarray) -> np.ndarray:
        drawn = weights @ pairs
        return np.divide(weights @ hits, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)

    observed = bootstrap(shares, len(folds), resamples=RESAMPLES)
    chances = (table.chances[own] for own in inside)
    return tuple(
        Bin(float(own.min()), float(own.max()), float(own.mean()), share, len(own))
        for own, share in zip(chances, observed, strict=True)
    )


def expected_calibration_error(folds: Sequence[Fold], *, bins: int = BINS) -> Interval:
    """The mean distance of chances from how often they come true, over the bins of `reliability` by their
    pairs.

    Few datasets leave it above 0 for perfect chances too, as the observed shares vary. Resamples vary once
    more, so where the error is next to 0 the interval lies above it; its lower end is then the error itself.

    Args:
        folds: of an evaluation.
        bins: see `reliability`.

    Returns:
        The error with its 95 % interval.

    Raises:
        NotEnoughResults: there is no fold.

    Source:
        Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks", eq.
        5; with bins of equal mass, since most of many chances are small.
    """
    table = _Table.of(folds)
    kept = ~np.isnan(table.chances)
    numbers = _bin_numbers(table.chances, kept, bins)
    # (n_folds, n_bins): what each dataset adds to each bin's sum of chances minus outcomes.
    gaps = np.stack(
        [
            np.where(numbers == number, table.chances - table.best, 0.0).sum(axis=1)
            for number in np.unique(numbers[kept])
        ],
        axis=1,
    )
    pairs = kept.sum(axis=1)
    [error] = bootstrap(
        lambda weights: [np.abs(weights @ gaps).sum() / (weights @ pairs)],
        len(gaps),
        resamples=RESAMPLES,
    )
    return replace(error, low=min(error.low, error.value))


def prediction_set(
    p_best: Mapping[str, float], folds: Sequence[Fold], confidence: float, shifted: Sequence[Fold] = ()
) -> PredictionSet:
    """The smallest set of models that contains the best one with a confidence.

    Split conformal prediction, with the chance that a method gave to the model that turned out best as the
    score: of n folds, let t be the k-th largest of these, k = ceil((n + 1) c). A model is in the set if its
    chance is at least t. If the dataset asked about is to the folds' as these are to each other, the set
    holds its best model with probability c or more, whether the chances are calibrated or not; on average
    over datasets, not on each kind of them. Equal chances are in or out together, so nothing is random. For
    n folds k may exceed n, when no set but all models is sure enough: 0.9 takes 9 datasets, 0.99 takes 99.

    Folds learn from one dataset fewer than the prediction does, so they are a bit harder, which makes sets a
    bit larger than they need be.

    Args:
        p_best: the chance of each model of the zoo for the dataset asked about.
        folds: of an evaluation by the same method; the dataset asked about must not be among them.
        confidence: c, in (0, 1).
        shifted: folds of the same datasets with all of their kind held out together. Where t is smaller by
            these, that counts, so that the promise also holds for a dataset of a new kind.

    Returns:
        The set, never empty: the most likely model is always in it.

    Raises:
        InvalidRows: a confidence outside (0, 1), or no model.

    Source:
        Vovk, Gammerman and Shafer 2005; the score is that of Sadinle, Lei and Wasserman 2019, "Least
        Ambiguous Set-Valued Classifiers With Bounded Error Levels", whose sets are the smallest on average
        that cover.
    """
    if not 0 < confidence < 1:
        raise InvalidRows(f"a confidence must be above 0 and below 1, got {confidence}")
    if not p_best:
        raise InvalidRows("a prediction set needs a model to choose from")
    scores = np.sort([_chance_of_best(fold) for fold in folds])[::-1]
    place = int(np.ceil((len(scores) + 1) * confidence - ROUNDING))
    attainable = len(scores) / (len(scores) + 1)
    reason = None
    if place > len(scores):
        least = 0.0
        reason = (
            f"{len(scores)} other datasets with results allow no confidence above {attainable:.1%}, so all "
            f"{len(p_best)} models are in the set; {confidence:g} needs {_folds_needed(confidence)}"
        )
    else:
        least = float(scores[place - 1])
    if shifted and place <= len(shifted):
        least = min(least, float(np.sort([_chance_of_best(fold) for fold in shifted])[::-1][place - 1]))
    least = min(least, max(p_best.values()))
    ranked = sorted(p_best, key=lambda model: (-p_best[model], model))
    chosen = tuple(model for model in ranked if p_best[model] >= least)
    return PredictionSet(chosen, confidence, least, len(scores), attainable, reason)


def conformal_coverage(
    folds: Sequence[Fold], confidence: float, groups: Mapping[str, str] | None = None
) -> Coverage:
    """Share of prediction sets that contain the best model, each calibrated on all other folds.

    Over all datasets that is near the confidence by counting, as each is one of those that the others' sets
    are made from. With groups it is not: a set is calibrated on other groups alone.

    Args:
        folds: of an evaluation.
        confidence: of the sets, in (0, 1).
        groups: the group of each dataset, of which the folds are without results; None for each its own.

    Returns:
        Coverage and size, with 95 % intervals over datasets.

    Raises:
        NotEnoughResults: there is no fold.
        InvalidRows: a confidence outside (0, 1).
    """
    if not folds:
        raise NotEnoughResults("There is no fold to measure coverage on: hold out at least one dataset.")
    group = {fold.dataset: fold.dataset for fold in folds} | dict(groups or {})
    sets = [
        prediction_set(
            fold.p_best,
            [other for other in folds if group[other.dataset] != group[fold.dataset]],
            confidence,
        )
        for fold in folds
    ]
    held = [bool(set(own.models) & set(fold.best)) for own, fold in zip(sets, folds, strict=True)]
    sizes = [len(own.models) for own in sets]
    return Coverage(
        confidence,
        mean_interval(np.array(held, dtype=np.float64)),
        mean_interval(np.array(sizes, dtype=np.float64)),
        sets[0].attainable,
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """The folds as matrices.

    Attributes:
        chances: float64, (n_folds, n_models), of the measured models, summing to 1 in each row; NaN for the
            others.
        best: float64, (n_folds, n_models), 1 / (number of best models) for these, 0 for the others.
    """

    chances: np.ndarray
    best: np.ndarray

    @staticmethod
    def of(folds: Sequence[Fold]) -> _Table:
        if not folds:
            raise NotEnoughResults("There is no fold to judge chances by: hold out at least one dataset.")
        models = {model: column for column, model in enumerate(sorted({m for f in folds for m in f.p_best}))}
        chances = np.full((len(folds), len(models)), np.nan)
        best = np.zeros(chances.shape)
        for row, fold in enumerate(folds):
            measured = [models[model] for model in fold.losses]
            chances[row, measured] = _shares(np.array([fold.p_best[model] for model in fold.losses]))
            best[row, [models[model] for model in fold.best]] = 1 / len(fold.best)
        return _Table(chances, best)


def _shares(values: np.ndarray) -> np.ndarray:
    """Values as shares of their sum; equal ones where all are 0."""
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1 / len(values))


def _bin_numbers(chances: np.ndarray, kept: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each kept pair, -1 for the others."""
    if bins < 1:
        raise InvalidRows(f"a reliability curve needs at least 1 bin, got {bins}")
    bins = max(1, min(bins, int(kept.sum()) // 4))
    edges = np.quantile(chances[kept], np.linspace(0, 1, bins + 1)[1:-1])
    return np.where(kept, np.searchsorted(edges, chances, side="right"), -1)


def _chance_of_best(fold: Fold) -> float:
    """The probability of the best model; the largest if several are best, as a set needs to contain one."""
    return max(fold.p_best[model] for model in fold.best)


def _folds_needed(confidence: float) -> int:
    return int(np.ceil(confidence / (1 - confidence) - ROUNDING))
