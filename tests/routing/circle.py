"""Prompts on a circle, whose quality follows from their place on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import Prompt, Score, ScoreTable, Variant
from matchgraph.routing.prompts import split
from matchgraph.training.measure.prompts import EncodedPrompts

VARIANTS = tuple(Variant(f"m-{steps}", "m", Drawing(steps), float(steps)) for steps in (1, 4, 20))


def points(count: int, seed: int = 0) -> tuple[np.ndarray, EncodedPrompts]:
    """Angles, and prompts encoded as points on the unit circle, whose one real token is that point."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # A second token is noise that the mask leaves out.
    noise = np.random.default_rng(seed + 1).normal(size=points.shape).astype(np.float32) * 50
    mask = np.tile([True, False], (count, 1))
    return angles, EncodedPrompts(points, np.stack([points, noise], axis=1), mask)


def truth(angles: np.ndarray) -> np.ndarray:
    """Quality of the three variants: the last is best on one side of the circle, the second on the other."""
    return np.stack([np.zeros_like(angles), 1 + np.cos(angles), 1 - np.cos(angles)], axis=1) - 3


class Encoder:
    """Reads a prompt `<angle>` as the point at that angle."""

    hash = "probe"

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """See `PromptEncoder.encode`."""
        angles = np.array([float(prompt) for prompt in prompts])
        found = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        count = len(prompts)
        return EncodedPrompts(found, found[:, None], np.ones((count, 1), bool))


def table(count: int, *, metric: str = "clip_score", spread: float = 0.0) -> ScoreTable:
    """Scores of prompts that `Encoder` reads; the angles are even, or of a part of the circle.

    Args:
        count: prompts.
        metric: of the scores.
        spread: standard deviation of noise upon the scores.
    """
    angles = np.linspace(0, np.pi, count, endpoint=False)
    encoded = Encoder().encode([str(angle) for angle in angles])
    names = split(count)
    prompts = tuple(
        Prompt(str(angle), name, "probe", embedding)
        for angle, name, embedding in zip(angles, names, encoded.embeddings, strict=True)
    )
    mean = truth(angles) + np.random.default_rng(5).normal(scale=spread, size=(count, 3))
    samples = np.full(mean.shape, 4)
    return ScoreTable(metric, "scorer", prompts, VARIANTS, mean, np.full_like(mean, 0.1), samples)


class Graph:
    """A prompt graph in memory.

    Args:
        scores: what it holds.
    """

    def __init__(self, scores: ScoreTable) -> None:
        self.scores, self.saved = scores, []

    def table(self, metric: str) -> ScoreTable:
        """See `PromptGraph`, as for all that follows."""
        assert metric == self.scores.metric
        return self.scores

    def variants(self) -> list[Variant]:
        return list(self.scores.variants)

    def prompts(self) -> list[Prompt]:
        return list(self.scores.prompts)

    def texts(self, split: str) -> list[str]:
        return [prompt.text for prompt in self.scores.prompts if prompt.split == split]

    def scored(self, variant: str, metric: str, scorer: str, samples: int) -> set[str]:
        return {
            score.prompt
            for score in self.saved
            if (score.variant, score.metric, score.scorer) == (variant, metric, scorer)
            and score.samples >= samples
        }

    def save_scores(self, scores: Iterable[Score]) -> None:
        self.saved += scores
