"""Conformal prediction sets, calibrated with the same method on the graph's other datasets.

The folds are recomputed for each prediction and not stored, so they are never out of date: they use the
current graph and the method and settings of the prediction. The default recipe makes them on its way; with
another one, each of the graph's datasets is left out, at most 200.

The dataset asked about is removed from the graph with all its edges before the first fold, so neither its
results nor its distances can leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.calibration import (
    Coverage,
    PredictionSet,
    conformal_coverage,
    prediction_set,
)
from matchgraph.predictor.errors import InvalidRows, NoSimilarity, NotEnoughResults
from matchgraph.predictor.folds import Fold, held_out_datasets, rehearsed_folds
from matchgraph.predictor.groups import groups_of
from matchgraph.predictor.metrics import interval_as_dict
from matchgraph.predictor.visibility import without_dataset, without_results

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher, Prediction

# Enough for a confidence of 0.995; more datasets are thinned out evenly.
MOST_FOLDS = 200


@dataclass(frozen=True)
class Confidence:
    """How sure a prediction is.

    Attributes:
        chosen: the smallest set of models that contains the best one with the given confidence.
        coverage: that of such sets on the other datasets, each calibrated on the rest; None without folds.
        shifted: that with whole clusters of datasets held out, calibrated on the other clusters; None where
            they make no clusters.
    """

    chosen: PredictionSet
    coverage: Coverage | None
    shifted: Coverage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        chosen, coverage = self.chosen, self.coverage
        return {
            "confidence": chosen.confidence,
            "models": list(chosen.models),
            "least_p_best": chosen.least_chance,
            "folds": chosen.folds,
            "attainable": chosen.attainable,
            "reason": chosen.reason,
            "coverage": None if coverage is None else interval_as_dict(coverage.coverage),
            "size": None if coverage is None else interval_as_dict(coverage.size),
            "coverage_of_clusters": None if self.shifted is None else interval_as_dict(self.shifted.coverage),
        }


def confidence_of(
    prediction: Prediction,
    folds: Sequence[Fold],
    confidence: float,
    shifted: tuple[Sequence[Fold], Mapping[str, str]] = ((), {}),
) -> Confidence:
    """How sure a prediction is.

    Args:
        prediction: the prediction.
        folds: of the same method on other datasets, see `other_folds`.
        confidence: that the set should have, in (0, 1).
        shifted: folds of whole clusters, and the cluster of each dataset, see `cluster_folds`.

    Returns:
        The set and its measured coverage.

    Raises:
        InvalidRows: a confidence outside (0, 1), or the dataset predicted for is among the folds.
    """
    if any(fold.dataset == prediction.dataset for fold in folds):
        raise InvalidRows(f"dataset {prediction.dataset!r} cannot calibrate its own prediction")
    p_best = {model.model: model.p_best for model in prediction.ranking}
    of_clusters, clusters = shifted
    return Confidence(
        prediction_set(p_best, folds, confidence, of_clusters),
        conformal_coverage(folds, confidence) if folds else None,
        conformal_coverage(of_clusters, confidence, clusters) if of_clusters else None,
    )


def cluster_folds(
    snapshot: Snapshot, dataset: str, matcher: Matcher
) -> tuple[tuple[Fold, ...], Mapping[str, str]]:
    """Leave out each cluster of the graph's other datasets, see `predictor.groups`.

    Args:
        snapshot: the graph.
        dataset: id of the dataset asked about, in the graph or not.
        matcher: the method that predicts for it; see `Matcher.quick`.

    Returns:
        The folds, and the cluster of each dataset; none where datasets make no clusters, or too few results
        are left.
    """
    others = without_dataset(snapshot, dataset)
    quick = matcher.quick()
    try:
        held_out, _ = held_out_datasets(others, quick.needs_similarities)
        clusters = groups_of(others, "cluster")
        folds: list[Fold] = []
        for cluster in sorted(set(clusters.values())):
            hidden = [own for own in clusters if clusters[own] == cluster]
            asked = [own for own in hidden if own in held_out]
            if asked:
                folds += _folds(others, asked, hidden, quick)
    except (NotEnoughResults, NoSimilarity, InvalidRows):
        return (), {}
    return tuple(folds), clusters


def other_folds(
    snapshot: Snapshot,
    dataset: str,
    matcher: Matcher,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Fold, ...]:
    """Leave out each of the graph's other datasets in turn.

    Args:
        snapshot: the graph.
        dataset: id of the dataset asked about, in the graph or not.
        matcher: the method that predicts for it.
        progress: called with the number of finished folds, of all folds, and the current dataset.

    Returns:
        The folds, at most 200; none where fewer than two other datasets can be ranked.
    """
    others = without_dataset(snapshot, dataset)
    try:
        held_out, _ = held_out_datasets(others, matcher.needs_similarities)
    except (NotEnoughResults, NoSimilarity):
        return ()
    # Chosen by their places among the ids, which say nothing of how they will do.
    places = np.unique(np.linspace(0, len(held_out) - 1, min(len(held_out), MOST_FOLDS)).astype(int))
    folds: list[Fold] = []
    for done, place in enumerate(places):
        if progress:
            progress(done, len(places), held_out[place])
        folds += _folds(others, [held_out[place]], [held_out[place]], matcher)
    return tuple(folds)


def _folds(
    snapshot: Snapshot, asked: Sequence[str], hidden: Sequence[str], matcher: Matcher
) -> tuple[Fold, ...]:
    """Rank for some of the datasets that are hidden together."""
    visible = without_results(snapshot, hidden)
    predicted = {dataset: own.prediction for dataset, own in matcher.rank(visible, asked).items()}
    return rehearsed_folds(snapshot, predicted, visible)
