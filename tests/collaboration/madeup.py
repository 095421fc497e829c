"""Made-up trials with a known answer."""

from __future__ import annotations

import numpy as np

from matchgraph.collaboration.trials import Column, Trials

COUNT, SAMPLES, DIMENSION = 600, 2, 4


def made(seed: int, informed: bool) -> Trials:
    """A student that is bad on some images, which its own score says (or not), and a teacher that is even."""
    generator = np.random.default_rng(seed)
    difficulty = generator.uniform(size=COUNT)
    teacher_features = generator.normal(size=(COUNT, DIMENSION))

    def column(name: str, steps: int, mean: np.ndarray, stray: np.ndarray) -> Column:
        noise = generator.normal(scale=0.05, size=COUNT)
        features = teacher_features + stray[:, None] * generator.normal(size=(COUNT, DIMENSION))
        scores = {"clip_score": mean + noise}
        return Column(
            name, steps, float(steps), scores, features.astype(np.float32), 100 * difficulty, 1 - difficulty
        )

    bad = 1 - 2 * difficulty if informed else np.zeros(COUNT)
    student = column("student@1", 1, bad, 2 * difficulty)
    more = column("student@4", 4, bad, 2 * difficulty)
    teachers = tuple(
        column(f"teacher@{steps}", steps, np.full(COUNT, level), np.zeros(COUNT))
        for steps, level in ((4, -0.2), (10, 0.2), (20, 0.3))
    )
    refined = column("refine-0.5@5", 5, np.full(COUNT, 0.25), np.full(COUNT, 0.5))
    prompts = tuple(f"prompt {number // SAMPLES}" for number in range(COUNT))
    return Trials(prompts, SAMPLES, (student, more), teachers, (refined,))
