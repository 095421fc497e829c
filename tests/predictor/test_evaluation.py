"""Leave-one-dataset-out: the figures are right, nothing leaks, and a graph that knows something wins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from matchgraph.graphdb.embedding import GdsNode2Vec, Node2VecConfig
from matchgraph.graphdb.models import Metric
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.errors import NoSimilarity, NotEnoughResults
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.folds import METHOD, evaluate_fold
from matchgraph.predictor.gaussian import GaussianMatcher
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker
from matchgraph.stats.permutation import paired_p_value

# All but the forest, which is most of the work.
LIGHT = tuple(baseline for baseline in BASELINES if baseline.key != "direct")


def of(evaluation, key):
    return next(summary for summary in evaluation.summaries if summary.key == key)


@pytest.fixture
def quick():
    """The paper's method on features alone, with few trees."""
    return PaperMatcher(None, CatBoostRanker(CatBoostConfig(iterations=5, depth=2)), "node")


class TestFigures:
    def test_every_method_in_one_table(self, zoo, quick):
        snapshot = zoo(n_datasets=6)
        evaluation = evaluate(snapshot, quick)
        assert [summary.key for summary in evaluation.summaries] == [METHOD, *(b.key for b in BASELINES)]
        assert [fold.dataset for fold in evaluation.folds] == [f"d{i:02d}" for i in range(6)]
        for fold in evaluation.folds:
            own = snapshot.performs[snapshot.performs["dataset"] == fold.dataset]
            assert fold.best == (own.loc[own["value"].idxmin(), "model"],)
            for score in fold.scores.values():
                chosen = own[own["model"].isin(score.selected)]["value"]
                assert score.figures["o2o"] == pytest.approx(chosen.mean() - own["value"].min())

    def test_each_fold_keeps_the_methods_chances_and_the_truth(self, zoo, quick):
        snapshot = zoo(n_datasets=4)
        # A model that was not measured is ranked all the same.
        performs = snapshot.performs.drop(index=snapshot.performs.index[0])
        evaluation = evaluate(replace(snapshot, performs=performs), quick, baselines=LIGHT)
        first = evaluation.folds[0]
        assert list(first.p_best) == list(first.expected_rank) == [f"m{i}" for i in range(6)]
        assert list(first.losses) == [f"m{i}" for i in range(1, 6)]
        assert sum(first.p_best.values()) == pytest.approx(1)
        least = min(first.expected_rank[model] for model in first.losses)
        chosen = tuple(model for model in first.losses if first.expected_rank[model] == least)
        assert first.scores[METHOD].selected == chosen
        assert first.best == (min(first.losses, key=first.losses.get),)

    def test_p_values_are_of_the_method_against_each_baseline(self, zoo, quick):
        evaluation = evaluate(zoo(n_datasets=6), quick, baselines=LIGHT)
        method, *others = evaluation.summaries
        assert method.p_value == {}
        for summary in others:
            for metric in ("osr", "tau_w"):
                own, base = (
                    np.array(
                        [
                            fold.scores[key].figures[metric] if key in fold.scores else np.nan
                            for fold in evaluation.folds
                        ]
                    )
                    for key in (METHOD, summary.key)
                )
                expected = paired_p_value(own, base)
                assert summary.p_value[metric] == pytest.approx(expected, nan_ok=True)
        assert math.isnan(of(evaluation, "initial").p_value["tau_w"])
        assert of(evaluation, "average_rank").p_value["tau_w"] < 1

    def test_removed_results_are_missing_from_what_is_learned_from(self, zoo, quick, monkeypatch):
        snapshot = zoo(n_datasets=6)
        seen = []
        rank = quick.rank

        def watched(visible, datasets):
            seen.append(visible)
            return rank(visible, datasets)

        monkeypatch.setattr(quick, "rank", watched)
        evaluation = evaluate(snapshot, quick, baselines=LIGHT, removed=0.4)
        assert evaluation.provenance["removed"] == 0.4
        assert [len(visible.performs) for visible in seen] == [18] * 6
        assert all(len(visible.similar) == 15 for visible in seen)
        assert all(fold.models == 6 for fold in evaluation.folds)
        pairs = [frozenset(zip(v.performs["model"], v.performs["dataset"], strict=True)) for v in seen]
        assert len(set(pairs)) == 6

    def test_where_too_little_is_left_no_model_is_preferred(self, zoo, quick):
        evaluation = evaluate(zoo(n_datasets=6), quick, baselines=LIGHT, removed=0.97)
        for fold in evaluation.folds:
            assert list(fold.p_best.values()) == pytest.approx([1 / 6] * 6)
            assert fold.scores[METHOD].figures["osr"] == pytest.approx(1 / 6)

    def test_what_is_known_of_baselines(self, zoo, quick):
        evaluation = evaluate(zoo(n_datasets=6), quick, baselines=LIGHT)
        overall = of(evaluation, "average_value").figures["o2b"]
        assert (overall.value, overall.low, overall.high) == (0, 0, 0)
        random = of(evaluation, "random").figures
        assert random["osr"].value == pytest.approx(1 / 6)
        assert random["tau_w"].value == 0
        assert of(evaluation, "initial").figures["osr"].count == 0
        gain = of(evaluation, "average_rank").gain["tau_w"]
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)

    def test_initial_is_scored_where_it_was_measured(self, zoo, quick):
        snapshot = zoo(n_datasets=6)
        performs = snapshot.performs.copy()
        measured = performs["dataset"].isin(["d00", "d01"])
        performs.loc[measured, "initial"] = performs.loc[measured, "value"]
        figures = of(
            evaluate(replace(snapshot, performs=performs), quick, baselines=LIGHT), "initial"
        ).figures
        assert (figures["osr"].value, figures["tau_w"].value, figures["osr"].count) == (1, 1, 2)

    def test_larger_is_better_is_the_mirror_image(self, zoo, quick):
        snapshot = zoo(n_datasets=6)
        mirrored = replace(
            snapshot,
            metric=Metric("score", larger_is_better=True),
            performs=snapshot.performs.assign(value=-snapshot.performs["value"]),
        )
        one = evaluate(snapshot, quick, baselines=LIGHT)
        other = evaluate(mirrored, quick, baselines=LIGHT)
        assert one.folds == other.folds

    def test_missing_results_and_ties(self, zoo, quick):
        snapshot = zoo(n_datasets=6)
        performs = snapshot.performs.drop(index=snapshot.performs.index[1::5]).assign(
            value=lambda rows: rows["value"].round(-1)
        )
        evaluation = evaluate(replace(snapshot, performs=performs), quick, baselines=LIGHT)
        counts = performs["dataset"].value_counts()
        assert all(fold.models == counts[fold.dataset] for fold in evaluation.folds)
        # All values round to the same: any choice is optimal, and no order is defined.
        tied = [fold for fold in evaluation.folds if len(fold.best) == fold.models]
        assert tied
        assert all(fold.scores[METHOD].figures["osr"] == 1 for fold in tied)
        assert all(math.isnan(fold.scores[METHOD].figures["tau_w"]) for fold in tied)

    def test_tells_which_datasets_it_left_in(self, zoo, matcher):
        snapshot = zoo(n_datasets=6)
        performs = snapshot.performs[
            (snapshot.performs["dataset"] != "d01") | (snapshot.performs["model"] == "m0")
        ]
        similar = snapshot.similar[(snapshot.similar[["dataset", "other"]] != "d02").all(axis=1)]
        evaluation = evaluate(replace(snapshot, performs=performs, similar=similar), matcher, baselines=LIGHT)
        assert evaluation.skipped == {
            "d01": "1 measured model: nothing to rank",
            "d02": "no similarity to another dataset",
        }
        assert len(evaluation.folds) == 4

    def test_refuses_too_little(self, zoo, matcher):
        snapshot = zoo(n_datasets=6)
        one = snapshot.performs[snapshot.performs["dataset"] == "d01"]
        with pytest.raises(NotEnoughResults, match="has 1"):
            evaluate(replace(snapshot, performs=one), matcher)
        with pytest.raises(NoSimilarity):
            evaluate(replace(snapshot, similar=snapshot.similar.iloc[:0]), matcher)

    def test_progress(self, zoo, quick):
        seen = []
        evaluate(zoo(n_datasets=3), quick, baselines=(), progress=lambda *step: seen.append(step))
        assert seen == [(0, 3, "d00"), (1, 3, "d01"), (2, 3, "d02")]


def test_no_method_sees_the_held_out_results(zoo):
    """The order of the held-out values is reversed; `test_matching` does so in a real graph."""
    snapshot = zoo(n_datasets=7)
    own = snapshot.performs["dataset"] == "d04"
    values = snapshot.performs["value"]
    turned = replace(snapshot, performs=snapshot.performs.assign(value=values.where(~own, 500 - values)))
    before, after = (evaluate_fold(one, "d04", GaussianMatcher()) for one in (snapshot, turned))
    assert before.best != after.best
    selected = [{key: score.selected for key, score in fold.scores.items()} for fold in (before, after)]
    assert selected[0] == selected[1]
    assert set(selected[0]) == {METHOD, *(one.key for one in BASELINES)} - {"initial"}


def test_baselines_predict_the_same_bits_whatever_the_held_out_results(zoo):
    from matchgraph.predictor.visibility import hide_results

    snapshot = zoo(n_datasets=7)
    performs = snapshot.performs.copy()
    own = performs["dataset"] == "d04"
    performs.loc[own, "value"] = np.linspace(900, 100, own.sum())
    changed = replace(snapshot, performs=performs)
    nothing = np.full(6, np.nan)
    for baseline in BASELINES:
        one = baseline.predict(hide_results(snapshot, "d04"), "d04", nothing, 0)
        other = baseline.predict(hide_results(changed, "d04"), "d04", nothing, 0)
        assert (one is None and other is None) or np.array_equal(one, other, equal_nan=True), baseline.key


@pytest.mark.slow
def test_the_graph_wins_where_the_best_model_depends_on_the_kind_of_dataset(graph, runner, zoo, save):
    """Kinds show in distances and results only, so whoever wins here has learnt it from the graph."""
    save(graph, zoo(n_datasets=12))
    walks = Node2VecConfig(dimension=32, walk_length=40, walks_per_node=5, window_size=5)
    gds = GdsNode2Vec(runner, walks)
    ranker = CatBoostRanker(CatBoostConfig(iterations=30, depth=4))
    evaluation = evaluate(graph.snapshot(), PaperMatcher(gds, ranker), baselines=BASELINES[:2])
    method = of(evaluation, METHOD)
    assert method.figures["tau_w"].value > of(evaluation, "average_rank").figures["tau_w"].value + 0.3
    assert method.gain["tau_w"].low > 0
    assert method.figures["osr"].value > of(evaluation, "average_rank").figures["osr"].value
    assert method.figures["o2b"].high < 0
