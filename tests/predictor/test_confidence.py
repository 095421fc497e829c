"""How sure a prediction is: learned on the other datasets only, from the graph of this moment."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from matchgraph.graphdb.models import Snapshot
from matchgraph.predictor.confidence import cluster_folds, confidence_of, other_folds
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.matching import predict
from matchgraph.predictor.recipes import build_recipe
from matchgraph.predictor.visibility import without_dataset

TARGET = "d00"


@pytest.fixture
def gaussian():
    """The default recipe, which needs no database."""
    return build_recipe("gaussian")


class Spy:
    """A method that only notes what it is asked, and what it sees of the graph."""

    needs_similarities = False

    def __init__(self) -> None:
        self.seen: list[tuple[list[str], Snapshot]] = []

    def quick(self) -> Spy:
        return self

    def rank(self, visible: Snapshot, datasets: Sequence[str]) -> dict[str, Any]:
        self.seen.append((list(datasets), visible))
        return {}


OTHERS = {f"d{i:02d}" for i in range(1, 18)}


class TestOtherFolds:
    def test_each_other_dataset_is_hidden_in_turn_and_the_one_asked_about_is_gone(self, zoo):
        spy: Any = Spy()
        other_folds(zoo(), TARGET, spy)
        assert [asked for asked, _ in spy.seen] == [[name] for name in sorted(OTHERS)]
        for asked, visible in spy.seen:
            assert set(visible.performs["dataset"]) == OTHERS - set(asked)
            assert set(visible.similar[["dataset", "other"]].to_numpy().ravel()) == OTHERS
            assert {dataset.id for dataset in visible.datasets} == OTHERS

    def test_clusters_are_hidden_whole(self, zoo):
        spy: Any = Spy()
        cluster_folds(zoo(), TARGET, spy)
        # Every third dataset is of one kind.
        kinds = [sorted(name for name in OTHERS if int(name[1:]) % 3 == kind) for kind in range(3)]
        assert sorted(asked for asked, _ in spy.seen) == sorted(kinds)
        for asked, visible in spy.seen:
            assert set(visible.performs["dataset"]) == OTHERS - set(asked)

    def test_they_are_the_folds_of_the_graph_without_the_dataset(self, zoo, gaussian):
        snapshot = zoo(n_datasets=6)
        folds = other_folds(snapshot, TARGET, gaussian)
        alone = evaluate(without_dataset(snapshot, TARGET), gaussian, baselines=())
        assert [fold.p_best for fold in folds] == [fold.p_best for fold in alone.folds]

    def test_a_dataset_that_is_not_in_the_graph_leaves_all_others(self, zoo, gaussian):
        assert len(other_folds(zoo(n_datasets=6), "new", gaussian)) == 6

    def test_of_many_datasets_some_spread_over_all(self, zoo, monkeypatch):
        monkeypatch.setattr("matchgraph.predictor.confidence.MOST_FOLDS", 5)
        spy: Any = Spy()
        notes = []
        other_folds(zoo(), TARGET, spy, lambda *note: notes.append(note))
        assert [asked for asked, _ in spy.seen] == [["d01"], ["d05"], ["d09"], ["d13"], ["d17"]]
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
        found = sure.to_dict()
        assert (found["coverage"]["folds"], found["size"]["folds"]) == (17, 17)
        assert found["coverage_of_clusters"] is None

    def test_without_folds_the_set_is_all_models_and_says_why(self, zoo, gaussian):
        snapshot = zoo(n_datasets=2)
        sure = confidence_of(predict(snapshot, TARGET, gaussian), (), 0.9)
        assert len(sure.chosen.models) == 6
        assert sure.chosen.reason.startswith("0 other datasets with results allow no confidence above 0.0%")
        assert sure.coverage is None
        assert (sure.to_dict()["coverage"], sure.to_dict()["size"]) == (None, None)

    def test_a_dataset_cannot_vouch_for_itself(self):
        own: Any = SimpleNamespace(dataset=TARGET)
        with pytest.raises(InvalidRows, match="'d00' cannot calibrate its own prediction"):
            confidence_of(own, [own], 0.9)
