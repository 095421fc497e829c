"""The routing rule against brute force: what it chooses, at which lambda it changes, and what budgets buy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from matchgraph.routing.errors import BudgetTooSmall, InvalidScores
from matchgraph.routing.policy import LambdaPath, choose, lambda_for_budget, one_unit
from tests.routing import circle

NAN = float("nan")


@st.composite
def tables(draw: st.DrawFn, missing: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Small tables with many ties: quality (n, m) and cost (m,)."""
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    quality = draw(arrays(np.float64, (n, m), elements=st.integers(0, 6).map(lambda k: k / 6)))
    cost = draw(arrays(np.float64, (m,), elements=st.integers(0, 5).map(float)))
    if missing:
        hidden = draw(arrays(np.bool_, (n, m)))
        hidden[np.arange(n), draw(arrays(np.int64, (n,), elements=st.integers(0, m - 1)))] = False
        quality[hidden] = np.nan
    return quality, cost


def assignments(quality: np.ndarray) -> list[tuple[int, ...]]:
    known = [np.flatnonzero(~np.isnan(row)) for row in quality]
    return list(itertools.product(*known))


def mean_of(values: np.ndarray, chosen: tuple[int, ...] | np.ndarray) -> float:
    table = np.broadcast_to(values, (len(chosen), np.shape(values)[-1]))
    return float(table[np.arange(len(chosen)), list(chosen)].mean())


@given(tables(missing=True), st.sampled_from([0.0, 0.05, 1 / 6, 0.3, 2.0]))
def test_the_rule_takes_the_largest_quality_less_lambda_times_cost(table, lam) -> None:
    quality, cost = table
    for row, chosen in zip(quality, choose(quality, cost, lam), strict=True):
        gains = [(q - lam * c, -c, -i) for i, (q, c) in enumerate(zip(row, cost, strict=True)) if q == q]
        assert (row[chosen] - lam * cost[chosen], -cost[chosen], -chosen) == max(gains)


@given(tables(missing=True))
# Both change at 1/6, which comes out as two numbers.
@example((np.array([[0.0, 1 / 6], [3 / 6, 4 / 6]]), np.array([0.0, 1.0])))
def test_the_path_is_what_the_rule_does_at_every_lambda(table) -> None:
    quality, cost = table
    path = LambdaPath.of(quality, cost)
    truth = np.random.default_rng(0).normal(size=quality.shape)
    weights = np.arange(1.0, len(quality) + 1)
    for number, lam in enumerate(path.levels):
        chosen = choose(quality, cost, lam)
        rows = np.arange(len(chosen))
        assert path.means(cost)[number] == pytest.approx(mean_of(cost, chosen))
        assert path.means(truth)[number] == pytest.approx(mean_of(truth, chosen))
        weighted = np.average(truth[rows, chosen], weights=weights)
        assert path.means(truth, weights)[number] == pytest.approx(weighted)
    # Every lambda at which two candidates of a prompt are equally good, and what lies about it.
    slopes = {
        (row[j] - row[i]) / (cost[j] - cost[i])
        for row in quality
        for i, j in itertools.permutations(range(len(cost)), 2)
        if cost[j] > cost[i] and row[j] > row[i]
    }
    seen = {round(mean_of(cost, choose(quality, cost, s * f)), 9) for s in slopes for f in (0.999, 1.001)}
    assert seen <= {round(value, 9) for value in path.means(cost)}


@given(tables(missing=True))
def test_cost_and_estimated_quality_rise_as_lambda_falls(table) -> None:
    quality, cost = table
    path = LambdaPath.of(quality, cost)
    assert (np.diff(path.levels) < 0).all()
    assert (np.diff(path.means(cost)) > 0).all()
    assert (np.diff(path.means(np.nan_to_num(quality))) > 0).all()


@given(tables(missing=True), st.floats(0, 6))
def test_nothing_as_cheap_is_better_and_no_lambda_within_the_budget(table, budget) -> None:
    quality, cost = table
    every = [(mean_of(cost, a), mean_of(quality, a)) for a in assignments(quality)]
    cheapest = min(spent for spent, _ in every)
    if budget < cheapest * (1 - 1e-9):
        with pytest.raises(BudgetTooSmall, match=f"below {cheapest:g}"):
            lambda_for_budget(quality, cost, budget)
        return
    lam = lambda_for_budget(quality, cost, max(budget, cheapest))
    chosen = choose(quality, cost, lam)
    spent, gained = mean_of(cost, chosen), mean_of(quality, chosen)
    assert spent <= max(budget, cheapest) * (1 + 1e-9)
    assert all(other <= gained + 1e-9 for at, other in every if at <= spent + 1e-9)
    for level in LambdaPath.of(quality, cost).levels:
        rival = choose(quality, cost, level)
        if mean_of(cost, rival) <= budget:
            assert mean_of(quality, rival) <= gained + 1e-9


def test_a_budget_is_missed_by_no_more_than_one_prompts_step() -> None:
    generator = np.random.default_rng(7)
    cost = np.array([1.0, 2.0, 5.0, 20.0])
    quality = generator.normal(size=(400, 4)) + np.log(cost)
    for budget in (1.5, 3.0, 8.0, 15.0):
        spent = cost[choose(quality, cost, lambda_for_budget(quality, cost, budget))].mean()
        assert budget - 20 / 400 <= spent <= budget
    assert lambda_for_budget(quality, cost, 1000.0) == 0


def test_a_budget_that_is_exactly_a_levels_cost_pays_for_it() -> None:
    quality, cost = np.array([[0.0, 1.0]] * 3), np.array([0.0, 0.1])
    # In floats the mean of three times 0.1 is above 0.1.
    assert LambdaPath.of(quality, cost).means(cost)[-1] > 0.1
    assert lambda_for_budget(quality, cost, 0.1) == 0


def test_large_gains_keep_a_level_above_all_and_fall_together_in_spite_of_rounding() -> None:
    cost = np.array([0.0, 1.0])
    quality = np.array([[0.0, 3e8], [0.0, 0.1 * 3 * 1e9]])
    assert quality[0, 1] != quality[1, 1]
    levels = LambdaPath.of(quality, cost).levels
    assert [choose(quality, cost, level).tolist() for level in levels] == [[0, 0], [1, 1]]


def test_each_request_may_bring_its_own_lambda() -> None:
    quality, cost = np.array([[0.1, 0.9]] * 3), np.array([1.0, 2.0])
    assert choose(quality, cost, np.array([0.0, 0.5, 5.0])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("quality", "cost", "lam", "message"),
    [
        ([[0.1, 0.2]], [1.0], 0.0, r"\(1, 2\) and costs \(1,\) do not fit"),
        ([], [], 0.0, "do not fit"),
        ([[0.1, 0.2]], [1.0, -1.0], 0.0, "cost is negative"),
        ([[0.1, 0.2]], [1.0, NAN], 0.0, "cost is negative or not finite"),
        ([[0.1, float("inf")]], [1.0, 2.0], 0.0, "quality is infinite"),
        ([[0.1, 0.2], [NAN, NAN]], [1.0, 2.0], 0.0, "known for prompt 1"),
        ([[0.1, 0.2]], [1.0, 2.0], -1.0, "lambda is -1"),
        ([[0.1, 0.2]], [1.0, 2.0], NAN, "lambda is nan"),
        ([[0.1, 0.2]] * 2, [1.0, 2.0], [0.1, -1.0], "lambda is"),
        ([[0.1, 0.2]] * 2, [1.0, 2.0], [0.1, float("inf")], "lambda is"),
    ],
)
def test_tables_that_make_no_sense_are_refused(quality, cost, lam, message) -> None:
    with pytest.raises(InvalidScores, match=message):
        choose(np.array(quality), np.array(cost), lam)


def test_a_budget_must_be_a_number() -> None:
    with pytest.raises(InvalidScores, match="budget is NaN"):
        lambda_for_budget([[0.1]], [1.0], NAN)


def test_costs_of_two_units_are_not_compared() -> None:
    first, second = circle.VARIANTS[:2]
    assert one_unit([first, second]) == "TFLOP"
    with pytest.raises(InvalidScores, match="m-1 in TFLOP and m-4 in USD"):
        one_unit([first, replace(second, unit="USD")])
