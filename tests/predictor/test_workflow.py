"""The services: answers and evaluations as data, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, MeasuredDataset, Result, Similar, Statistics
from matchgraph.predictor.config import ReplayConfig
from matchgraph.predictor.costs import load_costs
from matchgraph.predictor.errors import ExtractorMismatch, InvalidRows, UnknownMetricName, UnknownTarget
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.workflow import evaluate, evaluate_by_budget, predict


class New:
    """A dataset near `near` and far from all others."""

    metric = "clip_fid"

    def __init__(self, near: set[str], extractor: str = "e1") -> None:
        self.near, self.extractor = near, extractor

    def measured(self, graph, known, on_progress, *, save=False) -> MeasuredDataset:  # noqa: ARG002
        on_progress("embedding images", 0, 1)
        similar = tuple(
            Similar(
                "new",
                each.id,
                self.metric,
                1.0 if each.id in self.near else 9.0,
                {"extractor": self.extractor},
            )
            for each in known
        )
        statistics = Statistics("new", self.extractor, "bicubic", 10, np.zeros(2), np.eye(2))
        return MeasuredDataset(Dataset("new", {"images": 10}), (statistics,), similar)


@pytest.fixture
def filled(graph, zoo, save):
    """A graph of three kinds of datasets, of which d00, d03, ... are one."""
    save(graph, zoo(n_datasets=9))
    return graph


class TestPredict:
    def test_an_answer_as_data(self, filled, zoo):
        answer = predict(filled, "d03", confidence=0.5)
        frame = answer.to_frame()
        assert list(frame["model"]) == [model.model for model in answer.ranking]
        assert list(frame.index) == [1, 2, 3, 4, 5, 6]
        assert frame["expected_rank"].is_monotonic_increasing
        assert frame["p_best"].sum() == pytest.approx(1)
        results = zoo(n_datasets=9).performs.itertuples()
        truth = {row.model: row.value for row in results if row.dataset == "d03"}
        assert dict(zip(frame["model"], frame["measured"], strict=True)) == pytest.approx(truth)
        assert list(answer.costs) == list(frame["model"])
        assert answer.costs["m2"].params == 3
        assert answer.costs["m2"].train_seconds == 103
        plain = answer.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False))["ranking"][0]["model"] == frame["model"][1]
        assert plain["confidence"]["folds"] == 8
        assert plain["seconds"] == answer.seconds > 0

    def test_a_notebook_shows_a_table(self, filled):
        page = predict(filled, "d03")._repr_html_()
        assert page.count("<tr") == 8
        assert "Models for d03 by clip_fid" in page
        # Nothing is known of it.
        assert "throughput" not in page

    @pytest.mark.slow
    def test_a_new_dataset_is_ranked_by_its_distances_and_kept_if_asked(self, filled):
        steps = []
        near = {"d01", "d04", "d07"}
        answer = predict(filled, New(near), on_progress=lambda *step: steps.append(step[0]))
        assert {neighbour.dataset for neighbour in answer.neighbours} == near
        # Models of the kind of these datasets are the best on them.
        assert {answer.ranking[0].model, answer.ranking[1].model} == {"m1", "m4"}
        assert "measured" not in answer.to_frame()
        assert steps == ["embedding images", "ranking models"]
        assert "new" not in {dataset.id for dataset in filled.datasets()}
        saved = predict(filled, New(near), save=True)
        assert "new" in {dataset.id for dataset in filled.datasets()}
        assert saved.ranking == answer.ranking

    def test_what_is_refused(self, filled):
        with pytest.raises(UnknownTarget, match=r"'d033' is neither a folder nor .* 9 datasets.*'d03'"):
            predict(filled, "d033")
        with pytest.raises(UnknownTarget, match="--save"):
            predict(filled, "d03", save=True)
        with pytest.raises(InvalidRows, match="above 0 and below 1"):
            predict(filled, "d03", confidence=1.0)
        with pytest.raises(InvalidRows, match="compared by clip_fid, not by lpips"):
            predict(filled, New(set()), method=Method(similarity="lpips"))
        with pytest.raises(UnknownMetricName, match=r"'lpips'.*clip_fid \(54 results\)"):
            predict(filled, "d03", method=Method(metric="lpips"))

    def test_a_new_dataset_is_not_compared_by_another_extractor(self, filled):
        similar = [
            Similar(row.dataset, row.other, "clip_fid", row.value, {"extractor": "e2"})
            for row in filled.snapshot().similar.itertuples()
        ]
        filled.save_similarities(similar)
        with pytest.raises(ExtractorMismatch, match="but they were compared with each other by e2"):
            predict(filled, New(set()), save=True)
        assert "new" not in {dataset.id for dataset in filled.datasets()}


class TestCosts:
    def test_medians_of_runs_on_other_datasets(self, filled):
        filled.save_results(
            [
                Result("m0", f"d0{i}", "clip_fid", 1.0, provenance={"training_seconds": seconds})
                for i, seconds in enumerate((1.0, 2.0, 50.0, 1000.0))
            ]
            + [Result("m0", f"d0{i}", "clip_fid", 1.0) for i in range(4, 9)]
        )
        snapshot = filled.snapshot()
        assert load_costs(filled, snapshot)["m0"].train_seconds == 26
        assert load_costs(filled, snapshot, without="d03")["m0"].train_seconds == 2


class TestEvaluate:
    @pytest.mark.slow
    def test_as_data(self, filled):
        evaluation = evaluate(filled, method=Method(recipe="gaussian"))
        frame = evaluation.to_frame()
        assert frame.index[0] == "Match & Choose"
        assert frame.loc["Random (expected)", "osr"] == pytest.approx(1 / 6)
        own = evaluation.summaries[0].figures["tau_w"]
        assert list(frame.iloc[0][["tau_w", "tau_w_low", "tau_w_high"]]) == [own.value, own.low, own.high]
        assert math.isnan(frame.iloc[0]["tau_w_p"])
        assert 0 < frame.iloc[1]["tau_w_p"] <= 1
        plain = evaluation.to_dict()
        json.dumps(plain, allow_nan=False)
        assert plain["methods"][0]["figures"]["tau_w"]["mean"] == own.value
        assert plain["methods"][0]["figures"]["tau_w"]["folds"] == 9

    def test_by_budget(self, filled):
        config = ReplayConfig(shares=(0.5,), replays=1)
        curve = evaluate_by_budget(filled, method=Method(recipe="gaussian", features="node"), config=config)
        assert curve.hours_from == "recorded times of 6 of 6 models"
        plain = curve.to_dict()
        json.dumps(plain, allow_nan=False)
        assert [order["key"] for order in plain["orders"]] == [
            "active",
            "random",
            "round_robin",
            "by_dataset",
        ]
        assert [point["share"] for point in plain["orders"][0]["points"]] == [0.5]


class TestMethod:
    @pytest.mark.parametrize("given", [{"trees": 10}, {"ranker": "forest"}, {"operator": "l1"}])
    def test_refuses_an_ingredient_that_the_recipe_does_not_have(self, given):
        [name] = given
        with pytest.raises(InvalidRows, match=f"--{name} needs --recipe paper"):
            Method(**given)
        assert getattr(Method(recipe="paper", **given), name) == given[name]

    def test_all_recipes_take_a_seed(self):
        assert Method(seed=3).seed == 3

    @pytest.mark.parametrize("given", [{"recipe": "soup"}, {"features": "none"}, {"seed": -1}, {"trees": 0}])
    def test_refuses_what_it_does_not_know(self, given):
        with pytest.raises(InvalidRows, match=next(iter(given))):
            Method(**given)
