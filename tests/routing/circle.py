"""Prompts on a circle, whose quality follows from their place on it."""

from __future__ import annotations

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompts import Variant
from matchgraph.training.measure.prompts import EncodedPrompts

VARIANTS = tuple(Variant(f"m-{steps}", "m", Drawing(steps), float(steps)) for steps in (1, 4, 20))


def points(count: int, seed: int = 0) -> tuple[np.ndarray, EncodedPrompts]:
    """Angles, and prompts encoded as points on the unit circle, whose one real token is that point."""
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # A second token is noise that the mask leaves out.
    noise = np.random.default_rng(seed + 1).normal(size=points.shape).astype(np.float32) * 50
    mask = np.tile([True, False], (count, 1))
    return angles, EncodedPrompts(points, np.stack([points, noise], axis=1), mask, np.zeros(count, bool))


def truth(angles: np.ndarray) -> np.ndarray:
    """Quality of the three variants: the last is best on one side of the circle, the second on the other."""
    return np.stack([np.zeros_like(angles), 1 + np.cos(angles), 1 - np.cos(angles)], axis=1) - 3
