"""Kernel distances between sets of features, KID and CMMD, in blocks, so that memory does not grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from matchgraph.training.errors import NonFiniteDistance, ShapeMismatch, TooFewSamples

# Of the reference implementations.
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
KID_SEED = 2020
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
BLOCK_ROWS = 1024

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Distance:
    """How far apart two samples are; smaller is more similar, about 0 for two samples of one distribution.

    Attributes:
        value: the estimate; an unbiased one may fall a little below 0.
        std: standard deviation over the subsets it is the mean of, None where there are none.
    """

    value: float
    std: float | None = None


def kid(
    one: np.ndarray,
    two: np.ndarray,
    *,
    subsets: int = KID_SUBSETS,
    subset_size: int | None = None,
    seed: int = KID_SEED,
) -> Distance:
    """Kernel distance with the cubic kernel (x.y / d + 1)^3, as the mean over random subsets.

    Args:
        one: features, (n, d); an array on disk is read subset by subset.
        two: features, (m, d).
        subsets: how many subsets of each.
        subset_size: rows in a subset, at most n and m; by default 1000, and half of the smaller set where
            that has fewer than 1000 rows. The references have no value there, or take all rows in every
            subset, whose deviation says nothing; the mean is unbiased for every size.
        seed: of the choice of rows.

    Raises:
        TooFewSamples: a subset would have fewer than two rows, or more than there are.
        ShapeMismatch: the sets differ in d.
        NonFiniteDistance: features that are not finite, or a result that is not.

    Source:
        Binkowski et al., "Demystifying MMD GANs" (2018), section 4 and Appendix: unbiased estimate, blocks of
        1000, 100 of them.
    """
    _check(one, two)
    smaller = min(len(one), len(two))
    if subset_size is None:
        subset_size = KID_SUBSET_SIZE if smaller >= KID_SUBSET_SIZE else max(2, smaller // 2)
    if not 2 <= subset_size <= smaller:
        raise TooFewSamples(f"KID takes subsets of {subset_size} features (2 or more), got {smaller}.")
    # NumPy's older generator, whose choices are the same in all versions and in the references.
    rng = np.random.RandomState(seed)
    values = np.empty(subsets)
    # Overflow shows as a result that is not finite, which is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        for number in range(subsets):
            x = float_rows(one, rng.choice(len(one), subset_size, replace=False))
            y = float_rows(two, rng.choice(len(two), subset_size, replace=False))
            values[number] = _within(x, cubic) + _within(y, cubic) - 2 * cubic(x, y).mean()
        return Distance(_finite(values.mean()), _finite(values.std()))


def cmmd(
    one: np.ndarray,
    two: np.ndarray,
    *,
    within_one: float | None = None,
    within_two: float | None = None,
) -> Distance:
    """Kernel distance with the kernel exp(-|x - y|^2 / (2 sigma^2)) on features of length 1, times 1000.

    The estimate is the unbiased one of the publication's equation. Its code counts the pairs of a row with
    itself too, which makes the value larger by 1000 (1/n + 1/m) (1 - k), k the mean kernel value, which is
    above 0.98: by less than 0.004 for 10,000 images of each.

    Args:
        one: features before they are normalised, (n, d).
        two: features, (m, d).
        within_one: `mean_similarity` of `one`, where it is known.
        within_two: that of `two`.

    Raises:
        TooFewSamples: a set has fewer than two rows.
        ShapeMismatch: the sets differ in d.
        NonFiniteDistance: features that are not finite or all zero, or a result that is not finite.

    Source:
        Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation" (2024),
        section 4: Eq. 4, sigma = 10, scaled by 1000.
    """
    _check(one, two)
    between = 0.0
    for place in blocks(len(one)):
        x = unit_rows(one, place)
        for other in blocks(len(two)):
            between += gaussian(x, unit_rows(two, other)).sum()
    between /= len(one) * len(two)
    within_one = mean_similarity(one) if within_one is None else within_one
    within_two = mean_similarity(two) if within_two is None else within_two
    return Distance(_finite(CMMD_SCALE * (within_one + within_two - 2 * between)))


def mean_similarity(features: np.ndarray) -> float:
    """Mean of CMMD's kernel over all pairs of different rows: the part of a distance that one set decides.

    Args:
        features: (n, d), before they are normalised.

    Raises:
        TooFewSamples: fewer than two rows.
        NonFiniteDistance: features that are not finite, or all zero.
    """
    _check(features, features)
    total = 0.0
    for place in blocks(len(features)):
        x = unit_rows(features, place)
        block = gaussian(x, x)
        total += block.sum() - np.trace(block)
        for other in blocks(len(features), place.start + BLOCK_ROWS):
            total += 2 * gaussian(x, unit_rows(features, other)).sum()
    return float(total / (len(features) * (len(features) - 1)))


def _within(rows: np.ndarray, kernel: Kernel) -> float:
    values = kernel(rows, rows)
    return float((values.sum() - np.trace(values)) / (len(rows) * (len(rows) - 1)))


def blocks(n: int, start: int = 0) -> list[slice]:
    """The rows from `start` on of n, in parts that are computed with at once."""
    return [slice(first, first + BLOCK_ROWS) for first in range(start, n, BLOCK_ROWS)]


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel of every row with every other."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """CMMD's kernel of every row with every other, of rows of length 1."""
    # Of rows of length 1, |x - y|^2 = 2 - 2 x.y
    return np.exp((x @ y.T - 1) / CMMD_SIGMA**2)


def unit_rows(features: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
    """Rows of length 1, float64.

    Args:
        features: (n, d).
        which: rows to read.

    Raises:
        NonFiniteDistance: features that are not finite, or all zero.
    """
    rows = float_rows(features, which)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise NonFiniteDistance("A feature vector is all zeros, which has no direction.")
    return rows / lengths


def float_rows(features: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
    """Rows as they are, float64.

    Args:
        features: (n, d).
        which: rows to read.

    Raises:
        NonFiniteDistance: features that are not finite.
    """
    rows = np.asarray(features[which], dtype=np.float64)
    if not np.isfinite(rows).all():
        raise NonFiniteDistance("Features hold infinite values or NaN.")
    return rows


def _check(one: np.ndarray, two: np.ndarray) -> None:
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1] or one.shape[1] == 0:
        raise ShapeMismatch(f"Features of shapes {one.shape} and {two.shape} cannot be compared.")
    if min(len(one), len(two)) < 2:
        raise TooFewSamples(
            f"A kernel distance needs at least 2 images of each set, got {len(one)} and {len(two)}."
        )


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise NonFiniteDistance(f"The kernel distance is not a valid number: {value}.")
    return float(value)
