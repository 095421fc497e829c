"""Only models that can be used are chosen from, and the answer says which were left out and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph import shortlist, usable
from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.models import Dataset, Model, Result, Similar
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs import memory
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.workflow import predict
from matchgraph.usable import Conditions, NothingUsable

TINY = Path(__file__).parents[1] / "minizoo" / "models" / "tiny-sd15"
PROPERTIES: Mapping[str, Mapping[str, str]] = {
    "small": {"license": "Apache-2.0", "published_memory_24_gib": "fits", "published_memory_12_gib": "fits"},
    "large": {"published_license": "apache-2.0", "published_memory_24_gib": "too small for training"},
    "closed": {"license": "openrail++", "published_memory_48_gib": "fits"},
    "unknown": {},
}


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    """Four models, measured on three datasets; the last one is the best on each."""
    graph.save_models([Model(name, properties) for name, properties in PROPERTIES.items()])
    graph.save_datasets([Dataset(name) for name in "abc"])
    graph.save_similarities([Similar(x, y, "clip_fid", 1.0) for x, y in ("ab", "ac", "bc")])
    graph.save_results(
        [
            Result(model, dataset, "clip_fid", 10.0 - place)
            for place, model in enumerate(PROPERTIES)
            for dataset in "abc"
        ]
    )
    return graph


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        (Conditions(licences=("apache 2.0",)), ("large", "small")),
        (Conditions(licences=("apache-2.0", "OpenRAIL*")), ("closed", "large", "small")),
        (Conditions(fits_gib=48), ("closed", "small")),
    ],
)
def test_what_does_not_meet_a_condition_or_is_not_known_to_is_left_out(
    zoo: MatchingGraph, tmp_path: Path, conditions: Conditions, kept: tuple[str, ...]
) -> None:
    method, (note,) = conditions.applied(zoo, tmp_path)
    assert method.models == kept
    assert {name for name in PROPERTIES if f"{name} (" in note} == PROPERTIES.keys() - {*kept}
    answer = predict(zoo, "a", method=method)
    assert sorted(model.model for model in answer.ranking) == [*kept]
    assert sum(model.p_best for model in answer.ranking) == pytest.approx(1)


@pytest.mark.slow
def test_a_folder_is_planned_for_the_card(graph: MatchingGraph, tmp_path: Path) -> None:
    from matchgraph.ingest.tables.models import ingest_models

    ingest_models(graph, TINY)
    method, notes = Conditions(fits_gib=8).applied(graph, tmp_path)
    assert (method.models, notes) == (("tiny-sd15",), ())
    with pytest.raises(NothingUsable, match=r"tiny-sd15 \(fine-tuning takes [0-9.]+ GiB\)"):
        Conditions(fits_gib=0.01).applied(graph, tmp_path)


def test_a_card_computes_in_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, RunConfig] = {}

    def planned(_: object, __: object, configs: Mapping[str, RunConfig], *___: object) -> dict[str, object]:
        seen.update(configs)
        return {}

    monkeypatch.setattr(memory, "memory_of_models", planned)
    usable._too_large([Model("small", PROPERTIES["small"])], 24, tmp_path)
    assert seen["small"].computed_in == "bf16"


def test_no_condition_changes_nothing_and_one_that_none_meets_is_an_error(
    zoo: MatchingGraph, tmp_path: Path
) -> None:
    assert Conditions().applied(zoo, tmp_path, Method(seed=3)) == (Method(seed=3), ())
    with pytest.raises(NothingUsable, match=r"unknown \(its licence is not known\)"):
        Conditions(licences=("mit",)).applied(zoo, tmp_path)


def test_the_command_says_what_it_left_out_and_measures_under_the_same_conditions(
    zoo: MatchingGraph, environment: Mapping[str, str]
) -> None:
    zoo.save_models([Model("also", {"license": "apache-1.1", "published_memory_80_gib": "fits"})])
    zoo.save_results([Result("also", dataset, "clip_fid", 20.0) for dataset in "abc"])
    options = ["predict", "a", "--fits", "80GB", "--license", "apache*"]
    answer = CliRunner().invoke(matchgraph, options, env=dict(environment))
    assert answer.exit_code == 0, answer.output
    text = " ".join(answer.stdout.split())
    assert "Note: left out: closed (its licence is openrail++); large (too small for training);" in text
    assert "--measure 2 --fits 80 --license 'apache*'" in text
    answer = CliRunner().invoke(matchgraph, [*options, "--json"], env=dict(environment))
    assert [row["model"] for row in json.loads(answer.stdout)["ranking"]] == ["small", "also"]
    answer = CliRunner().invoke(matchgraph, [*options, "--fits", "24"], env=dict(environment))
    assert "small alone is left to choose from" in str(answer.exception)


def test_others_are_neither_measured_nor_decided_for(
    zoo: MatchingGraph, monkeypatch: pytest.MonkeyPatch, settings
) -> None:
    monkeypatch.setattr(shortlist, "run_pairs", None)
    found = shortlist.measure_and_decide(zoo, settings, "a", method=Method(models=("small", "large")))
    assert found.order == ()
    assert found.decision.model == "large"
    assert {outcome.model for outcome in found.decision.measured} == {"small", "large"}
