"""Where a router stands: against the best single candidate, and below the oracle, which knows the scores.

Source:
    LLMRouterBench and RouterArena: gain over the best single model, gap to the oracle, cost at equal quality,
    time of a decision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.curves import DeferralCurve
from matchgraph.routing.policy import LambdaPath, choose
from matchgraph.stats.intervals import RESAMPLES, Interval, bootstrap

if TYPE_CHECKING:
    from matchgraph.routing.estimators import QualityEstimator
    from matchgraph.training.measure.prompts import EncodedPrompts

# A share of the cost that stands for a quality that is never reached.
NEVER = 9.99
# Decisions that are timed.
TIMED = 30


@dataclass(frozen=True)
class Standing:
    """A router beside the candidate that is best on average.

    Attributes:
        over_single: its quality above that of the candidate, at the candidate's cost.
        below_oracle: its quality below the oracle's, at that cost.
        cost: what it costs at the candidate's quality, as a share of the candidate's cost; `NEVER` where it
            does not reach that quality.
    """

    over_single: Interval
    below_oracle: Interval
    cost: Interval


def standing(
    estimates: np.ndarray,
    truth: np.ndarray,
    cost: np.ndarray,
    single: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Standing:
    """Compare a router with the best single candidate and the oracle, by the bootstrap over prompts.

    Args:
        estimates: what the router goes by, (n, m); of prompts that it was not fitted on.
        truth: (n, m).
        cost: (m,).
        single: for each prompt the number of the candidate that is best on average over the prompts that the
            router was fitted on, (n,).
        resamples: how many.
        seed: of the resamples.
    """
    router, oracle = (
        DeferralCurve.along(LambdaPath.of(each, cost), truth, cost) for each in (estimates, truth)
    )
    quality, spent = truth[np.arange(len(truth)), single], cost[single]

    def figures(weights: np.ndarray) -> list[float]:
        alone, at = float(np.average(quality, weights=weights)), float(np.average(spent, weights=weights))
        own = router(weights)
        reached = float(own.quality_at(at))
        best = float(oracle(weights).quality_at(at))
        return [reached - alone, best - reached, min(own.cost_of(alone) / at, NEVER)]

    return Standing(*bootstrap(figures, len(truth), seed=seed, resamples=resamples))


def best_single(scores: np.ndarray, cost: np.ndarray) -> int:
    """The candidate with the largest mean quality, the cheaper one of equals.

    Args:
        scores: of the training prompts, (k, m), without NaN.
        cost: (m,).
    """
    mean = scores.mean(axis=0)
    return int(np.lexsort((cost, -mean))[0])


def decision_ms(estimator: QualityEstimator, asked: EncodedPrompts, cost: np.ndarray) -> float:
    """Median milliseconds of a decision, one prompt at a time, without reading the prompt.

    Args:
        estimator: of qualities.
        asked: at least one prompt.
        cost: of the estimator's candidates, (m,).
    """
    taken = []
    for number in range(TIMED):
        one = asked.part(np.array([number % len(asked)]))
        began = time.perf_counter()
        choose(estimator.estimate(one).quality, cost, 0.0)
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken))
