"""How sure a prediction is: learned on the other datasets only, from the graph of this moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.predictor.confidence import confidence_of, other_folds
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.matching import predict
from matchgraph.predictor.recipes import build_recipe
from matchgraph.predictor.visibility import hide_results, without_dataset

TARGET = "d00"


@pytest.fixture
def gaussian():
    """The default recipe, which needs no database."""
    return build_recipe("gaussian")


def with_other_results(snapshot, dataset: str):
    """The same graph with other results and other distances of one dataset."""
    performs, similar = snapshot.performs.copy(), snapshot.similar.copy()
    own = performs["dataset"] == dataset
    performs.loc[own, "value"] = 100 - 2 * performs.loc[own, "value"]
    joined = (similar[["dataset", "other"]] == dataset).any(axis=1)
    similar.loc[joined, "value"] = 20 - similar.loc[joined, "value"]
    return replace(snapshot, performs=performs, similar=similar)


class TestOtherFolds:
    def test_they_are_the_folds_of_the_graph_without_the_dataset(self, zoo, gaussian):
        folds = other_folds(zoo(), TARGET, gaussian)
        assert [fold.dataset for fold in folds] == [f"d{i:02d}" for i in range(1, 18)]
        alone = evaluate(without_dataset(zoo(), TARGET), gaussian, baselines=())
        assert [fold.p_best for fold in folds] == [fold.p_best for fold in alone.folds]

    def test_nothing_of_the_dataset_enters(self, zoo, gaussian):
        def said(snapshot):
            return [fold.p_best for fold in other_folds(snapshot, TARGET, gaussian)]

        assert said(zoo()) == said(with_other_results(zoo(), TARGET))
        assert said(zoo()) != said(with_other_results(zoo(), "d01"))

    def test_a_dataset_that_is_not_in_the_graph_leaves_all_others(self, zoo, gaussian):
        assert len(other_folds(zoo(), "new", gaussian)) == 18

    def test_of_many_datasets_some_spread_over_all(self, zoo, gaussian, monkeypatch):
        monkeypatch.setattr("matchgraph.predictor.confidence.MOST_FOLDS", 5)
        notes = []
        folds = other_folds(zoo(), TARGET, gaussian, lambda *note: notes.append(note))
        assert [fold.dataset for fold in folds] == ["d01", "d05", "d09", "d13", "d17"]
        assert notes[1] == (1, 5, "d05")

    def test_none_where_no_other_dataset_can_be_left_out(self, zoo, gaussian):
        assert other_folds(zoo(n_datasets=2), TARGET, gaussian) == ()


class TestConfidence:
    def test_a_set_from_the_other_datasets(self, zoo, gaussian):
        snapshot = zoo(noise=2.5)
        prediction = predict(snapshot, TARGET, gaussian)
        sure = confidence_of(prediction, other_folds(snapshot, TARGET, gaussian), 0.9)
        assert sure.chosen.folds == 17
        assert sure.chosen.models == tuple(
            model.model
            for model in sorted(prediction.ranking, key=lambda model: -model.p_best)
            if model.p_best >= sure.chosen.least_chance
        )
        assert sure.coverage.coverage.count == 17

    def test_without_folds_the_set_is_all_models_and_says_why(self, zoo, gaussian):
        snapshot = zoo(n_datasets=2)
        sure = confidence_of(predict(snapshot, TARGET, gaussian), (), 0.9)
        assert len(sure.chosen.models) == 6
        assert sure.chosen.reason.startswith("0 other datasets with results allow no confidence above 0.0%")
        assert sure.coverage is None

    def test_a_dataset_cannot_vouch_for_itself(self, zoo, gaussian):
        folds = evaluate(zoo(), gaussian, baselines=()).folds
        with pytest.raises(InvalidRows, match="'d00' cannot calibrate its own prediction"):
            confidence_of(predict(zoo(), TARGET, gaussian), folds, 0.9)

    def test_sets_cover_datasets_of_simulated_zoos(self, zoo, gaussian):
        held = []
        for seed in range(5):
            snapshot = zoo(n_datasets=9, noise=2.5, seed=seed)
            for target in ("d00", "d04"):
                own = snapshot.performs[snapshot.performs["dataset"] == target]
                best = own["model"].iloc[int(np.argmin(own["value"]))]
                prediction = predict(hide_results(snapshot, target), target, gaussian)
                sure = confidence_of(prediction, other_folds(snapshot, target, gaussian), 0.8)
                held.append(best in sure.chosen.models)
        # Three standard deviations of a mean of ten draws.
        assert np.mean(held) >= 0.8 - 3 * np.sqrt(0.8 * 0.2 / 10)
