"""Who draws what, where it is known what each way comes to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.given import GivenPair, Price, best_plan
from matchgraph.collaboration.routed import (
    Expected,
    RoutedPlan,
    best_of_each,
    best_routed_plan,
    judge_routed,
    way_of,
)

# Easy prompts, hard ones, and ones of which the student fails every other.
FAILS = np.array([False] * 20 + [True] * 20 + [False, True] * 10)
GOOD = np.where(FAILS, 0.1, 0.8)
PAIR = GivenPair(GOOD, GOOD, np.full(60, 0.8), Price(1.0, 0.5), Price(4.0, 2.0))
CHANCE = np.repeat([0.0, 1.0, 0.5], 20)
EXPECTED = {50.0: Expected(np.column_stack([0.8 - 0.7 * CHANCE, np.full((60, 2), 0.8)]), CHANCE)}
THRESHOLDS = {50.0: 0.5}
STUDENT, TEACHER, CASCADE = 0, 1, 2


def test_only_prompts_in_between_are_drawn_and_judged() -> None:
    plan = RoutedPlan(("student", "teacher", "cascade"), 50.0, 0.5, 0.05)
    assert way_of(PAIR, EXPECTED[50.0], plan).tolist() == [STUDENT] * 20 + [TEACHER] * 20 + [CASCADE] * 20
    # Where cost does not matter, an equally good and cheaper way is still taken.
    assert (way_of(PAIR, EXPECTED[50.0], replace(plan, lam=0.0)) == np.repeat([0, 1, 2], 20)).all()


def test_within_a_budget_routing_first_has_more_quality_than_either_alone() -> None:
    # An image costs 1, 4 and 1 + 4 / 2 by the ways above.
    budget = 8 / 3
    plan, alone, unrouted = best_of_each(PAIR, EXPECTED, THRESHOLDS, budget, None)
    found = judge_routed(PAIR, EXPECTED, plan, alone, unrouted)
    assert (found.quality.value, found.cost.value) == (pytest.approx(0.8), pytest.approx(budget))
    assert {way: share.value for way, share in found.shares.items()} == {
        "student": pytest.approx(1 / 3),
        "teacher": pytest.approx(1 / 3),
        "cascade": pytest.approx(1 / 3),
    }
    # Everything drawn by the student first would cost 3 for this quality; at 8/3, five sixths are.
    cascade = best_plan(PAIR, 3.0)
    assert cascade.kind == "cascade"
    against = judge_routed(PAIR, EXPECTED, plan, alone, cascade)
    assert against.over_cascade.value == pytest.approx(0)
    assert against.over_cascade_at_cost.value == pytest.approx(0.8 - (0.45 + 5 / 6 * 0.35))
    assert found.over_cascade.low > 0
    # What costs less than this is compared as it is.
    assert found.over_cascade_at_cost.value == pytest.approx(found.over_cascade.value)
    assert found.over_cascade_cost.value == pytest.approx(budget - 1)
    assert found.over_routing.low > 0
    assert found.over_student.value == pytest.approx(0.35)
    assert found.over_teacher.value == pytest.approx(0)
    assert found.seconds is not None
    assert (found.seconds.value, found.longest_seconds) == (pytest.approx((0.5 + 2.0 + 1.5) / 3), 2.5)


def test_a_bound_on_time_leaves_out_what_may_take_longer() -> None:
    plan, alone, _ = best_of_each(PAIR, EXPECTED, THRESHOLDS, None, 2.0)
    assert plan.ways == alone.ways == ("student", "teacher")
    assert best_routed_plan(PAIR, EXPECTED, THRESHOLDS, None, 1.0).ways == ("student",)
    for budget, longest in ((None, 0.4), (0.5, None)):
        with pytest.raises(InvalidPlan, match=r"No plan is within the (budget|bound on latency): raise it"):
            best_routed_plan(PAIR, EXPECTED, THRESHOLDS, budget, longest)
    untimed = replace(PAIR, student=Price(1.0))
    with pytest.raises(InvalidPlan, match="needs the seconds"):
        best_routed_plan(untimed, EXPECTED, THRESHOLDS, None, 2.0)
    plans = best_of_each(untimed, EXPECTED, THRESHOLDS, None, None)
    found = judge_routed(untimed, EXPECTED, *plans)
    assert (found.seconds, found.longest_seconds) == (None, None)
