"""Quality of candidates by a Gaussian process over prompt embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.estimators import Estimates, known_mean, read_saved, scored_rows, unusable

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.training.measure.prompts import EncodedPrompts

SAVED_PROCESS = "matchgraph-process-2"
# Solving for a process takes the cube of its prompts; of more, these many are drawn at random.
MOST_PROCESS_PROMPTS = 5_000


class GaussianQuality:
    """A Gaussian process over prompt embeddings, with the same kernel for every candidate.

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
            apart: their qualities less the average, NaN where there is none, float64, (k, m).
            average: mean quality of each candidate, NaN where it is not scored, (m,).
        """
        from scipy.linalg import cho_factor, cho_solve

        self.metric, self.variants = metric, variants
        self.concentration, self.noise = concentration, noise
        self._known, self._apart, self._average = known, apart, average
        self._factor = cho_factor(self._kernel(known) + noise * np.eye(len(known)), lower=True)
        apart = np.nan_to_num(apart)
        self._weights = cho_solve(self._factor, apart)
        # The process' own standard deviation, with which the marginal likelihood is largest.
        self._scale = np.sqrt(np.maximum((apart * self._weights).sum(axis=0), 0.0) / len(apart))

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
            apart=scores - average,
            average=average,
        )

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`."""
        from scipy.linalg import solve_triangular

        asked = prompts.embeddings.astype(np.float64)
        kernel = self._kernel(asked)
        quality = self._average + kernel @ self._weights
        explained = solve_triangular(self._factor[0], kernel.T, lower=True)
        variance = np.maximum(1.0 - (explained**2).sum(axis=0), 0.0)
        error = np.sqrt(variance)[:, None] * self._scale
        return Estimates(
            quality, np.where(np.isnan(quality), np.nan, error), (asked @ self._known.T).max(axis=1)
        )

    def left_out(self) -> np.ndarray:
        """What each training prompt came to, less what is expected of it by the others.

        Returns:
            float64, (k, m); NaN where a candidate is not scored on it, or on no other.

        Source:
            Rasmussen and Williams (2006), Eq. 5.12.
        """
        from scipy.linalg import cho_solve

        inverse = cho_solve(self._factor, np.eye(len(self._known)))
        scored = ~np.isnan(self._apart)
        others = scored.sum(axis=0) - 1.0
        others[others < 1] = np.nan
        # Without a prompt, the averages of all scored ones change by this.
        change = self._apart / others
        return np.asarray((self._weights + change * (inverse @ scored)) / np.diag(inverse)[:, None])

    def _kernel(self, asked: np.ndarray) -> np.ndarray:
        """With the training prompts, (n, k)."""
        return np.exp(self.concentration * (asked @ self._known.T - 1.0))

    def save(self, path: Path) -> None:
        """Write all of it as one safetensors file, whole or not at all."""
        from matchgraph.training.files import write_tensors

        facts = {
            "format": SAVED_PROCESS,
            "metric": self.metric,
            "variants": self.variants,
            "concentration": self.concentration,
            "noise": self.noise,
        }
        arrays = {"known": self._known, "apart": self._apart, "average": self._average}
        write_tensors(path, arrays, {"estimator": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> GaussianQuality:
        """Read what `save` wrote.

        Raises:
            UnusableEstimator: it cannot be read, or an earlier version wrote it.
        """
        facts, arrays = read_saved(path, SAVED_PROCESS)
        try:
            return cls(
                metric=facts["metric"],
                variants=tuple(facts["variants"]),
                concentration=float(facts["concentration"]),
                noise=float(facts["noise"]),
                **{name: arrays[name] for name in ("known", "apart", "average")},
            )
        except (KeyError, ValueError, TypeError) as problem:
            raise unusable(path, problem) from None
