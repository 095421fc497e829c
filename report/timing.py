"""How long a prediction takes, section 5.2."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.matching import predict
from matchgraph.report.comparisons import recipe_title
from matchgraph.report.config import section_of
from matchgraph.report.page import Section
from matchgraph.report.tables import Column, Table, table

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

TIMED_DATASETS = 5
# The paper's "within a minute".
PAPER_SECONDS = 60.0


@dataclass(frozen=True)
class Timing:
    """How long a prediction took from the graph in memory to the ranking, in seconds."""

    recipe: str
    title: str
    seconds: tuple[float, ...]
    models: int
    datasets: int

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.seconds))

    @property
    def longest(self) -> float:
        """The longest one."""
        return max(self.seconds)


def timed_predictions(snapshot: Snapshot, recipe: str, matcher: Matcher) -> Timing:
    """Predict for a few datasets as if each were new, and take the time.

    Args:
        snapshot: the graph.
        recipe: the matcher's name.
        matcher: the method.

    Returns:
        The seconds of each, from the graph in memory to the ranking and its reasons.
    """
    measured = sorted(set(snapshot.performs.loc[snapshot.performs["value"].notna(), "dataset"]))
    places = np.unique(np.linspace(0, len(measured) - 1, TIMED_DATASETS).round().astype(int))
    seconds = []
    for dataset in [measured[place] for place in places]:
        began = time.perf_counter()
        predict(snapshot, dataset, matcher)
        seconds.append(time.perf_counter() - began)
    return Timing(recipe, recipe_title(recipe), tuple(seconds), len(snapshot.models), len(snapshot.datasets))


def time_section(studies: Sequence[Timing]) -> Section:
    """Section 5.2's time of a prediction."""
    first = studies[0]
    return section_of(
        "time",
        f"A prediction takes {first.median:.2g} s (median of {len(first.seconds)}, {first.models} models and "
        f"{first.datasets} datasets), from the graph in memory to the ranking and its reasons.",
        "This includes weights, embedding and ranker, but not reading the images of a new dataset. "
        "Measured on this machine, under its load at the time; the paper's minute is from another one.",
        tables=(timing_table(studies),),
    )


def timing_table(timings: Sequence[Timing]) -> Table:
    """One row for each recipe."""
    return table(
        "time-per-prediction",
        timings,
        [
            Column("recipe", "Recipe", lambda own: own.title),
            Column("median_seconds", "Median", lambda own: own.median, "seconds"),
            Column("longest_seconds", "Longest", lambda own: own.longest, "seconds"),
            Column("predictions", "Predictions", lambda own: len(own.seconds), "count"),
            Column("paper_seconds", "At most", lambda _: PAPER_SECONDS, "seconds", of_paper=True),
        ],
    )
