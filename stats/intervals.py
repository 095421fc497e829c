"""A figure and how sure it is: percentile intervals of the bootstrap, over datasets or over prompts.

An interval is the 2.5 and the 97.5 percentile of the resampled figure, where it is defined.

Source:
    Efron and Tibshirani, "An introduction to the bootstrap" (1993), section 13.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RESAMPLES = 1000
# The mean of a few numbers is cheap to resample.
RESAMPLES_OF_A_MEAN = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval.

    Attributes:
        value: the figure on the sample as it is; NaN where it is not defined.
        low: lower end.
        high: upper end.
        count: what was resampled: how many datasets or prompts.
    """

    value: float
    low: float
    high: float
    count: int


def bootstrap(
    figures: Callable[[np.ndarray], ArrayLike],
    count: int,
    *,
    samples: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> list[Interval]:
    """Percentile intervals of figures of weighted images; the images of a prompt are drawn together.

    Args:
        figures: of weights, float64, (count,), which say how often each image was drawn; always equally many
            figures, NaN where one is not defined.
        count: images, those of a prompt next to each other.
        samples: images of each prompt.
        seed: of the resamples.
        resamples: how many.
        level: of the intervals, in (0, 1).

    Returns:
        One interval per figure, over the resamples in which it is defined; NaN where there are none.
    """
    prompts = count // samples

    def of_drawn(drawn: np.ndarray) -> np.ndarray:
        weights = np.bincount(drawn, minlength=prompts).astype(float)
        return np.asarray(figures(np.repeat(weights, samples)), dtype=float)

    values = of_drawn(np.arange(prompts))
    if prompts < 2:
        resampled = values[:, None]
    else:
        resampled = np.stack([of_drawn(drawn) for drawn in _draws(prompts, resamples, seed)], axis=-1)
    return [
        Interval(float(value), *_ends(own, level), prompts)
        for value, own in zip(values, resampled, strict=True)
    ]


def mean_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean and its percentile interval.

    Args:
        values: float64, (n,), such as one figure per dataset; NaN, where it is not defined, is left out and
            not counted.
        seed: of the resamples.

    Returns:
        The mean, both ends, and how many values count; all NaN where none does.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(known.mean())
    if len(known) == 1:
        return Interval(mean, mean, mean, 1)
    means = known[_draws(len(known), RESAMPLES_OF_A_MEAN, seed)].mean(axis=-1)
    return Interval(mean, *_ends(means, LEVEL), len(known))


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """Resamples with replacement, (resamples, count), those that `scipy.stats.bootstrap` draws."""
    return np.random.default_rng(seed).integers(0, count, (resamples, count))


def _ends(resampled: np.ndarray, level: float) -> tuple[float, float]:
    """The percentiles of the resamples in which a figure is defined."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
