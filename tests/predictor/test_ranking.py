"""The core by hand: order and ties of a ranking, evidence, scores of a fold, sets of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Metric, Model, Snapshot
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.calibration import conformal_coverage, expected_calibration_error, prediction_set
from matchgraph.predictor.errors import NoSimilarity, NotEnoughResults
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.folds import METHOD, Fold, evaluate_fold, held_out_datasets
from matchgraph.predictor.gaussian import GaussianMatcher
from matchgraph.predictor.matching import Ranked, evidence, explain, predict
from matchgraph.predictor.metrics import interval_as_dict, without_nan
from matchgraph.predictor.ranker import top_weights
from matchgraph.predictor.ranks import RankPrediction, no_preference
from matchgraph.stats.intervals import Interval

NAN = float("nan")
LARGER = Metric("taste", larger_is_better=True)


def graph(
    results: Mapping[str, Sequence[float]],
    *,
    metric: Metric = KNOWN_METRICS["clip_fid"],
    similar: Sequence[tuple[str, str, float]] = (),
    similarity: Metric = KNOWN_METRICS["clip_fid"],
) -> Snapshot:
    """Datasets with the values of models a, b, c, ...; NaN where one was not measured."""
    count = max(len(row) for row in results.values())
    models = "abcdefgh"[:count]
    rows = [
        (model, dataset, value, NAN)
        for dataset, row in results.items()
        for model, value in zip(models, row, strict=False)
        if not np.isnan(value)
    ]
    rows.sort()
    return Snapshot(
        metric=metric,
        models=tuple(Model(model) for model in models),
        datasets=tuple(Dataset(dataset) for dataset in sorted(results)),
        performs=pd.DataFrame(rows, columns=["model", "dataset", "value", "initial"]),
        similar=pd.DataFrame(list(similar), columns=["dataset", "other", "value"]),
        similarity=similarity if similar else None,
    )


class Stub:
    """Says what it is told to say."""

    name, needs_similarities = "stub", False

    def __init__(self, ranks: Sequence[float], p_best: Sequence[float] | None = None) -> None:
        chances = np.full(len(ranks), 1 / len(ranks)) if p_best is None else np.array(p_best)
        self.prediction = RankPrediction(np.array(ranks), np.full(len(ranks), 0.5), chances)

    def rank(self, visible, datasets, *, explain=False):  # noqa: ARG002
        models = tuple(model.id for model in visible.models)
        return {dataset: Ranked(models, self.prediction) for dataset in datasets}

    def describe(self):
        return {}


class TestOrder:
    def test_by_expected_rank_then_chance_of_being_best_then_name(self):
        snapshot = graph({"x": [1, 2, 3, 4], "y": [1, 2, 3, 4]})
        answer = predict(snapshot, "x", Stub([2.5, 2.0, 2.5, 2.5], [0.2, 0.1, 0.5, 0.2]))
        assert [model.model for model in answer.ranking] == ["b", "c", "a", "d"]
        assert [model.p_best for model in answer.ranking] == [0.1, 0.5, 0.2, 0.2]
        assert [model.expected_rank for model in answer.ranking] == [2.0, 2.5, 2.5, 2.5]

    @pytest.mark.parametrize("metric", [KNOWN_METRICS["clip_fid"], LARGER])
    def test_the_model_that_is_better_everywhere_comes_first(self, metric):
        sign = -1 if metric.larger_is_better else 1
        values = {f"d{i}": [sign * (i + 1.0), sign * (i + 3.0), sign * (i + 2.0)] for i in range(6)}
        answer = predict(graph(values, metric=metric), "d0", GaussianMatcher("graph"))
        assert [model.model for model in answer.ranking] == ["a", "c", "b"]
        assert answer.ranking[0].p_best > max(model.p_best for model in answer.ranking[1:])
        # Of the parts, how it does anywhere lifts the better model.
        lifts = {model.model: sum(reason.lift for reason in model.why) for model in answer.ranking}
        assert lifts["a"] > lifts["c"] > lifts["b"]

    def test_nothing_known_prefers_nothing(self):
        found = no_preference(3)
        assert found.expected_rank.tolist() == [2, 2, 2]
        assert found.rank_std == pytest.approx(np.full(3, np.std([1, 2, 3])))
        assert found.p_best == pytest.approx([1 / 3] * 3)

    def test_near_the_top_is_weighed_from_the_first_class_down(self):
        assert top_weights(3) == pytest.approx([1, 0, -1])
        assert top_weights(4) == pytest.approx([0.75, 0.25, -0.25, -0.75])
        assert top_weights(1).tolist() == [0]

    def test_reasons_come_by_size_whatever_their_sign_and_equal_ones_by_name(self):
        (row,) = explain(np.array([[1.0, -3.0, 2.0, -2.0]]), ["graph", "dataset", "model:b", "model:a"])
        assert [reason.part for reason in row] == ["dataset", "model:a", "model:b", "graph"]


class TestEvidence:
    SIMILAR = (("w", "x", 5.0), ("x", "y", 1.0), ("x", "z", 3.0), ("x", "zz", 4.0))
    RESULTS: ClassVar = {"w": [1, 2, 3, 4], "x": [], "y": [4, 3, NAN, 1], "z": [2, 2, 1, 9], "zz": []}

    def test_the_three_nearest_with_their_three_best_models(self):
        found = evidence(graph(self.RESULTS, similar=self.SIMILAR), "x")
        assert [(each.dataset, each.similarity) for each in found] == [("y", 1.0), ("z", 3.0), ("zz", 4.0)]
        # Of equal models the first by name; a model that was not measured is none of the best.
        assert [each.best for each in found] == [("d", "b", "a"), ("c", "a", "b"), ()]

    def test_larger_may_be_nearer_and_larger_may_be_better(self):
        likeness = KNOWN_METRICS["cosine_similarity"]
        found = evidence(graph(self.RESULTS, metric=LARGER, similar=self.SIMILAR, similarity=likeness), "x")
        assert [each.dataset for each in found] == ["w", "zz", "z"]
        assert found[0].best == ("d", "c", "b")


class TestFold:
    RESULTS: ClassVar = {"x": [5.0, 3.0, 4.0, NAN], "y": [1.0, 2.0, 9.0, 0.5], "z": [1.0, 4.0, 9.0, 3.0]}

    def test_the_method_is_scored_on_the_models_that_were_measured(self):
        # d, which the method puts first, was not measured on x: of a, b and c it selects c.
        fold = evaluate_fold(graph(self.RESULTS), "x", Stub([4.0, 3.0, 2.0, 1.0]), baselines=BASELINES[:2])
        assert (fold.models, fold.best) == (3, ("b",))
        assert fold.losses == {"a": 5.0, "b": 3.0, "c": 4.0}
        assert list(fold.p_best) == ["a", "b", "c", "d"]
        own = fold.scores[METHOD]
        assert own.selected == ("c",)
        # The best on average elsewhere is a: c is one better here, and one behind the best. By true ranks
        # (b 1, c 2, a 3) pairs weigh 3/2 (b-c), 4/3 (a-b) and 5/6 (a-c); the method has b-c wrong.
        expected = {"osr": 0.0, "tau_w": (4 / 3 + 5 / 6 - 3 / 2) / (11 / 3), "o2b": -1.0, "o2o": 1.0}
        assert {name: own.figures[name] for name in expected} == pytest.approx(expected)
        # The average rank selects a: on y and z the ranks of a are 2 and 1 of 4, those of b 3 and 3.
        assert fold.scores["average_rank"].selected == ("a",)
        assert fold.scores["average_rank"].figures["o2b"] == 0
        assert fold.scores["average_rank"].figures["o2o"] == 2

    def test_larger_is_better_turns_everything_round(self):
        mirrored = {name: [-value for value in row] for name, row in self.RESULTS.items()}
        method = Stub([4.0, 3.0, 2.0, 1.0])
        one = evaluate_fold(graph(self.RESULTS), "x", method, baselines=BASELINES[:3])
        other = evaluate_fold(graph(mirrored, metric=LARGER), "x", method, baselines=BASELINES[:3])
        assert one == other

    def test_all_that_tie_for_the_best_are_best(self):
        fold = evaluate_fold(graph({**self.RESULTS, "x": [3.0, 3.0, 4.0]}), "x", Stub([1.0, 1.0, 1.0, 9.0]))
        assert fold.best == ("a", "b")
        assert fold.scores[METHOD].selected == ("a", "b", "c")
        assert fold.scores[METHOD].figures["osr"] == pytest.approx(2 / 3)

    def test_which_datasets_can_be_held_out(self):
        some = graph({"w": [1.0], "x": [1.0, 2.0], "y": [1.0, 2.0], "z": []}, similar=[("w", "x", 1.0)])
        assert held_out_datasets(some, False) == (
            ["x", "y"],
            {"w": "1 measured model: nothing to rank", "z": "0 measured models: nothing to rank"},
        )
        assert held_out_datasets(some, True)[0] == ["x"]
        assert held_out_datasets(some, True)[1]["y"] == "no similarity to another dataset"
        with pytest.raises(NotEnoughResults, match="the graph has 1"):
            held_out_datasets(graph({"x": [1.0, 2.0], "y": [1.0]}), False)
        with pytest.raises(NoSimilarity):
            held_out_datasets(graph({"x": [1.0, 2.0], "y": [1.0, 2.0]}), True)

    def test_a_gain_is_the_method_minus_the_average_rank(self):
        # The method always selects a, which is the best; the others' average rank prefers c.
        values = {f"d{i}": [1.0, 2.0, 1.5] for i in range(2)} | {f"e{i}": [1.0, 2.0, 0.5] for i in range(4)}
        found = evaluate(graph(values), Stub([1.0, 3.0, 2.0]), baselines=BASELINES[:1])
        method, average = found.summaries
        assert method.figures["osr"].value == pytest.approx(2 / 6)
        assert average.figures["osr"].value == pytest.approx(4 / 6)
        assert method.gain["osr"].value == pytest.approx(-2 / 6)
        assert average.gain["osr"].value == 0
        # They differ by 1 on all six, twice for the method: of 64 assignments 44 sum to 2 or more either way.
        assert average.p_value["osr"] == pytest.approx(11 / 16)


def fold(p_best: Mapping[str, float], *best: str) -> Fold:
    losses = {model: 0.0 if model in best else 1.0 for model in p_best}
    return Fold("d", len(losses), best, {}, losses=losses, p_best=p_best, expected_rank={})


def named(folds: Sequence[Fold]) -> list[Fold]:
    """Each of a dataset of its own."""
    return [replace(own, dataset=f"d{number}") for number, own in enumerate(folds)]


class TestSets:
    def test_a_whole_number_of_folds_is_not_rounded_up(self):
        # (19 + 1) * 0.55 is 11, and in floating point a little more: the 11th largest chance of 19 is 0.09.
        folds = [fold({"a": i / 100, "b": 1 - i / 100}, "a") for i in range(1, 20)]
        assert prediction_set({"a": 0.5, "b": 0.3, "c": 0.085}, folds, 0.55).least_chance == 0.09

    def test_the_model_on_the_bound_is_in_and_equal_chances_share_their_fate(self):
        folds = [fold({"a": 0.25, "b": 0.75}, "a")] * 4
        chosen = prediction_set({"d": 0.25, "a": 0.25, "c": 0.5, "b": 0.249}, folds, 0.8)
        assert chosen.models == ("c", "a", "d")

    def test_what_confidence_so_many_folds_allow(self):
        folds = [fold({"a": 0.9, "b": 0.1}, "a")] * 4
        chosen = prediction_set({"a": 0.9, "b": 0.1}, folds, 0.8)
        assert (chosen.models, chosen.attainable, chosen.reason) == (("a",), 0.8, None)
        more = prediction_set({"a": 0.9, "b": 0.1}, folds, 0.81)
        assert more.models == ("a", "b")
        assert "above 80.0%" in more.reason
        assert more.reason.endswith("0.81 needs 5")

    def test_coverage_is_the_share_of_sets_that_hold_a_best_model(self):
        sure = {"a": 0.8, "b": 0.2}
        folds = named([*[fold(sure, "a")] * 3, fold(sure, "b")])
        measured = conformal_coverage(folds, 0.5)
        assert measured.coverage.value == pytest.approx(3 / 4)
        assert measured.size.value == pytest.approx(1)
        assert measured.attainable == 3 / 4

    def test_the_calibration_error_is_no_larger_than_its_interval(self):
        folds = [fold({"a": 0.75, "b": 0.25}, *"a")] * 3 + [fold({"a": 0.75, "b": 0.25}, "b")]
        error = expected_calibration_error(folds, bins=2)
        assert error.value == pytest.approx(0)
        assert error.low == error.value < error.high


def test_figures_that_are_not_defined_are_null():
    assert without_nan({"a": 1.0, "b": NAN, "c": float("inf"), "d": "x"}) == {
        "a": 1.0,
        "b": None,
        "c": None,
        "d": "x",
    }
    assert interval_as_dict(Interval(0.5, 0.25, NAN, 3)) == {
        "mean": 0.5,
        "low": 0.25,
        "high": None,
        "folds": 3,
    }
