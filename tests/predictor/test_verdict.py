"""The verdict: what a wrong choice costs, off the zoo, and sets that hold with whole clusters held out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matchgraph.predictor.calibration import conformal_coverage, prediction_set
from matchgraph.predictor.confidence import cluster_folds, confidence_of
from matchgraph.predictor.familiarity import familiarity
from matchgraph.predictor.folds import Fold
from matchgraph.predictor.gaussian import GaussianMatcher
from matchgraph.predictor.matching import Cost, RankedModel, predict
from matchgraph.predictor.verdict import verdict
from matchgraph.predictor.visibility import hide_results
from tests.predictor.zoos import measured_zoo


def fold(name: str, p_best: dict[str, float], losses: dict[str, float]) -> Fold:
    best = min(losses, key=losses.get)
    return Fold(name, len(losses), (best,), {}, losses, p_best, {m: 3 - p for m, p in p_best.items()})


def model(name: str, p_best: float) -> RankedModel:
    return RankedModel(name, 2.0 - p_best, 1.0, p_best, Cost(), ())


def test_expected_loss_is_what_doubts_cost_elsewhere():
    folds = [
        fold("a", {"x": 0.7, "y": 0.3}, {"x": 1.0, "y": 2.0}),
        fold("b", {"x": 0.6, "y": 0.4}, {"x": 4.0, "y": 1.0}),
        # The third was not measured there: of the two that were, x had a chance of 0.75.
        fold("c", {"x": 0.6, "y": 0.2, "z": 0.2}, {"x": 1.0, "y": 2.0}),
    ]
    found = verdict([model("x", 0.3), model("y", 0.1), model("z", 0.35), model("w", 0.25)], folds, None)
    # One wrong choice cost 3; the doubts were 0.3 + 0.4 + 0.25.
    assert found.expected_loss == pytest.approx(0.7 * 3 / 0.95)
    assert (found.model, found.judged_on, found.measure) == ("x", 3, ("x", "y", "z"))
    assert verdict([model("x", 0.7)], folds[:2], None).expected_loss is None
    sure = [fold(name, {"x": 1.0}, {"x": 1.0}) for name in "abc"]
    assert verdict([model("x", 0.7)], sure, None).expected_loss is None


def moved(snapshot, dataset, factor):
    """The dataset so many times as far from all others."""
    similar = snapshot.similar
    own = (similar["dataset"] == dataset) | (similar["other"] == dataset)
    return replace(
        snapshot, similar=similar.assign(value=similar["value"].where(~own, similar["value"] * factor))
    )


def test_off_the_zoo_is_said_and_widens():
    snapshot = measured_zoo(0, n_datasets=12)
    dataset = snapshot.datasets[3].id
    near, far = (
        predict(moved(snapshot, dataset, factor), dataset, GaussianMatcher()) for factor in (1.0, 40.0)
    )
    assert not near.familiarity.off_zoo
    assert far.familiarity.off_zoo
    assert far.familiarity.times > 3
    assert far.familiarity.reliability == pytest.approx(1 / far.familiarity.times)
    assert max(m.p_best for m in far.ranking) < 0.5
    larger = replace(
        moved(snapshot, dataset, 0.0), similarity=replace(snapshot.similarity, larger_is_better=True)
    )
    assert familiarity(hide_results(larger, dataset), dataset).off_zoo


def test_sets_of_clusters_are_larger_and_judged_by_other_clusters():
    snapshot = measured_zoo(4, n_datasets=20)
    dataset = snapshot.datasets[0].id
    shifted, clusters = cluster_folds(snapshot, dataset, GaussianMatcher())
    assert {own.dataset for own in shifted} == {own.id for own in snapshot.datasets[1:]}
    prediction = predict(snapshot, dataset, GaussianMatcher())
    sure = confidence_of(prediction, shifted, 0.8, (shifted, clusters))
    assert sure.shifted == conformal_coverage(shifted, 0.8, clusters)
    assert sure.to_dict()["coverage_of_clusters"]["mean"] == sure.shifted.coverage.value
    easy = [replace(own, p_best={**own.p_best, own.best[0]: 1.0}) for own in shifted]
    chances = {m.model: m.p_best for m in prediction.ranking}
    alone, both = prediction_set(chances, easy, 0.8), prediction_set(chances, easy, 0.8, shifted)
    assert set(alone.models) < set(both.models)


def test_coverage_of_groups_sets_no_quantile_itself():
    """Every dataset of one group is missed by the quantile of the other; by counting it would seem held."""
    hard = [fold(f"h{i}", {"x": 0.9, "y": 0.1}, {"x": 2.0, "y": 1.0}) for i in range(9)]
    easy = [fold(f"e{i}", {"x": 0.9, "y": 0.1}, {"x": 1.0, "y": 2.0}) for i in range(9)]
    groups = {own.dataset: own.dataset[0] for own in hard + easy}
    assert conformal_coverage(hard + easy, 0.8).coverage.value == 1
    assert conformal_coverage(hard + easy, 0.8, groups).coverage.value == 0.5
