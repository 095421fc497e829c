"""A pair by given scores, on tables small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from matchgraph.collaboration import calibration, given
from matchgraph.collaboration.errors import InvalidPlan, NoTrials
from matchgraph.collaboration.given import GivenPair, GivenPlan, Price, best_plan, judge, limit_of, pair_of
from matchgraph.graphdb.prompt_models import Budget, ScoreTable, Variant
from tests.routing import circle

# The oracle is surer of an image the better it is; the teacher's are all at 0.8.
SURE = np.linspace(0, 1, 100)
PAIR = GivenPair(SURE, SURE, np.full(100, 0.8), Price(1.0, 0.5), Price(4.0, 2.0))


def test_images_below_the_threshold_are_the_teachers() -> None:
    found = judge(PAIR, GivenPlan("cascade", 40.0, 0.4))
    kept = SURE >= 0.4
    quality = np.where(kept, SURE, 0.8).mean()
    assert (found.accepted.value, found.prompts) == (pytest.approx(0.6), 100)
    assert found.quality.value == pytest.approx(quality)
    assert found.over_student.value == pytest.approx(quality - 0.5)
    assert found.over_teacher.value == pytest.approx(quality - 0.8)
    # Two in five at random would gain 0.4 of the difference.
    assert found.over_random.value == pytest.approx(quality - (0.5 + 0.4 * 0.3))
    assert found.over_random.low > 0
    assert found.cost.value == pytest.approx(1 + 0.4 * 4)
    assert found.seconds is not None
    assert (found.seconds.value, found.longest_seconds) == (pytest.approx(0.5 + 0.4 * 2), 2.5)


@pytest.mark.parametrize(
    ("plan", "cost", "longest", "accepted"),
    [
        (GivenPlan("student", 0.0, float("-inf")), 1.0, 0.5, 1.0),
        # Alone, the teacher does not wait for the student.
        (GivenPlan("teacher", 100.0, float("inf")), 4.0, 2.0, 0.0),
    ],
)
def test_one_alone_costs_what_it_costs(plan: GivenPlan, cost: float, longest: float, accepted: float) -> None:
    found = judge(PAIR, plan)
    assert (found.cost.value, found.longest_seconds, found.accepted.value) == (cost, longest, accepted)
    assert found.over_random.value == pytest.approx(0)


@pytest.mark.parametrize(
    ("budget", "longest", "kind", "k"),
    [
        (None, None, "cascade", 80),
        (3.0, None, "cascade", 50),
        (1.0, None, "student", 0),
        # No image may take the time of both.
        (None, 2.0, "teacher", 100),
        (3.0, 2.0, "student", 0),
    ],
)
def test_the_best_plan_within_cost_and_latency(
    budget: float | None, longest: float | None, kind: str, k: float
) -> None:
    found = best_plan(PAIR, budget, longest)
    assert (found.kind, found.k) == (kind, k)


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(InvalidPlan, match="No plan is within the budget: raise it"):
        best_plan(PAIR, 0.5)
    with pytest.raises(
        InvalidPlan, match="No plan is within the budget and the bound on latency: raise one of"
    ):
        best_plan(PAIR, 1.0, 0.4)
    with pytest.raises(InvalidPlan, match="needs the seconds"):
        best_plan(replace(PAIR, teacher=Price(4.0)), None, 1.0)
    assert limit_of(Budget(3.0), PAIR) == 3.0
    with pytest.raises(InvalidPlan, match="The budget is in USD, but student and teacher cost TFLOP"):
        limit_of(Budget(3.0, "USD"), PAIR)
    assert judge(replace(PAIR, teacher=Price(4.0)), GivenPlan("cascade", 40.0, 0.4)).seconds is None


def test_a_handful_of_test_prompts_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table: ScoreTable = circle.table(60, metric="quality")
    monkeypatch.setattr(given, "PromptGraph", lambda _: SimpleNamespace(table=lambda _: table))
    monkeypatch.setattr(calibration, "FEWEST_PROMPTS", 6)
    assert given.cascade(None, "m-1", "m-20", "quality", "quality")[0].prompts == 6  # type: ignore[arg-type]
    table.mean[table.rows("test")[0], 0] = np.nan
    with pytest.raises(NoTrials, match="5 prompts are too few to judge a threshold by: give at least 6"):
        given.cascade(None, "m-1", "m-20", "quality", "quality")  # type: ignore[arg-type]


def test_prompts_with_all_three_scores_count() -> None:
    table: ScoreTable = circle.table(60, metric="quality")
    sure = replace(table, metric="sure", mean=table.mean.copy())
    rows = table.rows("test")
    sure.mean[rows[0], 0] = np.nan
    # The confidence of the teacher is not needed.
    sure.mean[:, 2] = np.nan
    pair = pair_of(sure, table, "m-1", "m-20", "test", (None, 3.0))
    assert pair.quality_teacher.tolist() == table.mean[rows[1:], 2].tolist()
    assert (pair.student, pair.teacher, pair.unit) == (Price(1.0), Price(20.0, 3.0), "TFLOP")
    with pytest.raises(InvalidPlan, match="no scores of 'm-9': the graph has m-1, m-4, m-20"):
        pair_of(sure, table, "m-9", "m-20", "test")
    with pytest.raises(NoTrials, match="No test prompt has sure of m-20 and quality of both"):
        pair_of(sure, table, "m-20", "m-1", "test")
    with pytest.raises(InvalidPlan, match="m-1 is both student and teacher"):
        pair_of(sure, table, "m-1", "m-1", "test")
    seconds = tuple(Variant(own.id, own.model, own.drawing, own.cost, "s") for own in table.variants)
    timed = replace(table, variants=seconds)
    assert pair_of(sure, timed, "m-1", "m-4", "test").teacher == Price(4.0, 4.0)
    mixed = replace(table, variants=(*table.variants[:2], seconds[2]))
    with pytest.raises(InvalidPlan, match="price both in one unit"):
        pair_of(sure, mixed, "m-1", "m-20", "test")
