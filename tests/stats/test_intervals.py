"""Bootstrap intervals against what is known of means, and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from matchgraph.stats.intervals import bootstrap, mean_interval


def test_the_interval_of_a_mean_is_as_wide_as_its_error() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    [found] = bootstrap(lambda w: [float(np.average(values, weights=w))], 400, level=0.95)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    [narrow] = bootstrap(lambda w: [float(np.average(values, weights=w))], 400, level=0.5)
    assert found.low < narrow.low < found.value < narrow.high < found.high
    # One seed, one interval.
    again, other = (bootstrap(lambda w: [float(np.average(values, weights=w))], 400, seed=s) for s in (0, 1))
    assert again == [found] != other


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(2).normal(size=31)
    rng = np.random.default_rng(0)
    known = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=rng)
    found = mean_interval(np.append(values, np.nan))
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval), rel=1e-12)


def test_a_figure_that_some_resamples_lack_is_of_the_others() -> None:
    rare = np.array([1.0] + [0.0] * 9)

    def figures(weights: np.ndarray) -> list[float]:
        return [5.0 if (weights * rare).sum() else float("nan"), float("nan")]

    sometimes, never = bootstrap(figures, 10)
    assert (sometimes.low, sometimes.high) == (5, 5)
    assert np.isnan([never.value, never.low, never.high]).all()


def test_images_of_a_prompt_are_drawn_together() -> None:
    """Fifty prompts with two equal images each are fifty observations, not a hundred."""
    values = np.repeat(np.random.default_rng(0).normal(size=50), 2)
    [together] = bootstrap(lambda w: [float(np.average(values, weights=w))], 100, samples=2, resamples=4000)
    [apart] = bootstrap(lambda w: [float(np.average(values, weights=w))], 100, resamples=4000)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(2), rel=0.1)
    assert together.low < values.mean() < together.high


class TestMean:
    def test_a_constant_has_no_spread(self):
        interval = mean_interval(np.full(5, 2.0))
        assert (interval.value, interval.low, interval.high, interval.count) == (2, 2, 2, 5)

    def test_covers_like_the_normal_interval_for_many_folds(self):
        values = np.random.default_rng(0).normal(3, 2, size=400)
        interval = mean_interval(values, seed=1)
        half_width = 1.96 * values.std() / np.sqrt(len(values))
        assert interval.low == pytest.approx(values.mean() - half_width, abs=0.02)
        assert interval.high == pytest.approx(values.mean() + half_width, abs=0.02)

    def test_undefined_folds_are_left_out(self):
        assert mean_interval(np.array([1.0, np.nan, 3.0])).value == 2
        assert mean_interval(np.array([1.0, np.nan, 3.0])).count == 2
        assert mean_interval(np.array([np.nan])).count == 0

    def test_repeats_with_one_seed(self):
        values = np.random.default_rng(2).normal(size=9)
        assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
        assert mean_interval(values, seed=4) != mean_interval(values, seed=5)
