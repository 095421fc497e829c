"""Chances of success: how likely a candidate's quality on a prompt is enough, or the best of all.

What came of prompts that an estimator did not learn from differs from what was expected of them: of the
validation prompts, and of each training prompt by the others. These differences, with those of one prompt
kept together, stand for what may come of another prompt; nothing is assumed of their distribution. So chances
are right on average over prompts like these, not for each kind of prompt.

Source:
    Vovk, Petej, Nouretdinov, Manokhin, Gammerman, "Computationally efficient versions of conformal predictive
    distributions" (2020): split and cross-conformal predictive distributions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.estimators import NearestPrompts, columns, read_saved, scored_rows, unusable
from matchgraph.routing.process import GaussianQuality
from matchgraph.stats.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.routing.estimators import QualityEstimator
    from matchgraph.training.measure.prompts import EncodedPrompts

SAVED_ERRORS = "matchgraph-errors-1"
# Of fewer errors, chances are not known.
FEWEST_PROMPTS = 10
# Leaving each of more training prompts out takes too long.
MOST_LEFT_OUT = 2_000
# More errors than this are drawn at random: a chance has no more digits.
MOST_PROMPTS = 1_000
BINS = 10


@dataclass(frozen=True, eq=False)
class Errors:
    """What prompts came to, less what was expected of them by others.

    Attributes:
        variants: ids of the candidates, in the order of the columns.
        values: float64, (k, m); NaN where a candidate is not scored.
    """

    variants: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def of(
        cls, estimator: QualityEstimator, table: ScoreTable, validation: EncodedPrompts, seed: int = 0
    ) -> Errors:
        """Compare an estimator with the validation prompts, and with the training prompts one by one.

        Args:
            estimator: fitted on the training prompts.
            table: scores.
            validation: its validation prompts, in its order.
            seed: of the choice among more than `MOST_PROMPTS`.
        """
        names = tuple(variant.id for variant in table.variants)
        expected = columns(estimator.estimate(validation).quality, estimator.variants, names)
        values = table.mean[table.rows("validation")] - expected
        if (
            isinstance(estimator, (NearestPrompts, GaussianQuality))
            and estimator.variants == names
            and len(scored_rows(table)) <= MOST_LEFT_OUT
        ):
            values = np.concatenate([values, estimator.left_out()])
        values = values[~np.isnan(values).all(axis=1)]
        if len(values) > MOST_PROMPTS:
            values = values[np.random.default_rng(seed).choice(len(values), MOST_PROMPTS, replace=False)]
        return cls(names, values)

    def ordered(self, variants: Sequence[str]) -> Errors:
        """The columns of some candidates, in their order; NaN for those that are not known."""
        return Errors(tuple(variants), columns(self.values, self.variants, variants))

    def enough(self, quality: np.ndarray, least: float) -> np.ndarray:
        """How likely each candidate's quality is at least a value.

        Args:
            quality: expected, (n, m).
            least: the value.

        Returns:
            float64, (n, m); NaN where too little is known.
        """
        found = np.full(quality.shape, np.nan)
        for column in range(quality.shape[1]):
            errors = np.sort(self.values[:, column][~np.isnan(self.values[:, column])])
            if len(errors) >= FEWEST_PROMPTS:
                above = len(errors) - np.searchsorted(errors, least - quality[:, column])
                found[:, column] = (above + 0.5) / (len(errors) + 1)
        return np.where(np.isnan(quality), np.nan, found)

    def best(self, quality: np.ndarray) -> np.ndarray:
        """How likely each candidate is the best; of candidates that tie, each counts as a part of one.

        Args:
            quality: expected, (n, m).

        Returns:
            float64, (n, m), whose rows sum to 1 over the candidates with a quality; NaN elsewhere, and in
            rows where too few prompts have errors of all of these.
        """
        found = np.full(quality.shape, np.nan)
        for row, own in enumerate(quality):
            among = np.flatnonzero(~np.isnan(own))
            errors = self.values[:, among]
            errors = errors[~np.isnan(errors).any(axis=1)]
            if len(among) and len(errors) >= FEWEST_PROMPTS:
                wins = winners(own[among] + errors).sum(axis=0)
                found[row, among] = (wins + 1 / len(among)) / (len(errors) + 1)
        return found

    def save(self, path: Path) -> None:
        """Write them as a safetensors file, whole or not at all."""
        from matchgraph.training.files import write_tensors

        facts = {"format": SAVED_ERRORS, "variants": self.variants}
        write_tensors(path, {"values": self.values}, {"estimator": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> Errors:
        """Read what `save` wrote.

        Raises:
            UnusableEstimator: it cannot be read.
        """
        facts, arrays = read_saved(path, SAVED_ERRORS)
        try:
            return cls(tuple(facts["variants"]), arrays["values"])
        except (KeyError, TypeError) as problem:
            raise unusable(path, problem) from None


def winners(values: np.ndarray) -> np.ndarray:
    """1 where a value is the largest of its row, or a part of 1 where several are; (n, m)."""
    largest = values == values.max(axis=1, keepdims=True)
    return largest / largest.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Reliability:
    """Chances against what happened.

    Attributes:
        error: expected calibration error: how far chances are from the share of cases, over bins of a tenth.
            Chances that are right have one, too, the larger the fewer prompts there are.
        over_share: by how much the mean squared error is below that of the candidate's share of the training
            prompts, the same chance for every prompt.
    """

    error: Interval
    over_share: Interval


def reliability(
    chances: np.ndarray,
    shares: np.ndarray,
    happened: np.ndarray,
    *,
    likeliest: bool = False,
    seed: int = 0,
) -> Reliability:
    """Judge chances on prompts that they were not made from, by the bootstrap over prompts.

    Args:
        chances: (n, m).
        shares: what they are compared with, (n, m).
        happened: 1 where it did, or a part of 1, (n, m).
        likeliest: take the calibration error of each prompt's likeliest candidate alone, where one of many
            candidates can be right and the chances of most are near 0.
        seed: of the resamples.

    Source:
        Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (2017).
    """
    top = chances.argmax(axis=1)[:, None]
    own, was = (np.take_along_axis(each, top, 1) if likeliest else each for each in (chances, happened))
    bins = np.minimum((own * BINS).astype(int), BINS - 1)
    apart = np.stack([np.where(bins == one, own - was, 0.0).sum(axis=1) for one in range(BINS)])
    saved = ((shares - happened) ** 2 - (chances - happened) ** 2).mean(axis=1)

    def figures(weights: np.ndarray) -> list[float]:
        error = np.abs(apart @ weights).sum() / (weights.sum() * own.shape[1])
        return [float(error), float(np.average(saved, weights=weights))]

    return Reliability(*bootstrap(figures, len(chances), seed=seed))
