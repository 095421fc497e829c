"""The paper's method: nothing of the target's results enters, reasons add up, odd zoos are ranked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.embedding import GdsNode2Vec, Node2VecConfig
from matchgraph.graphdb.models import Dataset, Model
from matchgraph.predictor.errors import NoSimilarity, NotEnoughResults, UnknownTarget
from matchgraph.predictor.matching import Cost, explain, predict
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker, ForestConfig, ForestRanker
from matchgraph.predictor.visibility import hide_results, similarities_of

NAN = float("nan")


def outcome(prediction):
    """Everything a prediction says, for comparisons bit for bit."""
    return prediction.ranking, prediction.neighbours, prediction.provenance


def scrambled(snapshot, dataset: str):
    """The same graph with other results on one dataset."""
    performs = snapshot.performs.copy()
    own = performs["dataset"] == dataset
    performs.loc[own, "value"] = 1000 - 3 * performs.loc[own, "value"]
    performs.loc[own, "initial"] = 7.0
    return replace(snapshot, performs=performs)


class TestPredict:
    def test_ranks_the_whole_zoo(self, zoo, matcher):
        prediction = predict(zoo(), "d00", matcher, costs={"m1": Cost(train_seconds=60)})
        assert sorted(model.model for model in prediction.ranking) == [f"m{i}" for i in range(6)]
        ranks = [model.expected_rank for model in prediction.ranking]
        assert ranks == sorted(ranks)
        assert all(1 <= rank <= 6 for rank in ranks)
        assert sum(model.p_best for model in prediction.ranking) == pytest.approx(1)
        costs = {model.model: model.cost.train_seconds for model in prediction.ranking}
        assert costs["m1"] == 60
        assert costs["m2"] is None

    def test_says_what_it_was_made_with(self, zoo, embedder, matcher):
        prediction = predict(zoo(), "d00", matcher)
        assert prediction.provenance["results"] == 17 * 6
        assert prediction.provenance["embedder"]["seed"] == embedder.config.seed
        assert prediction.provenance["ranker"]["iterations"] == 15
        assert prediction.provenance["recipe"] == "paper"
        assert prediction.provenance["rows"]["operator"] == "concat"
        assert set(prediction.provenance["versions"]) >= {"catboost", "numpy"}

    def test_repeats_bit_for_bit(self, zoo, matcher):
        assert outcome(predict(zoo(), "d00", matcher)) == outcome(predict(zoo(), "d00", matcher))

    def test_the_targets_results_change_nothing(self, zoo, matcher):
        snapshot = zoo()
        told = predict(scrambled(snapshot, "d04"), "d04", matcher)
        assert outcome(predict(snapshot, "d04", matcher)) == outcome(told)

    def test_another_datasets_results_do_change_it(self, zoo, matcher):
        snapshot = zoo()
        told = predict(scrambled(snapshot, "d07"), "d04", matcher)
        assert outcome(predict(snapshot, "d04", matcher)) != outcome(told)

    def test_a_new_dataset_is_predicted_like_a_hidden_one(self, zoo, matcher):
        snapshot = zoo()
        known = next(dataset for dataset in snapshot.datasets if dataset.id == "d05")
        distances = similarities_of(snapshot, "d05")
        without = replace(
            snapshot,
            datasets=tuple(dataset for dataset in snapshot.datasets if dataset.id != "d05"),
            performs=snapshot.performs[snapshot.performs["dataset"] != "d05"],
            similar=snapshot.similar[(snapshot.similar[["dataset", "other"]] != "d05").all(axis=1)],
        )
        new = predict(without, known, matcher, distances=distances)
        assert outcome(new) == outcome(predict(snapshot, "d05", matcher))

    def test_a_model_without_results_is_ranked_by_its_features(self, zoo, matcher):
        snapshot = zoo()
        models = (*snapshot.models, Model("zz new", {"params": 3, "family": "a"}))
        prediction = predict(replace(snapshot, models=models), "d00", matcher)
        assert "zz new" in {model.model for model in prediction.ranking}

    def test_evidence_is_the_nearest_datasets_with_their_best_models(self, zoo, matcher):
        snapshot = zoo()
        prediction = predict(snapshot, "d00", matcher)
        near = sorted(similarities_of(snapshot, "d00").items(), key=lambda pair: pair[1])[:3]
        assert [(n.dataset, n.similarity) for n in prediction.neighbours] == near
        own = snapshot.performs[snapshot.performs["dataset"] == near[0][0]]
        assert list(prediction.neighbours[0].best) == own.sort_values("value")["model"].tolist()[:3]


class TestExplain:
    def test_reasons_add_up(self, zoo, matcher):
        ranked = matcher.rank(zoo(), ["d00"], explain=True)["d00"]
        lifts = ranked.contributions
        reasons = explain(lifts, ranked.parts)
        assert np.allclose([sum(r.lift for r in row) for row in reasons], lifts.sum(axis=1))
        assert {r.part for r in reasons[0]} == {"graph", "dataset", "model:params", "model:family"}

    def test_few_attributes_by_name_the_rest_in_one(self):
        parts = [f"model:a{i}" for i in range(7)] + ["graph", "dataset", "dataset"]
        (row,) = explain(np.array([[0.1, -5, 0.2, 3, 0.3, 1, 2, 0.5, 1, 1]]), parts)
        names = [reason.part for reason in row]
        assert names == [
            "model:a1",
            "model:a3",
            "dataset",
            "model:a6",
            "model:a5",
            "other model attributes",
            "graph",
        ]
        assert row[5].lift == pytest.approx(0.6)

    def test_a_ranker_that_cannot_tell(self, zoo, embedder):
        prediction = predict(zoo(), "d00", PaperMatcher(embedder, ForestRanker(ForestConfig(10))))
        assert all(model.why == () for model in prediction.ranking)


class TestOddZoos:
    def test_missing_results_and_ties(self, zoo, matcher):
        snapshot = zoo()
        performs = snapshot.performs.drop(index=range(0, len(snapshot.performs), 4))
        performs["value"] = performs["value"].round(0)
        assert len(predict(replace(snapshot, performs=performs), "d00", matcher).ranking) == 6

    def test_a_large_zoo(self, zoo, ranker):
        snapshot = zoo(n_datasets=6, n_models=120)
        prediction = predict(snapshot, "d00", PaperMatcher(None, ranker, "node"))
        assert len(prediction.ranking) == 120
        assert sum(model.p_best for model in prediction.ranking) == pytest.approx(1)

    def test_of_too_many_results_some_are_learned_from_with_their_rank_among_all(
        self, zoo, embedder, ranker, monkeypatch
    ):
        seen = []
        fit = ranker.fit
        monkeypatch.setattr(ranker, "fit", lambda rows, targets: (seen.append(targets), fit(rows, targets)))
        monkeypatch.setattr("matchgraph.predictor.paper.MOST_ROWS", 51)
        predict(zoo(), "d00", PaperMatcher(embedder, ranker))
        # Three models of each of 17 datasets, and as many of each rank as 51 in all can be.
        assert seen[0].sum() == 51
        assert set(seen[0].sum(axis=0)) <= {8, 9}

    def test_one_known_dataset_and_two_models(self, zoo, matcher):
        snapshot = zoo(n_datasets=2, n_models=2)
        prediction = predict(snapshot, "d00", matcher)
        assert len(prediction.ranking) == 2

    def test_nothing_tells_models_apart(self, zoo, ranker):
        snapshot = zoo()
        blank = replace(
            snapshot,
            models=tuple(Model(model.id) for model in snapshot.models),
            datasets=tuple(Dataset(dataset.id) for dataset in snapshot.datasets),
        )
        prediction = predict(blank, "d00", PaperMatcher(None, ranker, "node"))
        assert [model.p_best for model in prediction.ranking] == pytest.approx([1 / 6] * 6)

    def test_refuses_what_cannot_be_predicted(self, zoo, matcher):
        snapshot = zoo()
        alone = replace(
            snapshot, similar=snapshot.similar[(snapshot.similar[["dataset", "other"]] != "d00").all(axis=1)]
        )
        with pytest.raises(NoSimilarity, match="d00"):
            predict(alone, "d00", matcher)
        assert predict(alone, "d00", PaperMatcher(None, matcher.ranker, "node")).neighbours == ()
        one = pd.DataFrame([("m0", "d01", 1.0, NAN)], columns=["model", "dataset", "value", "initial"])
        with pytest.raises(NotEnoughResults):
            predict(replace(snapshot, performs=one), "d00", matcher)
        with pytest.raises(UnknownTarget):
            predict(snapshot, "d99", matcher)


@pytest.mark.slow
def test_the_targets_results_change_nothing_in_a_real_graph(graph, runner, zoo, save, ranker):
    snapshot = zoo(n_datasets=8)
    gds = GdsNode2Vec(runner, Node2VecConfig(dimension=16, walk_length=20))
    save(graph, snapshot)
    before = predict(graph.snapshot(), "d04", PaperMatcher(gds, ranker))
    elsewhere = predict(graph.snapshot(), "d03", PaperMatcher(gds, ranker))
    save(graph, scrambled(snapshot, "d04"))
    after = predict(graph.snapshot(), "d04", PaperMatcher(gds, ranker))
    assert outcome(before) == outcome(after)
    assert outcome(predict(graph.snapshot(), "d03", PaperMatcher(gds, ranker))) != outcome(elsewhere)


@pytest.mark.slow
def test_a_rebuilt_graph_gives_the_same_prediction(graph, runner, zoo, save):
    gds = GdsNode2Vec(runner, Node2VecConfig(dimension=16, walk_length=20))
    ranker = CatBoostRanker(CatBoostConfig(iterations=10, depth=3))
    save(graph, zoo(n_datasets=6))
    before = predict(graph.snapshot(), "d04", PaperMatcher(gds, ranker))
    graph.clear()
    save(graph, zoo(n_datasets=6))
    assert outcome(predict(graph.snapshot(), "d04", PaperMatcher(gds, ranker))) == outcome(before)
    assert hide_results(graph.snapshot(), "d04").performs.shape[0] == 30
