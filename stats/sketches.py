"""Gaussians in brief, from which the Frechet distance of two is bounded from below.

A Gaussian is kept as its mean, its total variance and its covariance within a few shared directions. No
coupling of two Gaussians is nearer than the nearest ones of their parts in two orthogonal subspaces taken
together, since a squared distance is the sum of those in both, so

    d^2 >= |m1 - m2|^2 + B(P C1 P, P C2 P) + (sqrt t1 - sqrt t2)^2,

where P projects onto the directions, B is the covariance part of the Frechet distance, and t is the variance
outside of them, whose part of the distance is bounded by traces alone (Gelbrich, "On a formula for the L2
Wasserstein metric between measures on Euclidean and Hilbert spaces", 1990). With all directions, the bound is
the distance.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

# Shared directions. Of 512 dimensions, a sketch is a hundredth of the covariance.
DIRECTIONS = 64
# Factors are kept in single precision, which moves a distance by less than that share of both traces.
SLACK = 1e-5
BATCH = 256


def leading_directions(covariances: Sequence[np.ndarray]) -> np.ndarray:
    """The directions in which Gaussians vary most on average.

    Args:
        covariances: (d, d) each, at least one.

    Returns:
        float32, (d, min(64, d)), orthonormal columns.
    """
    pooled = sum(covariances) / len(covariances)
    _, vectors = np.linalg.eigh(pooled)
    return np.ascontiguousarray(vectors[:, ::-1][:, :DIRECTIONS], dtype=np.float32)


def projected_factor(covariance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """A factor F of a covariance within some directions, P C P = F F^T.

    Args:
        covariance: (d, d).
        directions: (d, r).

    Returns:
        float32, (r, r), lower triangular. In single precision it keeps seven digits of a distance, of which
        a covariance would keep three.
    """
    basis = directions.astype(np.float64)
    inner = basis.T @ covariance @ basis
    eigenvalues, vectors = np.linalg.eigh((inner + inner.T) / 2)
    root = vectors * np.sqrt(eigenvalues.clip(min=0))
    return np.asarray(np.linalg.qr(root.T, mode="r")).T.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Sketches:
    """Gaussians in brief, each of the first axis.

    Attributes:
        means: float64, (n, d).
        traces: float64, (n,), total variances.
        factors: float32, (n, r, r), see `projected_factor`.
    """

    means: np.ndarray
    traces: np.ndarray
    factors: np.ndarray

    def __len__(self) -> int:
        return len(self.traces)

    def quick_bounds(self, mean: np.ndarray, trace: float) -> np.ndarray:
        """Lower bounds of the squared Frechet distances to one Gaussian, by means and traces alone.

        Args:
            mean: (d,).
            trace: its total variance.

        Returns:
            float64, (n,).
        """
        # Not by dot products, which lose the digits of near means.
        shifts = np.array([np.sum((own - mean) ** 2) for own in self.means])
        return shifts + (np.sqrt(self.traces) - np.sqrt(trace)) ** 2

    def bounds(self, places: np.ndarray, mean: np.ndarray, trace: float, factor: np.ndarray) -> np.ndarray:
        """Lower bounds of the squared Frechet distances to one Gaussian, from all that is kept.

        Args:
            places: indices of the Gaussians to compare with.
            mean: (d,).
            trace: its total variance.
            factor: (r, r), see `projected_factor`.

        Returns:
            float64, of the length of `places`.
        """
        from threadpoolctl import threadpool_limits

        own = factor.astype(np.float64)
        inside = float(np.sum(own**2))

        def of_batch(batch: np.ndarray) -> np.ndarray:
            factors = self.factors[batch].astype(np.float64)
            products = own.T @ factors
            squares = np.linalg.eigvalsh(products @ products.transpose(0, 2, 1))
            cross = np.sqrt(squares.clip(min=0)).sum(axis=1)
            traces = self.traces[batch]
            insides = np.sum(factors**2, axis=(1, 2))
            outsides = np.sqrt((traces - insides).clip(min=0)) - np.sqrt(max(trace - inside, 0.0))
            shifts = np.array([np.sum((other - mean) ** 2) for other in self.means[batch]])
            return shifts + inside + insides - 2 * cross + outsides**2 - SLACK * (traces + trace)

        batches = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
        if not batches:
            return np.zeros(0)
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(of_batch, batches)))
