"""Whether a dataset is like any that was measured.

A dataset that is further from its nearest known one than any of these is from its own is off the zoo: nothing
that was measured says how well a method does there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.predictor.visibility import loss_matrix, similarities_of, similarity_direction

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

# Known datasets from which on it is said what is usual.
FEWEST = 3


@dataclass(frozen=True)
class Familiarity:
    """How far a dataset is from what was measured.

    Attributes:
        nearest: the nearest dataset with results.
        value: the similarity to it, in the metric of the similarities.
        farthest: that of the known dataset which is furthest from its nearest.
        times: how many times as far as that; None where larger values are more similar.
        off_zoo: whether it is further than any known one.
    """

    nearest: str
    value: float
    farthest: float
    times: float | None
    off_zoo: bool

    @property
    def reliability(self) -> float:
        """The share of the prediction that counts, the rest being no preference: that of the distances."""
        if not self.off_zoo:
            return 1.0
        return 0.5 if self.times is None else 1 / self.times


def familiarity(visible: Snapshot, dataset: str) -> Familiarity | None:
    """How far a dataset is from those with results; None where fewer than three are compared with each other.

    Args:
        visible: the graph without results of the dataset.
        dataset: its id.
    """
    larger = similarity_direction(visible)
    known = set(loss_matrix(visible).datasets) - {dataset}
    nearest = {}
    for each in (*sorted(known), dataset):
        values = {other: v for other, v in similarities_of(visible, each).items() if other in known}
        if values:
            other = (max if larger else min)(values, key=lambda name: values[name])
            nearest[each] = (other, values[other])
    if dataset not in nearest or len(nearest) <= FEWEST:
        return None
    other, value = nearest.pop(dataset)
    usual = [own for _, own in nearest.values()]
    farthest = min(usual) if larger else max(usual)
    off_zoo = value < farthest if larger else value > farthest
    times = value / farthest if not larger and farthest > 0 else None
    return Familiarity(other, value, farthest, times, off_zoo)
