"""Ranking, measuring the likeliest and deciding, with runs that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from matchgraph import shortlist
from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Dataset, Model, Result, Similar
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.candidates import measurable_models
from matchgraph.ingest.runs.config import RunConfig, Selection
from matchgraph.ingest.runs.estimates import UNMEASURED, Estimate
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.predictor.recipes import Method
from matchgraph.shortlist import NothingMeasured, Shortlisted, measure_and_decide

QUALITY = {"good": 1.0, "fair": 1.5, "poor": 3.0, "bad": 4.0}
METHOD = Method(recipe="gaussian")


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    """Four models on four datasets, good the best on three and fair on one, and a fifth without results."""
    graph.save_models([Model(name, {"source": f"/{name}"}) for name in QUALITY])
    known = [f"d{number}" for number in range(4)]
    graph.save_datasets([Dataset(name) for name in [*known, "new"]])
    pairs = [(a, b) for a in [*known, "new"] for b in [*known, "new"] if a < b]
    graph.save_similarities([Similar(*pair, "clip_fid", 1.0) for pair in pairs])
    graph.save_results(
        [
            Result(model, dataset, "clip_fid", 10 * value + 8 * (model == "good" and number == 3))
            for model, value in QUALITY.items()
            for number, dataset in enumerate(known)
        ]
    )
    return graph


@pytest.fixture
def runs() -> list[str]:
    """The models that were run, in order; see `measuring`."""
    return []


def measuring(
    monkeypatch: pytest.MonkeyPatch, runs: list[str], values: Mapping[str, tuple[float, float]]
) -> None:
    """Let a run of a model give (before, after), or fail where it has no values."""

    def run_pairs(
        graph: MatchingGraph, _: Settings, config: RunConfig, selection: Selection, **__: Any
    ) -> Any:
        (model,), (dataset,) = selection.models, selection.datasets
        runs.append(model)
        assert config.initial
        if model not in values:
            return type("Summary", (), {"failed": {"r": "no memory"}, "not_here": {}, "done": 0, **NOTHING})
        before, after = values[model]
        provenance = {"standard_error": 0.1}
        graph.save_results(
            [
                Result(model, dataset, "clip_fid", before, "initial", provenance=provenance),
                Result(model, dataset, "clip_fid", after, provenance=provenance),
            ]
        )
        return type("Summary", (), {"failed": {}, "not_here": {}, "done": 1, **NOTHING})

    monkeypatch.setattr(shortlist, "run_pairs", run_pairs)


NOTHING = {"already_done": 0, "done_elsewhere": 0}


@pytest.fixture
def decided(
    zoo: MatchingGraph, settings: Settings, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Shortlisted]:
    def decided(values: Mapping[str, tuple[float, float]], **options: Any) -> Shortlisted:
        measuring(monkeypatch, runs, values)
        return measure_and_decide(zoo, settings, "new", method=METHOD, **options)

    return decided


def test_the_likeliest_are_measured_until_there_are_enough(
    decided: Callable[..., Shortlisted], runs: list[str]
) -> None:
    found = decided({"good": (30.0, 20.0), "fair": (30.0, 12.0)}, measure=2)
    assert runs == ["good", "fair"] == list(found.order[:2])
    assert (found.decision.model, found.decision.tuned, found.decision.value) == ("fair", True, 12.0)
    assert "2 measured" in found.stopped
    # What is measured counts: the same question again runs nothing.
    assert decided({}, measure=2).decision == found.decision
    assert len(runs) == 2


def test_models_are_measured_as_they_are_ranked_whichever_is_likelier_to_be_the_best(
    decided: Callable[..., Shortlisted], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = shortlist._predicted

    def turned(*arguments: Any) -> Any:
        answer, chances = predicted(*arguments)
        assert answer is not None
        first, second = (own.model for own in answer.ranking[:2])
        return answer, {**chances, first: chances[second], second: chances[first]}

    monkeypatch.setattr(shortlist, "_predicted", turned)
    decided({"good": (30.0, 20.0), "fair": (30.0, 12.0)}, measure=2)
    assert runs == ["good", "fair"]


def test_a_failure_is_named_and_the_next_one_is_measured(
    decided: Callable[..., Shortlisted], runs: list[str]
) -> None:
    found = decided({"fair": (30.0, 12.0)}, measure=1)
    assert runs == ["good", "fair"]
    assert found.failed == {"good": "no memory"}
    assert found.decision.model == "fair"


def test_a_run_whose_result_does_not_count_is_not_done_for_ever(
    decided: Callable[..., Shortlisted], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "outcomes", lambda *_: [])
    with pytest.raises(NothingMeasured, match="good: its result was not measured by the extractor asked for"):
        decided(dict.fromkeys(QUALITY, (30.0, 20.0)), measure=1)
    assert runs == sorted(QUALITY, key=QUALITY.__getitem__)


def test_nothing_measured_is_an_error_with_its_reasons(decided: Callable[..., Shortlisted]) -> None:
    with pytest.raises(NothingMeasured, match="good: no memory"):
        decided({}, measure=3)


def test_a_clear_leader_ends_the_measurements(
    decided: Callable[..., Shortlisted], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "ENOUGH", 0.5)
    found = decided({model: (30.0, 10 * value) for model, value in QUALITY.items()}, measure=4)
    assert len(runs) < 4
    assert found.decision.model == "good"
    assert "50 % or more" in found.stopped


def test_the_budget_is_kept(
    decided: Callable[..., Shortlisted], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    able = measurable_models

    def dear(graph: MatchingGraph, dataset: str, metric: str) -> Any:
        found = able(graph, dataset, metric)
        hours = {"good": 0.5, "fair": 2.0}
        return {
            name: type(own)(
                own.config, Estimate(3600 * hours.get(name, 0.1), "runs of this model on another machine")
            )
            for name, own in found.items()
        }

    monkeypatch.setattr(shortlist, "measurable_models", dear)
    said: list[str] = []
    reporter = Reporter()
    reporter.notice = said.append  # type: ignore[method-assign]
    found = decided({"good": (30.0, 20.0)}, measure=None, budget_hours=1.0, reporter=reporter)
    assert runs == ["good"]
    # Before anything begins: which models that pays for, at which size, and how long it takes by which runs.
    chance = 100 * found.answer.ranking[0].p_best if found.answer else 0
    assert said == [
        f"To measure on new, with images of 512 px: good (P(best) {chance:.0f} %, about 30 min).\n"
        "Together about 30 min, estimated from runs of this model on another machine."
    ]
    assert "fair, does not fit the budget of 1 h" in found.stopped
    monkeypatch.setattr(
        shortlist,
        "measurable_models",
        lambda *_: {
            name: type(own)(own.config, Estimate(None, UNMEASURED)) for name, own in able(*_).items()
        },
    )
    decided({"fair": (30.0, 20.0)}, measure=2, budget_hours=1.0, reporter=reporter)
    assert said[-1].splitlines()[1:] == [
        "The budget of 1 h cannot be kept to (nothing measured on a CPU): no model is begun once it is spent."
    ]


def test_without_results_all_are_as_likely(
    graph: MatchingGraph, settings: Settings, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.save_models([Model(name, {"source": f"/{name}"}) for name in QUALITY])
    graph.save_datasets([Dataset("new")])
    measuring(monkeypatch, runs, {"bad": (3.0, 5.0), "fair": (4.0, 6.0)})
    found = measure_and_decide(graph, settings, "new", method=METHOD, measure=2)
    assert found.answer is None
    assert runs == ["bad", "fair"]
    assert (found.decision.model, found.decision.tuned) == ("bad", False)
    assert found.decision.chances["good"] == 0.25
