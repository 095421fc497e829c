"""The correction and percentile of the student's scores with the most quality for an average cost.

Everything is exact on the trials given: for each correction and each percentile the mean cost and quality are
sums over images that are measured already.

Source:
    Starodubcev et al. (2024), sections 3.2 and 4.1: for each inference budget the rollback and the threshold
    are tuned on held-out prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.trials import Trials

# Percentiles tried: fine enough to meet a budget, coarse enough not to chase single images.
PERCENTILES = tuple(range(0, 101, 5))


@dataclass(frozen=True)
class Choice:
    """A correction with a threshold, and its results on the trials it was chosen on.

    Attributes:
        correction: its id; None where nothing is corrected.
        k: percentile of the student's scores; images below it are corrected.
        threshold: that score; minus infinity where k is 0.
        steps: of an image, on average.
        tflop: likewise.
        quality: likewise, by the oracle's metric.
    """

    correction: str | None
    k: float
    threshold: float
    steps: float
    tflop: float
    quality: float


def rejected(scores: np.ndarray, k: float) -> tuple[np.ndarray, float]:
    """Which images a percentile rejects, and the threshold that it is.

    Args:
        scores: of the student's images, (n,).
        k: from 0, which rejects none, to 100, which rejects all.
    """
    if k == 0:
        return np.zeros(len(scores), dtype=bool), float("-inf")
    if k == 100:
        return np.ones(len(scores), dtype=bool), float("inf")
    threshold = float(np.percentile(scores, k))
    return scores < threshold, threshold


def choices(trials: Trials, metric: str) -> list[Choice]:
    """Every correction at every percentile.

    Args:
        trials: what was measured.
        metric: of the oracle, and of the quality that is wanted.
    """
    student = trials.student
    scores = student.scores[metric]
    found = [Choice(None, 0.0, float("-inf"), float(student.steps), student.tflop, float(scores.mean()))]
    for name, column in trials.corrections.items():
        for k in PERCENTILES[1:]:
            chosen, threshold = rejected(scores, k)
            quality = np.where(chosen, column.scores[metric], scores).mean()
            rate = chosen.mean()
            found.append(
                Choice(
                    name,
                    float(k),
                    threshold,
                    float(student.steps + rate * column.steps),
                    float(student.tflop + rate * column.tflop),
                    float(quality),
                )
            )
    return found


def frontier(found: list[Choice]) -> list[Choice]:
    """The choices that no cheaper one exceeds in quality, by cost."""
    kept: list[Choice] = []
    for choice in sorted(found, key=lambda each: (each.tflop, -each.quality)):
        if not kept or choice.quality > kept[-1].quality:
            kept.append(choice)
    return kept


def check_budget(budget: float, least: float) -> None:
    """Refuse a budget that no plan meets.

    Args:
        budget: TFLOP of an image.
        least: what the student alone costs.

    Raises:
        InvalidPlan: the student alone costs more.
    """
    if least > budget * (1 + 1e-9):
        raise InvalidPlan(f"A budget of {budget:g} TFLOP is below {least:g}, the cost of the student alone.")


def best_for(found: list[Choice], budget: float) -> Choice:
    """The best choice that costs no more than a budget on average.

    Args:
        found: choices.
        budget: TFLOP of an image.

    Raises:
        InvalidPlan: the student alone costs more.
    """
    check_budget(budget, min(choice.tflop for choice in found))
    affordable = [choice for choice in found if choice.tflop <= budget * (1 + 1e-9)]
    return max(affordable, key=lambda choice: (choice.quality, -choice.tflop))
