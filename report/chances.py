"""Whether chances of being best come true, and whether sets hold the best model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.predictor.calibration import (
    Bin,
    Coverage,
    conformal_coverage,
    expected_calibration_error,
    reliability,
)
from matchgraph.report.comparisons import recipe_title

if TYPE_CHECKING:
    from matchgraph.predictor.evaluation import Fold
    from matchgraph.stats.intervals import Interval

CONFIDENCES = (0.8, 0.9)


@dataclass(frozen=True)
class Chances:
    """How far the chances of one recipe can be trusted.

    Attributes:
        recipe: its name.
        title: its name for people.
        curve: reliability of the chances as they are.
        error: their expected calibration error.
        coverage: of prediction sets, by confidence.
        folds: held-out datasets.
    """

    recipe: str
    title: str
    curve: tuple[Bin, ...]
    error: Interval
    coverage: tuple[Coverage, ...]
    folds: int


def chances(recipe: str, folds: Sequence[Fold]) -> Chances:
    """Judge the chances of one recipe.

    Args:
        recipe: its name.
        folds: of its evaluation under one seed.

    Returns:
        Curves, errors and coverage; nothing is judged by a fold that it was learned from.

    Raises:
        NotEnoughResults: there is no fold.
    """
    return Chances(
        recipe,
        recipe_title(recipe),
        reliability(folds),
        expected_calibration_error(folds),
        tuple(conformal_coverage(folds, confidence) for confidence in CONFIDENCES),
        len(folds),
    )
