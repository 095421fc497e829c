"""What to do about a ranking: the choice, its chance, what a wrong choice costs, and whether to trust it.

The chance of the first model is that of the prediction, which the default recipe calibrates on the graph's
other datasets, each ranked as if it had no results. What taking it costs, where it is not the best, is
measured on the same datasets. Whether the dataset is like any of them says `predictor.familiarity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matchgraph.predictor.familiarity import Familiarity
    from matchgraph.predictor.folds import Fold
    from matchgraph.predictor.matching import RankedModel

# Other datasets from which on a loss is expected.
FEWEST = 3
# Models that are proposed for measuring.
SHORTLIST = 3


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
        measure: the models whose measurement would change the answer most: the first ones.
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
    names = tuple(model.model for model in ranking[:SHORTLIST])
    return Verdict(first.model, first.p_best, expected, len(folds), familiar, names)
