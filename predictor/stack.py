"""The default: a mixture of rankings, weighted by what each is worth on the graph at hand.

Average rank and average value, similar datasets, a Gaussian process on values and one on ranks, and the
paper's recipe (node2vec, joined with the nodes' properties, fed to CatBoost) each rank the models. Their
weights come from the known datasets, each ranked as if it had no result (`predictor.mixture`), and never from
the dataset asked about. Where no mixture beats the simple averages, the better of these is the answer.

The same rehearsal on known datasets says how likely the first model is the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor import mixture, parts
from matchgraph.predictor.gaussian import GaussianMatcher
from matchgraph.predictor.matching import Ranked
from matchgraph.predictor.metrics import without_nan
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.visibility import check_enough, without_results

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.config import FeatureSet
    from matchgraph.predictor.parts import Scored
    from matchgraph.predictor.visibility import LossMatrix


class StackMatcher:
    """Ranks by a mixture of rankings, see the module.

    Args:
        paper: the paper's recipe, which takes part; None for the closed forms alone.
        features: what the rankings see: all, only the graph's edges ("graph"), or only what is known of the
            nodes ("node").
        seed: of the groups in which the paper's recipe leaves out datasets.
        notes: what a user should know of how it was put together.
    """

    name = "stack"
    needs_similarities = False

    def __init__(
        self,
        paper: PaperMatcher | None,
        features: FeatureSet = "all",
        seed: int = 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.paper, self.features, self.seed, self.notes = paper, features, seed, notes
        self._values = GaussianMatcher(features)
        self._ranks = GaussianMatcher(features, "rank")

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        """See `predictor.matching.Matcher.rank`."""
        visible = without_results(visible, datasets)
        check_enough(visible)
        if self.features == "node":
            visible = parts.without_similarities(visible)
        matrix = parts.known_results(visible)
        scored = self._scored(visible, matrix, datasets)
        names = tuple(scored)
        learned = mixture.learn(
            [own.left_out for own in scored.values()],
            matrix.losses,
            [names.index(name) for name in parts.SIMPLE],
        )
        chances = mixture.Chances(learned, matrix.losses)
        rehearsed = {matrix.datasets[column]: own for column, own in chances.rehearsed.items()}
        details = {
            "mixture": {
                "weights": {name: float(share) for name, share in zip(names, learned.weights, strict=True)},
                "fell_back": learned.fell_back,
                **without_nan({"lead": learned.lead, "lead_error": learned.lead_error}),
            }
        }
        ranked = {}
        for dataset in datasets:
            rows = np.stack([mixture.standardised(own.asked[dataset]) for own in scored.values()])
            spread = np.maximum(scored["process"].spread[dataset], 1.0)
            prediction = chances.predict(learned.weights @ rows, spread)
            lifts = _lifts(scored, learned.weights, dataset) if explain else {}
            columns = np.column_stack(list(lifts.values())) if lifts else None
            ranked[dataset] = Ranked(
                matrix.models, prediction, tuple(lifts), columns, rehearsed=rehearsed, details=details
            )
        return ranked

    def quick(self) -> StackMatcher:
        """See `predictor.matching.Matcher.quick`: the closed forms alone."""
        return StackMatcher(None, self.features, self.seed)

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        paper = None if self.paper is None else self.paper.describe()
        return {"stack": {"features": self.features, "seed": self.seed, "paper": paper}}

    def _scored(self, visible: Snapshot, matrix: LossMatrix, datasets: Sequence[str]) -> dict[str, Scored]:
        scored = parts.averages(visible, matrix, datasets)
        scored |= parts.neighbours(visible, matrix, datasets)
        scored["process"] = parts.process(visible, datasets, self._values)
        scored["process_of_ranks"] = parts.process(visible, datasets, self._ranks)
        if self.paper is not None:
            paper = parts.papers(visible, matrix, datasets, self.paper, self.seed)
            scored |= {} if paper is None else {parts.PAPER: paper}
        return scored


def _lifts(scored: dict[str, Scored], weights: np.ndarray, dataset: str) -> dict[str, np.ndarray]:
    """How far each part of the input lifts each model, in deviations of the models' scores; the sum is minus
    the mixture's score."""
    lifts: dict[str, np.ndarray] = {}
    for own, weight in zip(scored.values(), weights, strict=True):
        scores = own.asked[dataset]
        spread = np.nanstd(scores)
        if not weight or not spread > mixture.LEAST_SPREAD:
            continue
        for name, values in own.lifts[dataset].items():
            centred = np.nan_to_num(values - np.nanmean(values))
            lifts[name] = lifts.get(name, 0.0) - weight * centred / spread
    return lifts
