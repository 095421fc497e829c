"""Frechet distance and its streaming statistics against closed forms and independent implementations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from matchgraph.training.errors import DistanceError, NonFiniteDistance, ShapeMismatch, TooFewSamples
from matchgraph.training.measure.frechet import (
    GaussianAccumulator,
    GaussianStatistics,
    Root,
    distances_between,
    frechet_distance,
    gaussian_statistics,
)


def features(seed: int, n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def gaussian(seed: int, n: int = 60, d: int = 6) -> GaussianStatistics:
    return gaussian_statistics(features(seed, n, d))


def distance(one: GaussianStatistics, two: GaussianStatistics) -> float:
    return frechet_distance(one.mean, one.covariance, two.mean, two.covariance)


def test_a_gaussian_is_at_distance_zero_from_itself():
    one = gaussian(0)
    assert distance(one, one) == pytest.approx(0, abs=1e-10 * np.trace(one.covariance))


def test_one_dimension_by_hand():
    # (3 - 1)^2 + (sqrt(4) - sqrt(9))^2 = 5
    assert frechet_distance(
        np.array([3.0]), np.array([[4.0]]), np.array([1.0]), np.array([[9.0]])
    ) == pytest.approx(5.0, rel=1e-12)


def test_diagonal_covariances_in_closed_form():
    rng = np.random.default_rng(3)
    mean1, mean2 = rng.normal(size=(2, 8))
    variance1, variance2 = rng.uniform(0.1, 5, size=(2, 8))
    expected = ((mean1 - mean2) ** 2).sum() + ((np.sqrt(variance1) - np.sqrt(variance2)) ** 2).sum()
    assert frechet_distance(mean1, np.diag(variance1), mean2, np.diag(variance2)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_agrees_with_clean_fid_where_that_is_well_conditioned(seed):
    from cleanfid.fid import frechet_distance as of_clean_fid

    one, two = gaussian(seed, 400, 12), gaussian(seed + 100, 400, 12)
    expected = of_clean_fid(one.mean, one.covariance, two.mean, two.covariance)
    assert distance(one, two) == pytest.approx(expected, rel=1e-6)


def test_agrees_with_eigenvalues_of_the_product():
    one, two = gaussian(5), gaussian(6)
    eigenvalues = np.linalg.eigvals(one.covariance @ two.covariance).real.clip(min=0)
    expected = (
        ((one.mean - two.mean) ** 2).sum()
        + np.trace(one.covariance + two.covariance)
        - 2 * np.sqrt(eigenvalues).sum()
    )
    assert distance(one, two) == pytest.approx(expected, rel=1e-9)


def test_statistics_keep_their_own_copy():
    mean, covariance = np.zeros(2), np.eye(2)
    statistics = GaussianStatistics(3, mean, covariance)
    mean += 1
    covariance += 1
    assert (statistics.mean == 0).all()
    assert (statistics.covariance == np.eye(2)).all()


def test_is_symmetric_in_its_arguments():
    one, two = gaussian(7), gaussian(8)
    assert distance(one, two) == pytest.approx(distance(two, one), rel=1e-12)


def test_fewer_images_than_dimensions_stay_finite_and_not_negative():
    one, two = gaussian(9, 5, 64), gaussian(10, 7, 64)
    assert distance(one, two) > 0
    assert 0 <= distance(one, one) <= 1e-9 * np.trace(one.covariance)
    flat = np.zeros((64, 64))
    assert frechet_distance(one.mean, flat, one.mean, flat) == 0


def test_float32_statistics_of_few_images_are_taken():
    rows = features(11, 10, 128).astype(np.float32)
    covariance = np.cov(rows, rowvar=False).astype(np.float32)
    assert frechet_distance(rows.mean(0), covariance, rows.mean(0), covariance) >= 0


def test_many_at_once_equal_one_by_one():
    known = [gaussian(seed) for seed in range(20, 24)]
    one_by_one = [distance(known[0], other) for other in known]
    roots = [Root(each) for each in known]
    at_once = distances_between([(roots[0], other) for other in roots])
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-10, atol=1e-9)
    assert distances_between([]).shape == (0,)


@pytest.mark.parametrize("decay", [0.0, 1.5, 3.0])
@pytest.mark.parametrize(("n", "other_n"), [(12, 12), (12, 300), (40, 41), (300, 300)])
def test_pairs_are_exact_whatever_the_spectrum(decay, n, other_n):
    # Singular values of the product of symmetric roots: slower, and as accurate as float64 allows.
    def by_roots(one, two):
        roots = []
        for covariance in (one.covariance, two.covariance):
            eigenvalues, vectors = np.linalg.eigh(covariance)
            roots.append((vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T)
        cross = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
        shift = one.mean - two.mean
        return shift @ shift + np.trace(one.covariance) + np.trace(two.covariance) - 2 * cross

    rng = np.random.default_rng(40)
    mixing = rng.normal(size=(40, 40)) * np.arange(1, 41)[:, None] ** -decay
    known = [
        gaussian_statistics(rng.normal(size=(size, 40)) @ (mixing + 0.1 * np.roll(mixing, place, 1)))
        for place, size in enumerate([n, other_n, n])
    ]
    pairs = list(combinations(known, 2))
    found = distances_between([(Root(one), Root(two)) for one, two in pairs])
    np.testing.assert_allclose(found, [by_roots(one, two) for one, two in pairs], rtol=1e-6)


def test_nearly_equal_gaussians_keep_their_digits():
    # The distance is a millionth of the traces that it is the difference of.
    rng = np.random.default_rng(41)
    spectrum = np.logspace(0, -9, 30)
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    one = (rotation * spectrum) @ rotation.T
    two = (rotation * (spectrum * 1.002)) @ rotation.T
    expected = (spectrum * (1 - np.sqrt(1.002)) ** 2).sum()
    zero = np.zeros(30)
    assert frechet_distance(zero, (one + one.T) / 2, zero, (two + two.T) / 2) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize(
    ("mean2", "covariance2", "error"),
    [
        (np.zeros(3), np.eye(3), ShapeMismatch),
        (np.zeros(2), np.eye(3), ShapeMismatch),
        (np.zeros((2, 1)), np.eye(2), ShapeMismatch),
        (np.array([0, np.nan]), np.eye(2), NonFiniteDistance),
        (np.zeros(2), np.array([[1, 0], [0, np.inf]]), NonFiniteDistance),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), DistanceError),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), DistanceError),
        (np.full(2, 1e200), np.eye(2), NonFiniteDistance),
    ],
)
def test_refuses_what_has_no_distance(mean2, covariance2, error):
    with pytest.raises(error):
        frechet_distance(np.zeros(2), np.eye(2), mean2, covariance2)


def test_batches_give_numpys_mean_and_covariance():
    rows = features(30, 101, 9)
    accumulator = GaussianAccumulator()
    for batch in np.array_split(rows, [1, 1, 40, 41, 90]):
        accumulator.add(batch)
    assert accumulator.n == 101
    np.testing.assert_allclose(accumulator.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(accumulator.covariance, np.cov(rows, rowvar=False), rtol=1e-11, atol=1e-12)


def test_order_does_not_matter():
    rows = features(31, 80, 5)
    forward, back = GaussianAccumulator(), GaussianAccumulator()
    forward.add(rows)
    for batch in np.array_split(rows[::-1], 7):
        back.add(batch)
    np.testing.assert_allclose(back.covariance, forward.covariance, rtol=1e-10)


def test_a_large_common_offset_costs_no_digits():
    rows = np.random.default_rng(32).normal(size=(200, 3))
    accumulator = GaussianAccumulator()
    for batch in np.array_split(rows + 1e8, 20):
        accumulator.add(batch)
    np.testing.assert_allclose(accumulator.covariance, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-7)


def test_accumulator_refuses_what_it_cannot_use():
    accumulator = GaussianAccumulator()
    with pytest.raises(TooFewSamples):
        _ = accumulator.mean
    accumulator.add(np.ones((1, 4)))
    with pytest.raises(TooFewSamples, match="got 1"):
        accumulator.statistics()
    with pytest.raises(ShapeMismatch, match="dimension 5"):
        accumulator.add(np.ones((2, 5)))
    with pytest.raises(ShapeMismatch):
        accumulator.add(np.ones(4))
    with pytest.raises(NonFiniteDistance):
        accumulator.add(np.array([[1, 2, np.nan, 4]]))
    assert accumulator.n == 1
