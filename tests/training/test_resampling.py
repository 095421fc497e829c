"""Bootstrap intervals against what is known of means."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.stats.resampling import bootstrap


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
    [together] = bootstrap(lambda w: [float(np.average(values, weights=w))], 100, samples=2)
    [apart] = bootstrap(lambda w: [float(np.average(values, weights=w))], 100)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(2), rel=0.1)
    assert together.low < values.mean() < together.high
