"""Whether chances of being best come true, and whether sets hold the best model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.calibration import (
    Bin,
    Coverage,
    conformal_coverage,
    expected_calibration_error,
    reliability,
)
from matchgraph.report.comparisons import INTERVALS, recipe_title
from matchgraph.report.config import section_of
from matchgraph.report.page import Figure, Section
from matchgraph.report.tables import Column, Table, table
from matchgraph.report.verdicts import percent
from matchgraph.svg import COLOURS, INK, LINES, MARKERS, drawing

if TYPE_CHECKING:
    from matchgraph.predictor.folds import Fold
    from matchgraph.stats.intervals import Interval

CONFIDENCES = (0.8, 0.9)


@dataclass(frozen=True)
class Chances:
    """How far the chances of one recipe can be trusted.

    Attributes:
        recipe: its name.
        title: its readable name.
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


def reliability_figure(study: Chances) -> str:
    """How often models were the best against the chance they were given."""
    with drawing("reliability", width=5.6, height=4.6) as (figure, finish):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="perfectly calibrated")
        observed = np.array([own.observed.value for own in study.curve])
        ends = np.array([[own.observed.low, own.observed.high] for own in study.curve])
        axes.errorbar(
            [own.predicted for own in study.curve],
            observed,
            # The end of an interval may lie on the other side of the share by a rounding.
            yerr=np.abs(np.clip((ends - observed[:, None]) * [-1, 1], 0, None).T),
            color=COLOURS[0],
            marker=MARKERS[0],
            linestyle=LINES[0],
            markersize=5,
            elinewidth=0.8,
            label="as predicted",
        )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("predicted probability of being the best")
        axes.set_ylabel("share that was the best")
        axes.legend(frameon=False, loc="upper left")
        return finish()


def calibration_section(studies: Sequence[Chances]) -> Section:
    """Whether probabilities of being best are calibrated."""
    first = studies[0]
    held = first.coverage[-1]
    also = (
        f"Sets built to contain the best model with {100 * held.confidence:.0f} % contain it on "
        f"{percent(held.coverage)} of the datasets, with {held.size.value:.1f} models on average."
    )
    caption = (
        "How often a model was the best, against its predicted probability, in bins of equally many "
        f"pairs; bars are 95 % bootstrap intervals over datasets. {first.title}."
    )
    return section_of(
        "calibration",
        f"The probabilities of {first.title} are off by {percent(first.error)} on average.",
        "Expected calibration error: mean distance of the predicted probability from the observed share; "
        "with few datasets it is above 0 even for perfect probabilities. The sets of `predict "
        "--confidence` (conformal) are calibrated on all other datasets and tested on the one left out. "
        f"{INTERVALS}.",
        also=also,
        figures=(Figure(reliability_figure(first), caption),),
        tables=(chances_table(studies),),
        data=(reliability_table(studies),),
        folds=first.folds,
        seeds=(0,),
    )


def chances_table(studies: Sequence[Chances]) -> Table:
    """One row for each recipe."""
    columns = [
        Column("recipe", "Recipe", lambda study: study.title),
        Column("error", "Calibration error", lambda study: study.error, "share"),
    ]

    def of_sets(i: int, confidence: float) -> list[Column]:
        name = f"{100 * confidence:.0f}"
        title = f"Sets at {name} %: contain the best"
        return [
            Column(f"coverage_{name}", title, lambda study: study.coverage[i].coverage, "share"),
            Column(f"size_{name}", "models", lambda study: study.coverage[i].size, "number"),
        ]

    for i, own in enumerate(studies[0].coverage):
        columns += of_sets(i, own.confidence)
    return table("calibration", studies, columns)


def reliability_table(studies: Sequence[Chances]) -> Table:
    """One row for each bin of each curve."""
    return table(
        "reliability",
        [(study, own) for study in studies for own in study.curve],
        [
            Column("recipe", "Recipe", lambda item: item[0].title),
            Column("predicted", "Predicted", lambda item: item[1].predicted, "share"),
            Column("observed", "Observed", lambda item: item[1].observed, "share"),
            Column("pairs", "Pairs", lambda item: item[1].pairs, "count"),
        ],
    )
