"""Frechet distance between Gaussians fitted to image features, in float64 with NumPy and SciPy alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from matchgraph.training.errors import DistanceError, NonFiniteDistance, ShapeMismatch, TooFewSamples

# How far below zero an eigenvalue of a covariance may lie, relative to the largest, before it is no rounding:
# float32 statistics of fewer images than dimensions stay inside, a matrix that is not a covariance does not.
EIGENVALUE_TOLERANCE = 1e-5
# How far, relative to the distance, the cheaper way to compute one may be off before the other is taken.
FAST_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance of the features of a set of images.

    Attributes:
        n: number of images.
        mean: float64, (d,); for a probe model's features, the dataset's mean image embedding.
        covariance: float64, (d, d), unbiased (divided by n - 1).
    """

    n: int
    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        mean, covariance = _checked(self.mean, self.covariance)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)


class GaussianAccumulator:
    """Mean and covariance of features that arrive in batches.

    Batches are centred before they are squared (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), so a large common offset costs no digits.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """Take in a batch.

        Args:
            features: (n, d), any real dtype; n may be 0.

        Raises:
            ShapeMismatch: not two-dimensional, or another d than before.
            NonFiniteDistance: a value is infinite or not a number.
        """
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] == 0:
            raise ShapeMismatch(f"Features must have shape (n, d), got {batch.shape}.")
        if not np.isfinite(batch).all():
            raise NonFiniteDistance("Features hold infinite values or NaN.")
        if len(batch) == 0:
            return
        n, mean = len(batch), batch.mean(axis=0)
        centred = batch - mean
        scatter = centred.T @ centred
        if self._mean is None or self._scatter is None:
            self.n, self._mean, self._scatter = n, mean, scatter
            return
        if mean.shape != self._mean.shape:
            raise ShapeMismatch(f"Features have dimension {mean.size}, those before {self._mean.size}.")
        total = self.n + n
        shift = mean - self._mean
        self._mean = self._mean + shift * (n / total)
        self._scatter = self._scatter + scatter + np.outer(shift, shift) * (self.n * n / total)
        self.n = total

    @property
    def mean(self) -> np.ndarray:
        """Mean of all features, float64, (d,).

        Raises:
            TooFewSamples: nothing was added.
        """
        if self._mean is None:
            raise TooFewSamples("No features were added, so there is no mean.")
        return self._mean.copy()

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance of all features, float64, (d, d), exactly symmetric.

        Raises:
            TooFewSamples: fewer than two rows were added.
        """
        if self.n < 2 or self._scatter is None:
            raise TooFewSamples(f"A covariance needs at least 2 images, got {self.n}.")
        covariance = self._scatter / (self.n - 1)
        return (covariance + covariance.T) / 2

    def statistics(self) -> GaussianStatistics:
        """All of it as one frozen value.

        Raises:
            TooFewSamples: fewer than two rows were added.
        """
        return GaussianStatistics(self.n, self.mean, self.covariance)


def gaussian_statistics(features: np.ndarray) -> GaussianStatistics:
    """Fit a Gaussian to features that are all in memory.

    Args:
        features: (n, d) with n >= 2.

    Raises:
        DistanceError: wrong shape, values that are not finite, or fewer than two rows.
    """
    accumulator = GaussianAccumulator()
    accumulator.add(features)
    return accumulator.statistics()


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Squared Frechet distance between two Gaussians; 0 for equal ones, smaller is more similar.

    |mean1 - mean2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). With factors C = F F^T, the trace of (C1 C2)^(1/2) is
    the sum of the singular values of F1^T F2, or of the roots of the eigenvalues of F1^T C2 F1: the same
    number, and real for every pair of covariances, rank-deficient ones included, where a general matrix
    square root turns complex. The eigenvalues are cheaper and are used where they are accurate enough.

    Args:
        mean1: (d,).
        covariance1: (d, d), symmetric positive semi-definite.
        mean2: (d,).
        covariance2: (d, d), symmetric positive semi-definite.

    Returns:
        d_F^2 >= 0, as FID reports it (not its root).

    Raises:
        ShapeMismatch: dimensions do not agree.
        NonFiniteDistance: an input or the result is not finite.
        DistanceError: a matrix is not a covariance.

    Source:
        Match & Choose, Eq. 2; Dowson and Landau, "The Frechet distance between multivariate normal
        distributions" (1982).
    """
    one = GaussianStatistics(0, mean1, covariance1)
    two = GaussianStatistics(0, mean2, covariance2)
    return frechet_between(Root(one), Root(two))


def distances_between(pairs: Sequence[tuple[Root, Root]]) -> np.ndarray:
    """Squared Frechet distances of many pairs, shared out among the cores.

    Args:
        pairs: k pairs of Gaussians that are factored already.

    Returns:
        float64, (k,), in the order of `pairs`.

    Raises:
        DistanceError: as `frechet_distance`.
    """
    from threadpoolctl import threadpool_limits

    workers = min(len(pairs), os.cpu_count() or 1)
    if workers < 2:
        return np.array([frechet_between(one, two) for one, two in pairs], dtype=np.float64)
    # Several matrices at once, each on one core, gain more than several cores on one matrix of this size.
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        return np.array(list(pool.map(lambda pair: frechet_between(*pair), pairs)), dtype=np.float64)


class Root:
    """A Gaussian with a factor F of its covariance, C = F F^T, which is all that distances to others need.

    The factor is the Cholesky factor, ten times cheaper than a symmetric root; where the covariance is
    singular, as one of fewer images than dimensions is, it is (d, rank), by Cholesky with pivots or, where
    that is not exact, from the eigenvectors.

    Args:
        gaussian: the Gaussian.

    Raises:
        DistanceError: its matrix is not a covariance.
    """

    def __init__(self, gaussian: GaussianStatistics) -> None:
        from scipy.linalg import LinAlgError, cholesky

        self.gaussian = gaussian
        try:
            self.factor = cholesky(gaussian.covariance, lower=True)
        except LinAlgError:
            pivoted = _pivoted_factor(gaussian.covariance)
            self.factor = _low_rank_factor(gaussian.covariance) if pivoted is None else pivoted


def _pivoted_factor(covariance: np.ndarray) -> np.ndarray | None:
    """A factor by Cholesky with pivots, a fraction of the eigenvectors' cost; None where it leaves a rest, as
    of a matrix that is not a covariance.
    """
    from scipy.linalg.lapack import dpstrf

    largest = float(np.diagonal(covariance).max())
    tolerance = len(covariance) * np.finfo(np.float64).eps * largest
    triangle, pivots, rank, _ = dpstrf(covariance, lower=1, tol=tolerance)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(triangle)[:, :rank]
    rest = np.abs(np.diagonal(covariance) - np.sum(factor**2, axis=1)).max(initial=0.0)
    # Of a covariance, no entry of the rest is larger than the largest on its diagonal.
    if rest > 100 * tolerance or np.abs(covariance - factor @ factor.T).max() > 100 * tolerance:
        return None
    return factor


def _low_rank_factor(covariance: np.ndarray) -> np.ndarray:
    from scipy.linalg import LinAlgError, eigh

    try:
        eigenvalues, vectors = eigh(covariance)
    except LinAlgError as error:
        raise NonFiniteDistance(f"A covariance has no eigenvalues to be found: {error}.") from None
    largest = max(abs(eigenvalues[0]), abs(eigenvalues[-1]))
    if eigenvalues[0] < -EIGENVALUE_TOLERANCE * largest:
        raise DistanceError(f"A covariance has the negative eigenvalue {eigenvalues[0]:.3g}.")
    kept = eigenvalues > len(eigenvalues) * np.finfo(np.float64).eps * largest
    return vectors[:, kept] * np.sqrt(eigenvalues[kept])


def frechet_between(one: Root, two: Root) -> float:
    """Squared Frechet distance between two Gaussians that are factored already; see `frechet_distance`.

    Raises:
        DistanceError: as there.
    """
    if one.gaussian.mean.shape != two.gaussian.mean.shape:
        raise ShapeMismatch(
            f"Gaussians have dimensions {one.gaussian.mean.size} and {two.gaussian.mean.size}; "
            "are both from one extractor?"
        )
    # Overflow shows as a result that is not finite, which is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        shift = one.gaussian.mean - two.gaussian.mean
        alone = shift @ shift + np.trace(one.gaussian.covariance) + np.trace(two.gaussian.covariance)
        cross, uncertainty = _fast_cross(one, two)
        value = alone - 2 * cross
        if not 2 * uncertainty <= FAST_TOLERANCE * value:
            value = alone - 2 * _exact_cross(one, two)
    if not np.isfinite(value):
        raise NonFiniteDistance(f"The Frechet distance is not a valid number: {value}.")
    return max(0.0, float(value))


def _fast_cross(one: Root, two: Root) -> tuple[float, float]:
    """Return tr (C1 C2)^(1/2) from the eigenvalues of F1^T C2 F1, and how far rounding may have moved it.

    Eigenvalues are squared singular values, so small ones lose their digits to the largest one: each is off
    by its rounding, and these add up as independent errors do. Factors are graded, so that the true error is
    mostly several orders smaller.
    """
    # The product of the smaller factor has no eigenvalues that are zero but for rounding.
    if two.factor.shape[1] < one.factor.shape[1]:
        one, two = two, one
    if one.factor.shape[1] == 0:
        return 0.0, 0.0
    try:
        # NumPy's, since SciPy's would keep other threads from running.
        eigenvalues = np.linalg.eigvalsh(one.factor.T @ two.gaussian.covariance @ one.factor)
    except np.linalg.LinAlgError:
        return np.nan, np.inf
    rounding = np.finfo(np.float64).eps * abs(eigenvalues[-1])
    roots = np.sqrt(eigenvalues.clip(min=0))
    errors = rounding / np.maximum(roots, np.sqrt(rounding)) if rounding else roots
    return float(roots.sum()), float(np.sqrt((errors**2).sum()))


def _exact_cross(one: Root, two: Root) -> float:
    """Return tr (C1 C2)^(1/2) as the sum of the singular values of F1^T F2."""
    from scipy.linalg import LinAlgError, svdvals

    if not (one.factor.size and two.factor.size):
        return 0.0
    try:
        return float(svdvals(one.factor.T @ two.factor, overwrite_a=True).sum())
    except (LinAlgError, ValueError) as error:
        raise NonFiniteDistance(f"The Frechet distance could not be computed: {error}.") from None


def _checked(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Copies: what the caller does with its arrays later must not change the statistics.
    mean = np.array(mean, dtype=np.float64)
    covariance = np.array(covariance, dtype=np.float64)
    if mean.ndim != 1 or mean.size == 0:
        raise ShapeMismatch(f"A mean must have shape (d,), got {mean.shape}.")
    if covariance.shape != (mean.size, mean.size):
        raise ShapeMismatch(f"The covariance for a mean of {mean.size} has shape {covariance.shape}.")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise NonFiniteDistance("A mean or covariance holds infinite values or NaN.")
    # What the graph stores is symmetric to the bit, and seen to be so in a tenth of the time.
    if np.array_equal(covariance, covariance.T):
        return mean, covariance
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-7 * np.abs(covariance).max()):
        raise DistanceError("A covariance is not symmetric.")
    return mean, (covariance + covariance.T) / 2
