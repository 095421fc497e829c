"""Listing, checking, removing and renaming."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from matchgraph.cli.graph import graph as graph_command
from matchgraph.drawing import Drawing
from matchgraph.graphdb.errors import InvalidId, NodeNotFound
from matchgraph.graphdb.models import Dataset, Model, Result, Similar, Statistics
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.upkeep import Belongings, Check, check, listed, remove, rename
from tests.ingest.dump import dump


@pytest.fixture
def zoo(graph: MatchingGraph, runner: Runner, tmp_path: Path) -> MatchingGraph:
    """Two models, one of them served, and three datasets of which two are compared."""
    graph.save_models([Model("m", {"name": "m", "source": str(tmp_path)}), Model("spare")])
    of = {"extractor": "e1"}
    graph.save_datasets(
        [Dataset("a", {"name": "a", "images": 9}), Dataset("b"), Dataset("c", {"source": "/nowhere/c"})],
        [Statistics(name, "e1", "clip", 9, np.zeros(2), np.eye(2)) for name in "abc"],
        [Similar("a", "b", "clip_fid", 2.0, of), Similar("b", "c", "clip_fid", 3.0, {"extractor": "e2"})],
    )
    graph.save_results([Result("m", "a", "clip_fid", 4.0, provenance=of), Result("m", "b", "fid", 5.0)])
    runner.write(
        "MATCH (m:MatchGraphModel {id: 'm'}), (d:MatchGraphDataset {id: 'a'}) "
        "MERGE (r:MatchGraphRun:Run {id: 'r'}) SET r.status = 'DONE' "
        "MERGE (m)<-[:OF]-(r) MERGE (r)-[:ON]->(d)"
    )
    level = PromptGraph(runner)
    prompt = Prompt("a cat", "train", "p", np.array([1.0]))
    level.save_prompts([prompt])
    level.save_variants([Variant("m@4", "m", Drawing(steps=4), 1.0)])
    level.save_scores([Score("m@4", prompt.id, "clip_score", 0.5, 2, 0.1, "s")])
    return graph


@pytest.mark.usefixtures("zoo")
def test_what_there_is(runner: Runner) -> None:
    assert listed(runner, "models")[0] == {
        "model": "m", "family": None, "datasets_measured": 2, "runs": 1, "variants": 1
    }  # fmt: skip
    assert [tuple(row.values()) for row in listed(runner, "datasets")] == [
        ("a", 9, None, 1, 1, 1), ("b", None, None, 1, 2, 0), ("c", None, None, 0, 1, 0)
    ]  # fmt: skip
    assert [tuple(row.values())[:4] for row in listed(runner, "runs")] == [("r", "m", "a", "DONE")]
    assert [tuple(row.values()) for row in listed(runner, "metrics")] == [
        ("clip_fid", False, 1, 2), ("fid", False, 1, 0)
    ]  # fmt: skip


@pytest.mark.usefixtures("zoo")
def test_what_is_wrong(runner: Runner) -> None:
    assert check(runner) == Check(
        missing_pairs=(("a", "c", "e1"), ("b", "c", "e1")),
        orphans=(("model", "spare"),),
        mixed_extractors=(("clip_fid", "SIMILAR", ("e1", "e2")),),
        moved=(("dataset", "c", "/nowhere/c"),),
    )


def test_values_of_no_recorded_extractor_have_gaps_too(graph: MatchingGraph, runner: Runner) -> None:
    graph.save_datasets(
        [Dataset(name) for name in "abc"],
        similar=[Similar("a", "b", "clip_fid", 2.0), Similar("b", "c", "clip_fid", 3.0)],
    )
    assert check(runner).missing_pairs == (("a", "c", "not-recorded"),)
    graph.save_similarities([Similar("a", "c", "clip_fid", 1.0)])
    assert check(runner).missing_pairs == ()


def test_removing_takes_along_what_belongs(zoo: MatchingGraph, runner: Runner) -> None:
    before = dump(runner)
    assert remove(runner, "model", "m", dry_run=True) == Belongings(2, 0, 0, 1, 1, 1)
    assert dump(runner) == before
    remove(runner, "model", "m")
    assert [model.id for model in zoo.models()] == ["spare"]
    assert listed(runner, "runs") == []
    assert len(PromptGraph(runner).prompts()) == 1
    assert PromptGraph(runner).variants() == []
    assert remove(runner, "dataset", "b") == Belongings(0, 2, 1, 0, 0, 0)
    assert [dataset.id for dataset in zoo.datasets()] == ["a", "c"]
    assert [known.dataset for known in zoo.statistics("e1")] == ["a", "c"]
    with pytest.raises(NodeNotFound):
        remove(runner, "dataset", "b")


def test_renaming_keeps_what_belongs(zoo: MatchingGraph, runner: Runner) -> None:
    before = dump(runner)
    rename(runner, "dataset", "a", "z", dry_run=True)
    assert dump(runner) == before
    assert rename(runner, "dataset", "a", "z") == Belongings(1, 1, 1, 1, 0, 0)
    assert rename(runner, "model", "m", "n").variants == 1
    assert [dataset.properties.get("name") for dataset in zoo.datasets()] == [None, None, "z"]
    assert zoo.snapshot("clip_fid", extractors=["e1"]).performs.to_numpy().tolist()[0][:3] == ["n", "z", 4.0]
    # Written again under the new name, everything is where it was.
    zoo.save_similarities([Similar("b", "z", "clip_fid", 2.5, {"extractor": "e1"})])
    zoo.save_datasets([], [Statistics("z", "e1", "clip", 9, np.ones(2), np.eye(2))])
    assert runner.read("MATCH ()-[e:SIMILAR]->() RETURN count(e) AS n") == [{"n": 2}]
    assert len(zoo.statistics("e1")) == 3
    with pytest.raises(InvalidId, match="already"):
        rename(runner, "dataset", "z", "b")
    with pytest.raises(NodeNotFound):
        rename(runner, "model", "m", "x")


@pytest.mark.usefixtures("zoo")
def test_the_commands(environment: Mapping[str, str], runner: Runner) -> None:
    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(graph_command, arguments, env=dict(environment))
        return result.exit_code, result.stdout

    assert [row["model"] for row in json.loads(invoke("list", "--json")[1])] == ["m", "spare"]
    assert "clip_fid" in invoke("list", "metrics")[1]
    code, out = invoke("check")
    assert code == 1
    assert "not compared: a and c (extractor e1)" in out.splitlines()
    assert invoke("remove", "model", "spare")[0] == 2
    assert "Would remove" in invoke("remove", "model", "spare", "--dry-run")[1]
    assert invoke("remove", "model", "spare", "--yes") == (0, "Removed model 'spare' with nothing else.\n")
    assert "plans them again" in invoke("rename", "dataset", "a", "z")[1]
    assert [row["dataset"] for row in listed(runner, "datasets")] == ["b", "c", "z"]
