"""Deferral curves: ones computed by hand, their limits, and the comparison's intervals."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.routing.curves import DeferralCurve, compare, oracle, random_mixing, routed
from matchgraph.routing.policy import LambdaPath

COST = np.array([1.0, 2.0, 4.0])
# The first prompt gains from the middle candidate only, the second from the costliest only.
TRUTH = np.array([[0.2, 0.8, 0.8], [0.2, 0.2, 1.0]])


def test_the_oracle_pays_only_where_it_gains() -> None:
    curve = oracle(TRUTH, COST)
    # Both cheap; then the first prompt's middle one (0.6 a unit); then the second's costliest (0.8 for 3).
    assert curve.cost.tolist() == pytest.approx([1.0, 1.5, 3.0])
    assert curve.quality.tolist() == pytest.approx([0.2, 0.5, 0.9])
    assert curve.lam[0] > 0.6 > curve.lam[1] > 0.8 / 3 > curve.lam[2] == 0


def test_random_mixing_is_the_hull_of_the_candidates() -> None:
    curve = random_mixing(TRUTH, COST)
    assert curve.cost.tolist() == [1.0, 2.0, 4.0]
    assert curve.quality.tolist() == pytest.approx([0.2, 0.5, 0.9])
    dented = random_mixing(TRUTH * [1, 0.5, 1], COST)
    assert dented.cost.tolist() == [1.0, 4.0]


def test_a_curve_is_read_by_interpolation_and_level_past_its_end() -> None:
    curve = DeferralCurve(np.array([1.0, 3.0]), np.array([0.2, 0.6]), np.array([1.0, 0.0]))
    assert curve.quality_at([1.0, 2.0, 3.0, 9.0]).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert np.isnan(curve.quality_at(0.9))
    # Rounding of a mean of equal costs.
    assert curve.quality_at(1.0 - 1e-12) == pytest.approx(0.2)
    assert curve.cost_of(0.4) == pytest.approx(2.0)
    assert (curve.cost_of(0.1), curve.cost_of(0.2), curve.cost_of(0.6)) == (1.0, 1.0, 3.0)
    assert curve.cost_of(0.7) == float("inf")
    assert curve.area(1.0, 5.0) == pytest.approx((0.4 + 0.6) / 2)
    assert curve.area(2.0, 3.0) == pytest.approx(0.5)


def test_estimates_that_say_nothing_give_random_mixing() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal([0.0, 0.5, 0.7], size=(200, 3))
    blind = np.broadcast_to(truth.mean(axis=0), truth.shape)
    ours, mixing = routed(blind, truth, COST), random_mixing(truth, COST)
    assert ours.cost.tolist() == pytest.approx(mixing.cost.tolist())
    assert ours.quality.tolist() == pytest.approx(mixing.quality.tolist())
    compared = compare(blind, truth, COST, resamples=50)
    assert compared.over_mixing.value == pytest.approx(0, abs=1e-12)
    # The mixing is chosen again for each resample, the blind router's lambdas are not.
    assert compared.over_mixing.high <= 1e-12


def test_the_oracle_is_above_everything_and_noise_is_not() -> None:
    generator = np.random.default_rng(1)
    truth = generator.normal([0.0, 0.5, 0.7], size=(300, 3))
    knowing = compare(truth, truth, COST, resamples=200)
    # From the cheapest choice of the router to the costliest candidate.
    whole, mixing = (curve(truth, COST).area(1.0, 4.0) for curve in (oracle, random_mixing))
    assert knowing.area.value == pytest.approx(whole)
    assert knowing.over_mixing.value == pytest.approx(whole - mixing)
    assert knowing.over_mixing.low > 0
    assert set(knowing.over_candidate) == {0, 1, 2}
    assert knowing.over_candidate[0].value == pytest.approx(0)
    assert min(knowing.over_candidate[number].low for number in (1, 2)) > 0
    noise = compare(generator.normal(size=truth.shape), truth, COST, resamples=200)
    assert noise.over_mixing.value < 0
    assert noise.area.low < noise.area.value < noise.area.high


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    population = generator.normal([0.0, 0.5, 0.7], size=(20_000, 3))
    noisy = population + generator.normal(size=population.shape)
    true = compare(noisy, population, COST, resamples=1).over_mixing.value
    covered = 0
    for _ in range(30):
        drawn = generator.choice(len(population), 150)
        interval = compare(noisy[drawn], population[drawn], COST, resamples=60, level=0.9).over_mixing
        covered += interval.low <= true <= interval.high
    assert 23 <= covered <= 30


def test_weights_are_the_same_as_repeating_prompts() -> None:
    generator = np.random.default_rng(3)
    truth = generator.normal(size=(5, 3))
    estimates = truth + generator.normal(size=truth.shape)
    times = np.array([3, 0, 1, 2, 1])
    repeated = routed(np.repeat(estimates, times, axis=0), np.repeat(truth, times, axis=0), COST)
    path = LambdaPath.of(estimates, COST)
    weighted = DeferralCurve(path.means(COST, times), path.means(truth, times), path.levels)
    at = np.linspace(1.01, 4, 50)
    assert weighted.quality_at(at).tolist() == pytest.approx(repeated.quality_at(at).tolist())
