"""What to do about a ranking: the choice, its chance, what a wrong choice costs, and whether to trust it.

The chance of the first model is that of the prediction, which the default recipe calibrates on the graph's
other datasets, each ranked as if it had no results. What taking it costs, where it is not the best, is
measured on the same datasets. A dataset that is further from its nearest known one than any of these is from
its own is off the zoo: nothing that was measured says how well the method does there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.visibility import loss_matrix, similarities_of, similarity_direction

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.folds import Fold
    from matchgraph.predictor.matching import RankedModel

# Known datasets, and folds, from which on it is said what is usual.
FEWEST = 3
# Models that are proposed for measuring.
SHORTLIST = 3


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


@dataclass(frozen=True)
class Verdict:
    """The answer in one place.

    Attributes:
        model: the first of the ranking.
        p_best: chance that it is the best one.
        expected_loss: how far it is expected to be behind the best one, in the unit of the metric; None where
            the method was not tried on three other datasets.
        judged_on: on how many other datasets the chances and that loss were measured; 0 for none.
        familiarity: how far the dataset is from the known ones; None where that is not known.
        measure: the models whose measurement would change the answer most: the likeliest to be the best.
    """

    model: str
    p_best: float
    expected_loss: float | None
    judged_on: int
    familiarity: Familiarity | None
    measure: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "measure": list(self.measure)}


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


def verdict(
    ranking: Sequence[RankedModel],
    folds: Sequence[Fold],
    familiar: Familiarity | None,
) -> Verdict:
    """Put the verdict together.

    A wrong choice is expected to cost what wrong choices cost on the other datasets: the loss of their first
    models, summed, by the chances that these were not the best, summed, times that chance here.

    Args:
        ranking: best first.
        folds: of the same method on other datasets.
        familiar: see `familiarity`.
    """
    first = ranking[0]
    losses, doubts = [], []
    for fold in folds:
        # The first among those that were measured there.
        taken = min(fold.losses, key=lambda model: (fold.expected_rank[model], model))
        known = sum(fold.p_best[model] for model in fold.losses)
        losses.append(fold.losses[taken] - min(fold.losses.values()))
        doubts.append(1 - fold.p_best[taken] / known)
    expected = None
    if len(folds) >= FEWEST and np.sum(doubts) > 0:
        expected = float((1 - first.p_best) * np.sum(losses) / np.sum(doubts))
    likeliest = sorted(ranking, key=lambda model: -model.p_best)[:SHORTLIST]
    names = tuple(dict.fromkeys([first.model, *(model.model for model in likeliest)]))[:SHORTLIST]
    return Verdict(first.model, first.p_best, expected, len(folds), familiar, names)
