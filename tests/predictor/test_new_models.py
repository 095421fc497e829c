"""Models held out: nothing of a model is seen, and a method that goes by its properties places it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.models import Model, Snapshot
from matchgraph.predictor.errors import NotEnoughResults
from matchgraph.predictor.matching import Ranked
from matchgraph.predictor.new_models import evaluate_new_models
from matchgraph.predictor.ranks import RankPrediction

Zoo = Callable[..., Snapshot]


@dataclass
class ByProperty:
    """Ranks models by one of their properties, and keeps what it was shown."""

    sign: float = 1.0
    name: str = "by property"
    needs_similarities: bool = False
    notes: tuple[str, ...] = ()
    shown: list[tuple[Snapshot, list[str]]] = field(default_factory=list)

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        assert not explain
        self.shown.append((visible, list(datasets)))
        order = np.array([self.sign * model.properties["params"] for model in visible.models])
        ranks = order.argsort().argsort() + 1.0
        found = RankPrediction(ranks, np.ones(len(ranks)), np.full(len(ranks), 1 / len(ranks)))
        return dict.fromkeys(datasets, Ranked(tuple(model.id for model in visible.models), found))

    def quick(self) -> ByProperty:
        return self

    def describe(self) -> dict[str, Any]:
        return {}


def ordered_zoo(zoo: Zoo, n_datasets: int = 6) -> Snapshot:
    """A zoo in which the model with fewer parameters is better on every dataset."""
    snapshot = zoo(n_datasets=n_datasets)
    params = {model.id: model.properties["params"] for model in snapshot.models}
    performs = snapshot.performs.assign(value=[10.0 * params[model] for model in snapshot.performs["model"]])
    return replace(snapshot, performs=performs)


def test_nothing_of_the_model_and_of_the_quarter_is_seen(zoo: Zoo) -> None:
    snapshot, method = ordered_zoo(zoo), ByProperty()
    performs = snapshot.performs.assign(initial=50.0)
    evaluate_new_models(replace(snapshot, performs=performs), method)
    assert len(method.shown) == 4 * 6
    for number, (visible, datasets) in enumerate(method.shown):
        model = f"m{number // 4}"
        assert model in [known.id for known in visible.models]
        assert model not in set(visible.performs["model"])
        assert not set(datasets) & set(visible.performs["dataset"])
        assert set(visible.performs["model"]) == {f"m{i}" for i in range(6)} - {model}
    for first in range(0, 24, 4):
        asked = [dataset for _, datasets in method.shown[first : first + 4] for dataset in datasets]
        assert sorted(asked) == sorted(known.id for known in snapshot.datasets)


def test_a_method_that_knows_beats_the_middle_and_its_reverse_does_not(zoo: Zoo) -> None:
    snapshot = ordered_zoo(zoo)
    found = evaluate_new_models(snapshot, ByProperty())
    assert [(one.model, one.datasets, one.ordered) for one in found.models] == [
        (f"m{i}", 6, 1.0) for i in range(6)
    ]
    # Between the third and the fourth of six, the first is wrongly below two others.
    middle = [one.in_the_middle for one in found.models]
    assert middle == pytest.approx([0.6, 0.8, 1, 1, 0.8, 0.6])
    assert found.gain.low > 0
    assert found.gain.count == 6
    assert found.gain.value == pytest.approx(1 - np.mean(middle))
    assert [(one.best_on, one.found) for one in found.models] == [(6, 6)] + 5 * [(0, 0)]
    reverse = evaluate_new_models(snapshot, ByProperty(-1.0))
    assert {one.ordered for one in reverse.models} == {0.0}
    assert (reverse.models[0].best_on, reverse.models[0].found) == (6, 0)
    assert reverse.ordered.value == 0


def test_ties_count_half_and_missing_results_do_not_count(zoo: Zoo) -> None:
    snapshot = ordered_zoo(zoo)
    tied = snapshot.performs.assign(value=10.0)
    found = evaluate_new_models(replace(snapshot, performs=tied), ByProperty())
    assert {one.ordered for one in found.models} == {0.5}
    few = snapshot.performs[(snapshot.performs["model"] != "m5") | (snapshot.performs["dataset"] == "d03")]
    found = evaluate_new_models(replace(snapshot, performs=few), ByProperty())
    assert [one.datasets for one in found.models] == [6, 6, 6, 6, 6, 1]
    unmeasured = (*snapshot.models, Model("m6", {"params": 99, "family": "a"}))
    found = evaluate_new_models(replace(snapshot, models=unmeasured), ByProperty())
    assert [one.model for one in found.models] == [f"m{i}" for i in range(6)]


def test_two_models_leave_nothing_to_be_placed_among(zoo: Zoo) -> None:
    snapshot = ordered_zoo(zoo)
    two = snapshot.performs[snapshot.performs["model"].isin(["m0", "m1"])]
    with pytest.raises(NotEnoughResults, match=r"at least 3 of them .*; the graph has 2\."):
        evaluate_new_models(replace(snapshot, performs=two), ByProperty())


def test_a_frame_and_json(zoo: Zoo) -> None:
    told: list[tuple[int, int, str]] = []
    found = evaluate_new_models(ordered_zoo(zoo), ByProperty(), progress=lambda *given: told.append(given))
    assert told == [(number, 6, f"m{number}") for number in range(6)]
    frame = found.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame.loc["m0", ["datasets", "best_on", "found"]].tolist() == [6, 6, 6]
    whole = found.to_dict()
    assert whole["models"][5]["model"] == "m5"
    assert whole["ordered"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "folds": 6}
    assert whole["provenance"]["hold_out"] == "model"
