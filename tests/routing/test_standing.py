"""A router against the best single candidate and the oracle, on tables small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.routing.standing import NEVER, best_single, standing

COST = np.array([1.0, 4.0])
# The dear candidate is better for half of the prompts, and no worse for the others.
TRUTH = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
DEAR = np.ones(4, dtype=int)


def values(estimates: np.ndarray, single: np.ndarray = DEAR) -> tuple[float, float, float]:
    found = standing(estimates, TRUTH, COST, single, resamples=20)
    return found.over_single.value, found.below_oracle.value, found.cost.value


def test_a_router_that_knows_the_scores_costs_less_for_the_same() -> None:
    # Two prompts at 1 and two at 4.
    assert values(TRUTH) == pytest.approx((0.0, 0.0, 2.5 / 4))
    # At the cost of the cheap one it is no better than that.
    assert values(TRUTH, np.zeros(4, dtype=int)) == pytest.approx((0.0, 0.0, 1.0))


def test_a_router_that_never_reaches_the_quality_says_so() -> None:
    assert values(np.tile([1.0, 0.0], (4, 1))) == pytest.approx((-0.5, 0.5, NEVER))


def test_intervals_are_over_prompts() -> None:
    found = standing(np.tile([1.0, 0.0], (4, 1)), TRUTH, COST, DEAR, resamples=500)
    assert (found.over_single.low, found.over_single.high, found.over_single.count) == (-1.0, 0.0, 4)


def test_the_best_single_candidate_is_the_cheaper_of_equals() -> None:
    assert best_single(TRUTH, COST) == 1
    assert best_single(TRUTH[:2], COST) == 0
