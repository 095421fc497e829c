"""Weights of edges: positive, and larger for what is nearer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matchgraph.graphdb.errors import InvalidValue
from matchgraph.graphdb.weights import LEAST_WEIGHT, rank_fraction, result_weight, similarity_weight

E = np.e


def test_distances_by_hand() -> None:
    # The median is 2.
    np.testing.assert_allclose(similarity_weight([0, 2, 4]), [1, 1 / E**5, 1 / E**10])


def test_scores_by_hand() -> None:
    # 0.3, 0.1 and 0 behind the best; their median is 0.1.
    np.testing.assert_allclose(
        similarity_weight([0.6, 0.8, 0.9], larger_is_better=True), [1 / E**15, 1 / E**5, 1]
    )


def test_estimates_below_zero_are_shifted() -> None:
    np.testing.assert_allclose(similarity_weight([-1, 0, 1]), [1, 1 / E**5, 1 / E**10])


def test_a_median_of_zero_falls_back_to_the_mean_and_equal_values_to_one() -> None:
    np.testing.assert_allclose(similarity_weight([0, 0, 3]), [1, 1, 1 / E**15])
    np.testing.assert_array_equal(similarity_weight([0, 0]), [1, 1])


def test_the_farthest_still_have_an_edge() -> None:
    assert similarity_weight([1, 1, 1e6])[2] == LEAST_WEIGHT


def test_few_near_datasets_outweigh_many_far_ones() -> None:
    weights = similarity_weight([1.0] * 5 + [10.0] * 11)
    assert weights[:5].sum() > 10 * weights[5:].sum()


def test_results_by_hand() -> None:
    # Ranks 1, 4 and twice 2 1/2, of four models.
    fractions = [1 / 8, 7 / 8, 1 / 2, 1 / 2]
    np.testing.assert_array_equal(rank_fraction([-3, 90, 1, 1]), fractions)
    np.testing.assert_allclose(result_weight([-3, 90, 1, 1]), E ** (-5 * np.array(fractions)))
    np.testing.assert_allclose(
        result_weight([0.2, 0.9], larger_is_better=True), [E ** (-15 / 4), E ** (-5 / 4)]
    )


def test_results_of_an_easy_dataset_weigh_no_more() -> None:
    values = np.array([5.0, 2.0, 9.0])
    np.testing.assert_array_equal(result_weight(values), result_weight(100 + 7 * values))


@pytest.mark.parametrize("function", [similarity_weight, result_weight, rank_fraction])
@pytest.mark.parametrize("values", [[1.0, np.nan], [np.inf], [[1.0]]])
def test_what_has_no_weight(function: Callable[..., np.ndarray], values: list[float]) -> None:
    assert function([]).shape == (0,)
    with pytest.raises(InvalidValue):
        function(values)


@pytest.mark.parametrize("function", [similarity_weight, result_weight])
@given(st.lists(st.floats(-1e6, 1e9), min_size=1, max_size=40), st.booleans())
def test_weights_are_positive_and_follow_the_order(
    function: Callable[..., np.ndarray], values: list[float], larger: bool
) -> None:
    weights = function(values, larger)
    assert ((weights >= LEAST_WEIGHT) & (weights <= 1)).all()
    order = np.argsort(values) if larger else np.argsort(values)[::-1]
    assert (np.diff(weights[order]) >= 0).all()
