"""How sure a figure over prompts is: percentile intervals of the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval over prompts.

    Attributes:
        value: on the prompts as they are.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def bootstrap(
    figures: Callable[[np.ndarray], Sequence[float]],
    count: int,
    *,
    samples: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> list[Interval]:
    """Percentile intervals of figures of weighted images; the images of a prompt are drawn together.

    Args:
        figures: of weights, float64, (count,); as many each time, NaN where one is not defined.
        count: images, those of a prompt together.
        samples: images of each prompt.
        seed: of the resamples.
        resamples: how many.
        level: of the intervals, in (0, 1).

    Returns:
        One interval a figure, over the resamples in which it is defined; NaN where there are none.

    Source:
        Efron and Tibshirani, "An introduction to the bootstrap" (1993), section 13.3.
    """
    prompts = count // samples
    draws = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    rows = np.array([figures(np.repeat(w, samples).astype(float)) for w in [np.ones(prompts, int), *draws]])
    tail = (1 - level) / 2
    found = []
    for value, resampled in zip(rows[0], rows[1:].T, strict=True):
        known = resampled[~np.isnan(resampled)]
        ends = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        found.append(Interval(float(value), *map(float, ends)))
    return found
