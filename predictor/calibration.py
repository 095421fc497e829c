"""Whether a chance of being best is what it says, how to mend it, and sets that hold the best model.

All is learned from folds of a leave-one-dataset-out evaluation, in each of which a method gave every model a
chance of being best (`Fold.p_best`) and measurements tell which one was. What is learned is never judged by
a fold that it was learned from: `cross_calibrated` and `conformal_coverage` leave each fold out in turn.

Where only some models were measured on a dataset, only they can have been found best. Reliability is then
that of their chances given that the best is one of them; a prediction set is made from the chances among the
whole zoo, which errs on the side of larger sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.stats.intervals import Interval, bootstrap, mean_interval

if TYPE_CHECKING:
    from matchgraph.predictor.evaluation import Fold

Mending: TypeAlias = Literal["none", "temperature", "isotonic"]
MENDINGS: tuple[str, ...] = get_args(Mending)
# Temperatures that are tried; the middle one is 1.
TEMPERATURES = np.geomspace(1 / 16, 16, 161)
# No method is taken to bet more than this: a chance of 0 that comes true would cost infinitely much.
LEAST_CHANCE = 1e-6
BINS = 10
RESAMPLES = 2000
# What rounding may add to (n + 1) c where that is a whole number on paper.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Bin:
    """Chances of about the same size, and how often they came true.

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
class Calibration:
    """How to mend chances of being best; the order of the models stays.

    Attributes:
        mending: "none"; "temperature", by which chances are taken to the power 1/temperature; or "isotonic",
        by
            which they are read off a rising line.
        temperature: above 1 makes surer chances vaguer, below 1 vaguer ones surer.
        line: points (chance, mended chance) of the rising line, by chance.
    """

    mending: Mending = "none"
    temperature: float = 1.0
    line: tuple[tuple[float, float], ...] = ()

    def apply(self, chances: np.ndarray) -> np.ndarray:
        """Mend the chances of the models of one dataset.

        Args:
            chances: float64, (n_models,), not negative.

        Returns:
            float64, (n_models,), sums to 1.
        """
        values = np.asarray(chances, dtype=np.float64)
        if self.mending == "temperature":
            return _tempered(values, np.array([self.temperature]))[0]
        if self.mending == "isotonic":
            values = np.interp(values, *np.array(self.line).T)
        return _shares(values)


@dataclass(frozen=True)
class PredictionSet:
    """The smallest set of models that holds the best one with a confidence.

    Attributes:
        models: their ids, the most likely first.
        confidence: that was asked for.
        least_chance: the chance of being best from which on a model is in the set; 0 where all are.
        folds: datasets that it was learned from.
        attainable: the highest confidence for which so many datasets give a set that is not all models.
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
    """How prediction sets do on datasets that they were not learned from.

    Attributes:
        confidence: that was asked for.
        coverage: share of the datasets whose set holds a best model.
        size: models in a set.
        attainable: see `PredictionSet`, of the sets that were measured.
    """

    confidence: float
    coverage: Interval
    size: Interval
    attainable: float


def reliability(
    folds: Sequence[Fold], *, only_top: bool = False, bins: int = BINS, seed: int = 0
) -> tuple[Bin, ...]:
    """The reliability curve of the chances of being best.

    Args:
        folds: of an evaluation. only_top: look at the most likely model of each dataset only, and not at all
        (model, dataset) pairs. bins: how many bins of equally many pairs; fewer come where many chances are
        equal, which share a bin, and
            where there would be fewer than four pairs for each.
        seed: of the bootstrap.

    Returns:
        The bins, by rising chance.

    Raises:
        NotEnoughResults: there is no fold.
        InvalidRows: `bins` is below 1.
    """
    table = _Table.of(folds)
    kept = table.top() if only_top else ~np.isnan(table.chances)
    numbers = _bin_numbers(table.chances, kept, bins)
    inside = [numbers == number for number in np.unique(numbers[kept])]
    # (n_folds, n_bins): of each dataset, how many of its pairs are in a bin, and how many of them came true.
    pairs = np.stack([own.sum(axis=1) for own in inside], axis=1)
    hits = np.stack([np.where(own, table.best, 0.0).sum(axis=1) for own in inside], axis=1)

    def shares(weights: np.ndarray) -> np.ndarray:
        drawn = weights @ pairs
        return np.divide(weights @ hits, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)

    observed = bootstrap(shares, len(folds), seed=seed, resamples=RESAMPLES)
    chances = (table.chances[own] for own in inside)
    return tuple(
        Bin(float(own.min()), float(own.max()), float(own.mean()), share, len(own))
        for own, share in zip(chances, observed, strict=True)
    )


def expected_calibration_error(
    folds: Sequence[Fold], *, only_top: bool = False, bins: int = BINS, seed: int = 0
) -> Interval:
    """The mean distance of chances from how often they come true, over the bins of `reliability` by their
    pairs.

    Few datasets leave it above 0 for perfect chances too, as the observed shares vary. Resamples vary once
    more, so where the error is next to 0 the interval lies above it; its lower end is then the error itself.

    Args:
        folds: of an evaluation.
        only_top: see `reliability`.
        bins: see `reliability`.
        seed: of the bootstrap, which draws datasets with replacement.

    Returns:
        The error with its 95 % interval.

    Raises:
        NotEnoughResults: there is no fold.

    Source:
        Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks", eq.
        5; with bins of equal mass, since most of many chances are small.
    """
    table = _Table.of(folds)
    kept = table.top() if only_top else ~np.isnan(table.chances)
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
        seed=seed,
        resamples=RESAMPLES,
    )
    return replace(error, low=min(error.low, error.value))


def fit_calibration(folds: Sequence[Fold]) -> Calibration:
    """Learn how to mend chances of being best, or that they are best left as they are.

    Of no mending, temperature scaling and isotonic regression, the one is taken whose mean log loss is the
    lowest on the folds, each mended by what the others teach; of equals the simplest.

    Args:
        folds: of an evaluation; the dataset predicted for must not be among them.

    Returns:
        The mending; none where there are fewer than two folds.

    Source:
        Temperature: Guo et al. 2017, section 4.2. Isotonic regression: Zadrozny and Elkan 2002,
        "Transforming classifier scores into accurate multiclass probability estimates", on all pairs at
        once, as a dataset has one best model whatever its name.
    """
    if len(folds) < 2:
        return Calibration()
    table = _Table.of(folds)
    losses = table.losses_by_temperature()
    total = losses.sum(axis=1)
    left_out = np.array([losses[np.argmin(total - own), fold] for fold, own in enumerate(losses.T)])
    isotonic = []
    for fold in range(len(folds)):
        others = np.delete(np.arange(len(folds)), fold)
        line = table.isotonic(others)
        isotonic.append(table.loss(fold, Calibration("isotonic", line=line)))
    means = [losses[len(TEMPERATURES) // 2].mean(), left_out.mean(), np.mean(isotonic)]
    mending = MENDINGS[int(np.argmin(means))]
    if mending == "temperature":
        return Calibration(mending, temperature=float(TEMPERATURES[np.argmin(total)]))
    if mending == "isotonic":
        return Calibration(mending, line=table.isotonic(np.arange(len(folds))))
    return Calibration()


def cross_calibrated(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """The folds with their chances mended, each by what all others teach (`fit_calibration`).

    So `reliability` and `expected_calibration_error` of what comes back judge the mending on datasets that
    had no part in it.
    """
    mended = []
    for number, fold in enumerate(folds):
        calibration = fit_calibration([*folds[:number], *folds[number + 1 :]])
        chances = calibration.apply(np.array(list(fold.p_best.values())))
        mended.append(replace(fold, p_best=dict(zip(fold.p_best, chances.tolist(), strict=True))))
    return tuple(mended)


def prediction_set(p_best: Mapping[str, float], folds: Sequence[Fold], confidence: float) -> PredictionSet:
    """The smallest set of models that holds the best one with a confidence.

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
    least = min(least, max(p_best.values()))
    ranked = sorted(p_best, key=lambda model: (-p_best[model], model))
    chosen = tuple(model for model in ranked if p_best[model] >= least)
    return PredictionSet(chosen, confidence, least, len(scores), attainable, reason)


def conformal_coverage(folds: Sequence[Fold], confidence: float, *, seed: int = 0) -> Coverage:
    """How often prediction sets hold the best model, each learned from all folds but the one it is for.

    Args:
        folds: of an evaluation.
        confidence: of the sets, in (0, 1).
        seed: of the bootstrap intervals.

    Returns:
        Coverage and size, with 95 % intervals over datasets.

    Raises:
        NotEnoughResults: there is no fold.
        InvalidRows: a confidence outside (0, 1).
    """
    if not folds:
        raise NotEnoughResults("There is no fold to measure coverage on: hold out at least one dataset.")
    sets = [
        prediction_set(fold.p_best, [*folds[:number], *folds[number + 1 :]], confidence)
        for number, fold in enumerate(folds)
    ]
    held = [bool(set(own.models) & set(fold.best)) for own, fold in zip(sets, folds, strict=True)]
    sizes = [len(own.models) for own in sets]
    return Coverage(
        confidence,
        mean_interval(np.array(held, dtype=np.float64), seed=seed),
        mean_interval(np.array(sizes, dtype=np.float64), seed=seed),
        sets[0].attainable,
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """The folds as matrices.

    Attributes:
        chances: float64, (n_folds, n_models), of the measured models, sums to 1 in each row; NaN for the
        others. best: float64, (n_folds, n_models), 1 / (number of best models) for these, 0 for the others.
    """

    chances: np.ndarray
    best: np.ndarray

    @staticmethod
    def of(folds: Sequence[Fold]) -> _Table:
        if not folds:
            raise NotEnoughResults(
                "There is no fold to learn a calibration from: hold out at least one dataset."
            )
        models = {model: column for column, model in enumerate(sorted({m for f in folds for m in f.p_best}))}
        chances = np.full((len(folds), len(models)), np.nan)
        best = np.zeros(chances.shape)
        for row, fold in enumerate(folds):
            measured = [models[model] for model in fold.losses]
            chances[row, measured] = _shares(np.array([fold.p_best[model] for model in fold.losses]))
            best[row, [models[model] for model in fold.best]] = 1 / len(fold.best)
        return _Table(chances, best)

    def top(self) -> np.ndarray:
        """Where the most likely model of each dataset is, the first of equals."""
        where = np.zeros(self.chances.shape, dtype=bool)
        where[np.arange(len(where)), np.nanargmax(self.chances, axis=1)] = True
        return where

    def loss(self, fold: int, calibration: Calibration) -> float:
        """The log loss of one fold's mended chances."""
        measured = ~np.isnan(self.chances[fold])
        mended = np.maximum(calibration.apply(self.chances[fold][measured]), LEAST_CHANCE)
        return float(-(self.best[fold][measured] * np.log(mended)).sum())

    def losses_by_temperature(self) -> np.ndarray:
        """The log loss of each fold at each temperature, float64, (n_temperatures, n_folds)."""
        losses = np.empty((len(TEMPERATURES), len(self.chances)))
        for fold, (chances, best) in enumerate(zip(self.chances, self.best, strict=True)):
            measured = ~np.isnan(chances)
            mended = np.maximum(_tempered(chances[measured], TEMPERATURES), LEAST_CHANCE)
            losses[:, fold] = -(np.log(mended) @ best[measured])
        return losses

    def isotonic(self, folds: np.ndarray) -> tuple[tuple[float, float], ...]:
        """The rising line nearest to the outcomes of some folds, at least squares."""
        from scipy.optimize import isotonic_regression

        measured = ~np.isnan(self.chances[folds])
        chances, places, pairs = np.unique(
            self.chances[folds][measured], return_inverse=True, return_counts=True
        )
        outcomes = np.bincount(places, self.best[folds][measured]) / pairs
        return tuple(
            zip(chances.tolist(), isotonic_regression(outcomes, weights=pairs).x.tolist(), strict=True)
        )


def _shares(values: np.ndarray) -> np.ndarray:
    """Values as shares of their sum; equal ones where all are 0."""
    total = values.sum()
    return values / total if total > 0 else np.full(len(values), 1 / len(values))


def _tempered(chances: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Chances to the power 1/temperature, sum 1, (n_temperatures, n_models)."""
    logs = np.log(np.maximum(chances, LEAST_CHANCE)) / temperatures[:, None]
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _bin_numbers(chances: np.ndarray, kept: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each kept pair, -1 for the others."""
    if bins < 1:
        raise InvalidRows(f"a reliability curve needs at least 1 bin, got {bins}")
    bins = max(1, min(bins, int(kept.sum()) // 4))
    edges = np.quantile(chances[kept], np.linspace(0, 1, bins + 1)[1:-1])
    return np.where(kept, np.searchsorted(edges, chances, side="right"), -1)


def _chance_of_best(fold: Fold) -> float:
    """The chance of the best model; of several best ones the greatest, as a set needs to hold one."""
    return max(fold.p_best[model] for model in fold.best)


def _folds_needed(confidence: float) -> int:
    return int(np.ceil(confidence / (1 - confidence) - ROUNDING))
