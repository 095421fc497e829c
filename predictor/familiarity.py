"""Whether a dataset is like any that was measured.

A dataset that is further from its nearest known one than any of these is from its own is off the zoo: nothing
that was measured says how well a method does there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.predictor.samples import widened
from matchgraph.predictor.visibility import loss_matrix, similarity_direction

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.ranks import RankPrediction

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


class Nearness:
    """The nearest datasets with results of every dataset of a graph, found once.

    Args:
        visible: the graph.
    """

    def __init__(self, visible: Snapshot) -> None:
        import pandas as pd

        self._larger = similarity_direction(visible)
        known = set(loss_matrix(visible).datasets)
        similar = visible.similar[["dataset", "other", "value"]]
        turned = similar.rename(columns={"dataset": "other", "other": "dataset"})
        edges = pd.concat([similar, turned], ignore_index=True)
        edges = edges[edges["other"].isin(known)].sort_values(
            "value", ascending=not self._larger, kind="stable"
        )
        # Two, as the nearest of a known dataset may be the one asked about.
        nearest = edges.groupby("dataset", sort=False).head(2)
        self._nearest: dict[str, list[tuple[str, float]]] = {}
        for dataset, other, value in nearest[["dataset", "other", "value"]].itertuples(index=False):
            self._nearest.setdefault(dataset, []).append((other, float(value)))
        self._known = known & self._nearest.keys()

    def of(self, dataset: str) -> Familiarity | None:
        """How far a dataset is from those with results, itself left out; None where fewer than three of these
        are compared with each other.
        """
        usual = [
            next(value for other, value in self._nearest[each] if other != dataset)
            for each in self._known - {dataset}
            if any(other != dataset for other, _ in self._nearest[each])
        ]
        if dataset not in self._nearest or len(usual) < FEWEST:
            return None
        other, value = self._nearest[dataset][0]
        farthest = min(usual) if self._larger else max(usual)
        off_zoo = value < farthest if self._larger else value > farthest
        times = value / farthest if not self._larger and farthest > 0 else None
        return Familiarity(other, value, farthest, times, off_zoo)

    def told(self, dataset: str, prediction: RankPrediction) -> RankPrediction:
        """A prediction as a user hears it: off the zoo it is mixed with no preference."""
        familiar = self.of(dataset)
        return widened(prediction, familiar.reliability) if familiar and familiar.off_zoo else prediction


def familiarity(visible: Snapshot, dataset: str) -> Familiarity | None:
    """How far a dataset is from those with results, see `Nearness.of`.

    Args:
        visible: the graph without results of the dataset.
        dataset: its id.
    """
    return Nearness(visible).of(dataset)
