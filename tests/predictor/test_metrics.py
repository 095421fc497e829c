"""The selection metrics: by hand, against brute force, and in their declared ranges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import weightedtau

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.metrics import (
    O2O,
    OSR,
    SELECTION_METRICS,
    TAU,
    after_measuring,
    losses,
    optimal_selection,
    outscore_to_best,
    outscore_to_optimal,
    scipy_tau,
    selected,
    weighted_tau,
    weighted_taus,
    without_nan,
)

NAN = float("nan")


def brute_force_tau(predicted, truth) -> float:
    """The definition, pair by pair."""
    n = len(truth)
    before = [sum(t < own for t in truth) for own in truth]
    equal = [sum(t == own for t in truth) for own in truth]
    weights = [1 / (1 + b + (e - 1) / 2) for b, e in zip(before, equal, strict=True)]
    agreement = size_predicted = size_truth = 0.0
    for i, j in itertools.combinations(range(n), 2):
        weight = weights[i] + weights[j]
        p, t = np.sign(predicted[i] - predicted[j]), np.sign(truth[i] - truth[j])
        agreement += weight * p * t
        size_predicted += weight * p * p
        size_truth += weight * t * t
    return agreement / np.sqrt(size_predicted * size_truth)


class TestWeightedTau:
    def test_by_hand(self):
        # True ranks 1, 2, 3 weigh 1, 1/2, 1/3: the pairs weigh 3/2 (1-2), 4/3 (1-3), 5/6 (2-3).
        # A prediction that swaps the last two loses the pair of 5/6: (3/2 + 4/3 - 5/6) / (11/3) = 2 / (11/3).
        assert weighted_tau([1, 3, 2], [10, 20, 30]) == pytest.approx(6 / 11)
        # Swapping the first two loses the pair of 3/2: (-3/2 + 4/3 + 5/6) / (11/3) = (2/3) / (11/3).
        assert weighted_tau([2, 1, 3], [10, 20, 30]) == pytest.approx(2 / 11)

    def test_mistakes_among_the_best_cost_more(self):
        truth = np.arange(6.0)
        top, bottom = truth.copy(), truth.copy()
        top[[0, 1]] = top[[1, 0]]
        bottom[[4, 5]] = bottom[[5, 4]]
        assert weighted_tau(top, truth) < weighted_tau(bottom, truth)

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
    def test_brute_force_with_ties(self, pairs):
        predicted, truth = map(np.array, zip(*pairs, strict=True))
        value = weighted_tau(predicted, truth)
        if len(set(truth)) == 1:
            assert np.isnan(value)
        elif len(set(predicted)) == 1:
            assert value == 0
        else:
            assert value == pytest.approx(brute_force_tau(predicted, truth), abs=1e-9)
            assert TAU.low <= value <= TAU.high

    def test_does_not_depend_on_the_order_of_the_models(self):
        rng = np.random.default_rng(3)
        predicted, truth = rng.integers(0, 5, 12), rng.integers(0, 5, 12)
        values = set()
        for _ in range(20):
            order = rng.permutation(12)
            values.add(round(weighted_tau(predicted[order], truth[order]), 12))
        assert len(values) == 1

    def test_many_at_once(self):
        scores, truth = np.array([[1.0, 1, 1], [1, 3, 2], [2, 1, 3]]), np.array([10.0, 20, 30])
        assert weighted_taus(scores, truth) == pytest.approx([0, 6 / 11, 2 / 11])

    def test_models_a_method_does_not_rank_are_tied_last(self):
        assert weighted_tau([1, NAN, NAN], [5, 6, 7]) == pytest.approx(brute_force_tau([1, 9, 9], [5, 6, 7]))

    def test_a_random_order_gives_zero_on_average(self):
        truth = np.array([1.0, 2, 2, 5])
        values = [weighted_tau(np.array(order), truth) for order in itertools.permutations(range(4))]
        assert np.mean(values) == pytest.approx(0, abs=1e-12)


class TestSelection:
    def test_by_hand(self):
        predicted, truth, average = [2.0, 1.0, 3.0], [4.0, 7.0, 5.0], [1.0, 9.0, 8.0]
        assert optimal_selection(predicted, truth) == 0
        assert outscore_to_optimal(predicted, truth) == 3
        assert outscore_to_best(predicted, truth, average) == 3
        assert outscore_to_best([3, 2, 1], truth, [3, 1, 2]) == -2

    def test_larger_is_better_flips_the_sign_so_that_smaller_stays_better(self):
        accuracy = losses(np.array([0.9, 0.7, 0.8]), larger_is_better=True)
        selects_the_best, best_on_average = np.array([1, 3, 2]), np.array([3, 2, 1])
        assert outscore_to_best(selects_the_best, accuracy, best_on_average) == pytest.approx(-0.1)
        assert outscore_to_optimal(best_on_average, accuracy) == pytest.approx(0.1)

    def test_any_of_a_tied_optimum_counts(self):
        assert optimal_selection([2, 1, 3], [5, 5, 6]) == 1
        assert optimal_selection([1, 2, 3], [5, 5, 6]) == 1
        assert optimal_selection([3, 2, 1], [5, 5, 6]) == 0

    def test_a_tied_prediction_is_a_random_choice(self):
        truth = np.array([1.0, 4.0, 7.0])
        assert optimal_selection([1, 1, 2], truth) == 0.5
        assert outscore_to_optimal([1, 1, 1], truth) == 3
        assert outscore_to_best([1, 1, 1], truth, [2, 1, 3]) == 0

    def test_the_model_best_on_average_has_no_advantage_over_itself(self):
        average = np.array([3.0, 1.0, 2.0])
        assert outscore_to_best(average, [5.0, 6.0, 7.0], average) == 0

    def test_unranked_models_are_selected_last(self):
        assert selected(np.array([NAN, 2.0, NAN])).tolist() == [False, True, False]
        assert selected(np.array([NAN, NAN])).tolist() == [True, True]

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(-4, 4)), min_size=1, max_size=9))
    def test_ranges(self, pairs):
        predicted, truth = map(np.array, zip(*pairs, strict=True))
        assert OSR.low <= optimal_selection(predicted, truth) <= OSR.high
        assert outscore_to_optimal(predicted, truth) >= O2O.low
        assert optimal_selection(truth, truth) == 1
        assert outscore_to_optimal(truth, truth) == 0

    def test_keys_are_unique(self):
        assert len({metric.key for metric in SELECTION_METRICS}) == 4

    @pytest.mark.parametrize(
        ("predicted", "truth", "message"),
        [([1, 2], [1], "2 predicted"), ([], [], "non-empty"), ([1, 2], [1, NAN], "finite")],
    )
    def test_refuses(self, predicted, truth, message):
        for metric in (optimal_selection, outscore_to_optimal, weighted_tau):
            with pytest.raises(InvalidRows, match=message):
                metric(predicted, truth)


class TestAfterMeasuring:
    truth = np.array([3.0, 1.0, 2.0, 5.0])

    def test_the_best_of_the_first(self):
        predicted = np.array([1.0, 3.0, 2.0, 4.0])
        assert after_measuring(predicted, self.truth, 1) == (0, 2)
        assert after_measuring(predicted, self.truth, 2) == (0, 1)
        assert after_measuring(predicted, self.truth, 3) == (1, 0)
        assert after_measuring(predicted, self.truth, 9) == (1, 0)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_ties_are_settled_by_expectation(self, count):
        """Against all choices of the tied models, one of which comes first for sure in the second case."""
        for predicted, sure in ((np.zeros(4), ()), (np.array([0.0, 1, 1, 1]), (0,))):
            rest = [i for i in range(4) if i not in sure]
            chosen = [[*sure, *own] for own in itertools.combinations(rest, count - len(sure))]
            best = np.array([self.truth[own].min() for own in chosen])
            expected = ((best == 1).mean(), best.mean() - 1)
            assert after_measuring(predicted, self.truth, count) == pytest.approx(expected)

    def test_at_least_one(self):
        with pytest.raises(InvalidRows, match="at least 1"):
            after_measuring(np.zeros(4), self.truth, 0)


def test_figures_for_json_keep_all_but_what_is_not_defined():
    figures = {"a": 1.5, "b": NAN, "c": float("inf"), "d": 3, "e": None, "f": "nan"}
    assert without_nan(figures) == {"a": 1.5, "b": None, "c": None, "d": 3, "e": None, "f": "nan"}


def test_scipys_tau_is_that_of_scipy():
    predicted, truth = np.array([2.0, 1.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    assert scipy_tau(predicted, truth) == pytest.approx(weightedtau(-predicted, -truth).statistic)
    assert scipy_tau(np.zeros(4), truth) == 0
    assert math.isnan(scipy_tau(predicted, np.zeros(4)))
