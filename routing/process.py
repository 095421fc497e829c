"""Quality of candidates by a Gaussian process over prompt embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.estimators import Estimates, known_mean, read_saved, scored_rows, unusable

if TYPE_CHECKING:
    from matchgraph.graphdb.prompts import ScoreTable
    from matchgraph.training.measure.prompts import EncodedPrompts

SAVED_PROCESS = "matchgraph-process-2"
# Solving for a process takes the cube of its prompts; of more, these many are drawn at random.
MOST_PROCESS_PROMPTS = 5_000


class GaussianQuality:
    """scikit-learn's Gaussian process over prompt embeddings, with the same kernel for every candidate.

    The kernel is exp(c (cosine - 1)): of unit vectors an RBF of length scale c^(-1/2). A prompt far from all
    training prompts is expected to have each candidate's mean quality over these. `fit` makes one, `load`
    reads one.

    Attributes:
        metric: of the quality.
        variants: ids of the candidates.
        concentration: c.
        noise: variance of a measured quality about the process, in units of the process' own.

    Source:
        Rasmussen and Williams, "Gaussian processes for machine learning" (2006), Algorithm 2.1.
    """

    def __init__(
        self,
        *,
        metric: str,
        variants: tuple[str, ...],
        concentration: float,
        noise: float,
        known: np.ndarray,
        apart: np.ndarray,
        average: np.ndarray,
    ) -> None:
        """Build it from what was learnt.

        Args:
            metric: see the class, as the next three.
            variants: likewise.
            concentration: likewise.
            noise: likewise.
            known: embeddings of the training prompts, float64, (k, d).
            apart: their qualities less the average, 0 where there is none, float64, (k, m).
            average: mean quality of each candidate, NaN where it is not scored, (m,).
        """
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF

        self.metric, self.variants = metric, variants
        self.concentration, self.noise = concentration, noise
        self._known, self._apart, self._average = known, apart, average
        kernel = RBF(concentration**-0.5, length_scale_bounds="fixed")
        self._process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(known, apart)
        # The process' own standard deviation, with which the marginal likelihood is largest.
        weights = self._process.alpha_.reshape(apart.shape)
        self._scale = np.sqrt(np.maximum((apart * weights).sum(axis=0), 0.0) / len(apart))

    @classmethod
    def fit(
        cls, table: ScoreTable, *, concentration: float = 3.0, noise: float = 1.0, seed: int = 0
    ) -> GaussianQuality:
        """Learn from the training prompts.

        Args:
            table: scores; a candidate that some prompts have no score of is taken to be average there.
            concentration: of the kernel.
            noise: see the class.
            seed: of the choice among more than `MOST_PROCESS_PROMPTS` prompts.

        Raises:
            NotEnoughScores: no training prompt is scored.
        """
        rows = scored_rows(table)
        if len(rows) > MOST_PROCESS_PROMPTS:
            generator = np.random.default_rng(seed)
            rows = np.sort(generator.choice(rows, MOST_PROCESS_PROMPTS, replace=False))
        known = np.stack([table.prompts[row].embedding for row in rows]).astype(np.float64)
        scores = table.mean[rows]
        average = known_mean(scores, 0)
        return cls(
            metric=table.metric,
            variants=tuple(variant.id for variant in table.variants),
            concentration=concentration,
            noise=noise,
            known=known,
            apart=np.nan_to_num(scores - average),
            average=average,
        )

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`."""
        asked = prompts.embeddings.astype(np.float64)
        mean, std = self._process.predict(asked, return_std=True)
        # One target comes back without its column, and all targets have the same relative error.
        quality = self._average + mean.reshape(len(asked), -1)
        error = std.reshape(len(asked), -1)[:, :1] * self._scale
        return Estimates(
            quality, np.where(np.isnan(quality), np.nan, error), (asked @ self._known.T).max(axis=1)
        )

    def save(self, path: Path) -> None:
        """Write all of it as one safetensors file, whole or not at all."""
        import torch

        from matchgraph.training.files import write_tensors

        facts = {
            "format": SAVED_PROCESS,
            "metric": self.metric,
            "variants": self.variants,
            "concentration": self.concentration,
            "noise": self.noise,
        }
        tensors = {"known": self._known, "apart": self._apart, "average": self._average}
        write_tensors(
            path,
            {name: torch.from_numpy(value) for name, value in tensors.items()},
            {"estimator": json.dumps(facts)},
        )

    @classmethod
    def load(cls, path: Path) -> GaussianQuality:
        """Read what `save` wrote.

        Raises:
            UnusableEstimator: it cannot be read, or an earlier version wrote it.
        """
        facts, tensors = read_saved(path, SAVED_PROCESS)
        try:
            return cls(
                metric=facts["metric"],
                variants=tuple(facts["variants"]),
                concentration=float(facts["concentration"]),
                noise=float(facts["noise"]),
                **{name: tensors[name].numpy() for name in ("known", "apart", "average")},
            )
        except (KeyError, ValueError, TypeError) as problem:
            raise unusable(path, problem) from None
