"""Standard errors and biases of distances against the spread of many repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.training.measure.features import writing
from matchgraph.training.measure.frechet import Root, frechet_distance, gaussian_statistics
from matchgraph.training.measure.scoring import Sample
from matchgraph.training.measure.uncertainty import (
    frechet_uncertainty,
    kernel_uncertainty,
    variance_of_mean,
)

REPEATS, N, DIMENSION = 80, 100, 6


def sample(rows: np.ndarray) -> Sample:
    with writing() as writer:
        writer.add(rows)
        return Sample(features=writer.finish())


@pytest.fixture(scope="module")
def real() -> Sample:
    rows = np.random.default_rng(1).normal(size=(60, DIMENSION))
    return sample(rows * np.linspace(0.3, 1.5, DIMENSION) + 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("captions", [None, 20])
@pytest.mark.parametrize("distance", ["fid", "kid", "cmmd"])
def test_the_standard_error_is_the_spread_of_repeated_draws(
    real: Sample, distance: str, captions: int | None
) -> None:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(captions or 1, DIMENSION))
    groups = None if captions is None else [number % captions for number in range(N)]
    values, errors = [], []
    for _ in range(REPEATS):
        made = sample(rng.normal(size=(N, DIMENSION)) + (0 if groups is None else centres[groups]))
        found = made.distance(real, distance)
        values.append(found.value)
        errors.append(made.uncertainty(real, found, distance, groups).standard_error)
    # The spread over 80 repeats is itself known to 8 %.
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_captions_that_differ_are_no_error_where_each_is_drawn_equally_often(real: Sample) -> None:
    rng = np.random.default_rng(3)
    groups = [number % 20 for number in range(N)]
    made = sample(3 * rng.normal(size=(20, DIMENSION))[groups] + 0.2 * rng.normal(size=(N, DIMENSION)))
    found = made.distance(real, "fid")
    within = made.uncertainty(real, found, "fid", groups).standard_error
    assert within < made.uncertainty(real, found, "fid", None).standard_error / 3


def test_the_bias_is_what_endlessly_many_images_would_take_away(real: Sample) -> None:
    rng = np.random.default_rng(5)
    truth = frechet_distance(
        np.zeros(DIMENSION), np.eye(DIMENSION), real.statistics.mean, real.statistics.covariance
    )
    excess, biases = [], []
    for _ in range(150):
        rows = rng.normal(size=(50, DIMENSION))
        made = Sample(gaussian_statistics(rows))
        excess.append(made.distance(real, "fid").value - truth)
        biases.append(frechet_uncertainty(rows, made.statistics, real.root).bias)
    assert np.mean(biases) == pytest.approx(np.mean(excess), rel=0.2)


def test_few_or_equal_images_have_no_full_covariance() -> None:
    rng = np.random.default_rng(2)
    few, rows = rng.normal(size=(4, 10)), rng.normal(size=(50, 10))
    found = frechet_uncertainty(rows, gaussian_statistics(rows), Root(gaussian_statistics(few)))
    assert found.standard_error is not None
    assert 0 < found.standard_error < 10
    same = np.ones((5, 3))
    equal = gaussian_statistics(same)
    assert frechet_uncertainty(same, equal, Root(equal)).standard_error == 0


def test_two_images_tell_no_error_of_a_kernel_distance() -> None:
    rows = np.eye(3)
    assert kernel_uncertainty(rows[:2], rows, "kid").standard_error is None


def test_the_variance_of_a_mean_within_groups() -> None:
    values = np.array([1.0, 3.0, 10.0, 14.0])
    assert variance_of_mean(values) == pytest.approx(values.var(ddof=1) / 4)
    # Two groups of two, whose variances are 2 and 8.
    assert variance_of_mean(values, [0, 0, 1, 1]) == pytest.approx((2 * 2 + 2 * 8) / 16)
    # Groups of one are taken together; one alone says nothing.
    assert variance_of_mean(values, [0, 1, 2, 3]) == pytest.approx(variance_of_mean(values))
    assert variance_of_mean(values, [0, 0, 1, 2]) == pytest.approx((2 * 2 + 2 * 8) / 16)
    assert variance_of_mean(values, [0, 0, 0, 2]) == pytest.approx(variance_of_mean(values))
