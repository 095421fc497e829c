"""How far a distance would move if other images were generated: its standard error, and its bias.

The dataset's images are taken as they are, since all models are measured against the same ones; what varies
is which images a model happens to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from matchgraph.training.measure.frechet import GaussianStatistics, Root
from matchgraph.training.measure.kernels import CMMD_SCALE, blocks, cubic, float_rows, gaussian, unit_rows

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Uncertainty:
    """What is known of the error of a distance.

    Attributes:
        standard_error: standard deviation of the value over repeated draws of as many images; None where
            these are too few to tell.
        bias: how far the value is expected to lie above that of endlessly many images; None for an unbiased
            distance.
    """

    standard_error: float | None
    bias: float | None = None


def frechet_uncertainty(
    rows: np.ndarray, made: GaussianStatistics, real: Root, groups: Sequence[int] | None = None
) -> Uncertainty:
    """Standard error and bias of the Frechet distance, from its first and second derivative.

    With C the covariance of the generated features, F F^T that of the dataset's, and M = F^T C F = U L U^T,
    the derivative of tr M^(1/2) by C is F M^(-1/2) F^T / 2. So an image x moves the distance by
    2 (m - m_real)'(x - m) + |x - m|^2 - sum_k y_k^2 / L_k^(1/2), y = U^T F^T (x - m), less the mean of that
    over all images. The bias is half the expected second derivative, of order 1/n:
    tr C / n + 1/2 sum_kl Var(y_k y_l) / (n L_k^(1/2) L_l^(1/2) (L_k^(1/2) + L_l^(1/2))).
    Both are of the order 1/n and too small where there are fewer images than the distance has directions.

    Args:
        rows: features of the generated images, (n, d).
        made: their mean and covariance.
        real: the dataset's Gaussian, factored.
        groups: which caption each image was drawn for; the captions are then taken as they are, and what
            varies between them is not an error. None for images that are drawn independently.

    Source:
        Hampel, "The influence curve and its role in robust estimation" (1974), for the first; Chong and
        Forsyth, "Effectively unbiased FID and Inception score and where to find them" (2020), for the bias,
        which they extrapolate.
    """
    n, factor = len(rows), real.factor
    values, vectors = np.linalg.eigh(factor.T @ made.covariance @ factor)
    kept = values > len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)
    values, seen = values[kept], factor @ vectors[:, kept]
    roots = np.sqrt(values)
    shift = made.mean - real.gaussian.mean
    influence = np.empty(n)
    fourth = np.zeros((len(values), len(values)))
    for place in blocks(n):
        centred = float_rows(rows, place) - made.mean
        squares = (centred @ seen) ** 2
        fourth += squares.T @ squares
        influence[place] = 2 * centred @ shift + (centred**2).sum(axis=1) - squares @ (1 / roots)
    varying = fourth / n - np.diag(values**2)
    curvature = np.outer(roots, roots) * (roots[:, None] + roots[None, :])
    bias = (np.trace(made.covariance) + (varying / curvature).sum() / 2) / n
    return Uncertainty(float(np.sqrt(variance_of_mean(influence, groups))), float(bias))


def kernel_uncertainty(
    rows: np.ndarray,
    real: np.ndarray,
    distance: str,
    groups: Sequence[int] | None = None,
    *,
    further: float = 0.0,
) -> Uncertainty:
    """Standard error of KID or CMMD, by the variance of a U-statistic of order two.

    With a_i the mean kernel of image i with the dataset's, b_i that with the other generated ones, its
    first-order part is the variance of 2 (b_i - a_i) over n. That of pairs, 2 v / (n (n - 1)) with v the
    variance of the kernel centred by rows and columns, is contained in the first twice and counts once.

    Args:
        rows: features of the generated images, (n, d).
        real: those of the dataset's, (m, d).
        distance: "kid" or "cmmd".
        groups: see `frechet_uncertainty`.
        further: variance that the estimate has beside, as KID from being a mean over random subsets.

    Source:
        Hoeffding, "A class of statistics with asymptotically normal distribution" (1948), section 5;
        Binkowski et al., "Demystifying MMD GANs" (2018), appendix on the estimator's variance.
    """
    kernel, read, scale = (cubic, float_rows, 1.0) if distance == "kid" else (gaussian, unit_rows, CMMD_SCALE)
    n, m = len(rows), len(real)
    if n < 3:
        return Uncertainty(None)
    within, between, squares = np.zeros(n), np.zeros(n), 0.0
    for place in blocks(n):
        x = read(rows, place)
        for other in blocks(m):
            between[place] += kernel(x, read(real, other)).sum(axis=1)
        for other in blocks(n):
            block = kernel(x, read(rows, other))
            if other == place:
                np.fill_diagonal(block, 0.0)
            within[place] += block.sum(axis=1)
            squares += (block**2).sum()
    within /= n - 1
    between /= m
    of_pairs = max(squares / (n * (n - 1)) - 2 * (within**2).mean() + within.mean() ** 2, 0.0)
    least = 2 * of_pairs / (n * (n - 1))
    variance = max(variance_of_mean(2 * (within - between), groups) - least, least)
    return Uncertainty(float(np.sqrt(scale**2 * variance + further)))


def variance_of_mean(values: np.ndarray, groups: Sequence[int] | None = None) -> float:
    """Variance of the mean of values that were drawn independently, or independently within groups.

    Args:
        values: (n,).
        groups: of each value. Groups of one value are taken together, as if chosen at random.
    """
    n = len(values)
    if groups is None:
        return float(values.var(ddof=1) / n)
    _, group, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    alone = counts[group] == 1
    # A single value alone says nothing of its group, so it is given the spread of all.
    if alone.sum() == 1:
        return float(values.var(ddof=1) / n)
    group = np.where(alone, len(counts), group)
    counts = np.bincount(group)
    sums = np.bincount(group, values)
    used = counts > 1
    means = np.divide(sums, counts, out=np.zeros(len(counts)), where=used)
    spread = np.bincount(group, (values - means[group]) ** 2, minlength=len(counts))
    return float((counts[used] * spread[used] / (counts[used] - 1)).sum() / n**2)
