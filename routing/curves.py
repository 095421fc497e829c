"""Deferral curves: average quality over average cost.

Costs between two points of a curve are reached by taking either at random, so a curve is read by linear
interpolation. Past its costliest point it stays level: money need not be spent.

Source:
    CATImage, section 3.3 (deferral curves), Tables 1 to 3 (quality at equal cost, cost at equal quality).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.policy import LambdaPath
from matchgraph.stats.intervals import LEVEL, RESAMPLES, Interval, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

# The cheapest point is a mean of equal costs, which rounding may put a little above each of them.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class DeferralCurve:
    """Average quality over average cost.

    Attributes:
        cost: ascending; float64, (k,).
        quality: float64, (k,).
        lam: the lambda of each point, (k,); NaN for points that no lambda gives.
    """

    cost: np.ndarray
    quality: np.ndarray
    lam: np.ndarray

    @classmethod
    def along(
        cls, path: LambdaPath, truth: np.ndarray, cost: np.ndarray
    ) -> Callable[[np.ndarray], DeferralCurve]:
        """The curve of a path's choices, as a function of how often each prompt counts, (n,).

        Args:
            path: of the estimates.
            truth: the measured quality, (n, m), without NaN.
            cost: (m,).
        """
        spent, reached = path.weighted(cost), path.weighted(truth)
        return lambda weights: cls(spent(weights), reached(weights), path.levels)

    def quality_at(self, cost: ArrayLike) -> np.ndarray:
        """Average quality at average costs; NaN below the cheapest point.

        Args:
            cost: any shape.
        """
        at = np.asarray(cost, dtype=np.float64)
        least = self.cost[0]
        at = np.where((at < least) & (at >= least * (1 - ROUNDING)), least, at)
        return np.interp(at, self.cost, self.quality, left=np.nan)

    def cost_of(self, quality: float) -> float:
        """The least average cost at which a quality is reached; infinite where it never is."""
        if self.quality[0] >= quality:
            return float(self.cost[0])
        reached = np.flatnonzero(self.quality >= quality)
        if not len(reached):
            return float("inf")
        after = reached[0]
        (c0, c1), (q0, q1) = self.cost[after - 1 : after + 1], self.quality[after - 1 : after + 1]
        return float(c0 + (quality - q0) / (q1 - q0) * (c1 - c0))

    def area(self, low: float, high: float) -> float:
        """Mean quality over all budgets from `low` to `high`: the area under the curve over their distance.

        Args:
            low: not below the cheapest point.
            high: above `low`.
        """
        inside = self.cost[(self.cost > low) & (self.cost < high)]
        at = np.concatenate([[low], inside, [high]])
        return float(np.trapezoid(self.quality_at(at), at) / (high - low))


def routed(estimates: np.ndarray, truth: np.ndarray, cost: np.ndarray) -> DeferralCurve:
    """The curve of the routing rule over every lambda.

    Args:
        estimates: predicted quality, (n, m).
        truth: the measured quality, (n, m), without NaN.
        cost: (m,).

    Raises:
        InvalidScores: as `routing.policy.choose`.
    """
    return DeferralCurve.along(LambdaPath.of(estimates, cost), truth, cost)(np.ones(len(truth)))


def oracle(truth: np.ndarray, cost: np.ndarray) -> DeferralCurve:
    """The curve of a rule that knows the quality, an upper bound for every router."""
    return routed(truth, truth, cost)


def random_mixing(truth: np.ndarray, cost: np.ndarray) -> DeferralCurve:
    """The best curve that ignores the prompt: candidates chosen with fixed probabilities.

    Its points are the candidates on the upper concave hull of mean quality over cost.
    """
    return routed(truth.mean(axis=0, keepdims=True), truth.mean(axis=0, keepdims=True), cost)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A router against choices that ignore the prompt, over the same resamples of the prompts.

    Attributes:
        area: of the router's curve over all costs of candidates.
        over_mixing: by how much that is above the area under random mixing.
        over_candidate: candidate's number -> by how much the router's quality is above its own, at its cost;
            those are left out that cost less than the router's cheapest choice.
    """

    area: Interval
    over_mixing: Interval
    over_candidate: dict[int, Interval]


def compare(
    estimates: np.ndarray,
    truth: np.ndarray,
    cost: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare a router with random mixing and with each candidate, by the percentile bootstrap over prompts.

    In each resample the mixing is the best one for that resample, which favours the mixing.

    Args:
        estimates: what the router goes by, (n, m); of prompts that it was not fitted on.
        truth: (n, m).
        cost: (m,), not all equal.
        resamples: how many.
        level: of the intervals.
        seed: of the resamples.
    """
    curve_of = DeferralCurve.along(LambdaPath.of(estimates, cost), truth, cost)

    def figures(weights: np.ndarray) -> list[float]:
        curve = curve_of(weights)
        mean = np.average(truth, axis=0, weights=weights)[None]
        low, high = float(curve.cost[0]), float(cost.max())
        mixing = routed(mean, mean, cost)
        area = curve.area(low, high)
        return [area, area - mixing.area(low, high), *(curve.quality_at(cost) - mean[0])]

    intervals = bootstrap(figures, len(truth), seed=seed, resamples=resamples, level=level)
    reached = {number: each for number, each in enumerate(intervals[2:]) if not np.isnan(each.value)}
    return Comparison(intervals[0], intervals[1], reached)
