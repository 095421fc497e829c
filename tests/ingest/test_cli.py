"""The commands of `matchgraph ingest`, in process: answers on stdout, problems on stderr, exit codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.errors import Error
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.training.errors import ModelUnavailable
from matchgraph.training.tune.student_folder import is_student
from tests.ingest.conftest import Invoke, answer
from tests.ingest.dump import dump
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache

ZOO = Path(__file__).parents[2] / "zoo"


@pytest.mark.parametrize("command", ["", "models", "datasets", "results", "similarities"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(matchgraph, ["ingest", *command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_tables_in_and_results_out(invoke: Invoke, graph: MatchingGraph, tmp_path: Path) -> None:
    for name, text in {
        "models": "model,params\nm,5\nn,6\n",
        "datasets": "dataset,e0,e1\nd,1,2\ne,3,4\n",
        "results": "model,dataset,metric,value\nm,d,accuracy,0.5\nn,e,accuracy,0.6\n",
        "similarities": "dataset,other,metric,value\nd,e,fid,7\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    assert answer(invoke("models", tmp_path / "models.csv", "--json")) == {
        "models": ["m", "n"],
        "notes": [],
        "measured": {},
        "skipped": [],
    }
    assert answer(invoke("datasets", tmp_path / "datasets.csv", "--json"))["datasets"] == ["d", "e"]
    assert invoke("results", tmp_path / "results.csv").stdout == "2 results in the graph.\n"
    assert invoke("similarities", tmp_path / "similarities.csv").stdout == "1 similarity in the graph.\n"
    snapshot = graph.snapshot("accuracy")
    assert snapshot.performs.value.tolist() == [0.5, 0.6]
    assert snapshot.similar.value.tolist() == [7.0]


@pytest.mark.slow
def test_pipeline_folders_and_a_table_add_up(
    invoke: Invoke, graph: MatchingGraph, runner: Runner, tmp_path: Path
) -> None:
    folder = tmp_path / "zoo"
    for name in ("sd-1.5", "juggernaut-x"):
        shutil.copytree(ZOO / name, folder / name)
    result = invoke("models", folder)
    lines = result.stdout.splitlines()
    assert lines[0] == "2 models in the graph."
    assert "sd-1.5: 859,520,964 parameters, 71.58 TFLOP" in lines
    assert "juggernaut-x: the pipeline names no scheduler class" in result.stderr
    table = tmp_path / "facts.csv"
    table.write_text("model,released,params\nsd-1.5,2022,859520964\n")
    assert invoke("models", table).exit_code == 0
    model = next(model for model in graph.models() if model.id == "sd-1.5")
    assert (model.properties["released"], model.properties["denoiser"]) == (2022, "UNet2DConditionModel")
    before = dump(runner)
    assert invoke("models", folder).exit_code == 0
    assert invoke("models", table).exit_code == 0
    assert dump(runner) == before


def test_a_pipeline_is_added_by_its_name_on_the_hub(
    invoke: Invoke,
    graph: MatchingGraph,
    runner: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    snapshot = put_into_cache(tmp_path / "cache", "someone/lcm-tiny", tiny.save_lcm(tmp_path / "lcm"))
    told = answer(invoke("models", "someone/lcm-tiny", "--no-throughput", "--json"))
    assert told["models"] == ["someone/lcm-tiny"]
    assert told["measured"]["someone/lcm-tiny"].keys() == {"params", "tflop"}
    assert invoke("models", "someone/lcm-tiny", "--no-throughput", "--id", "mine").exit_code == 0
    stored = {model.id: model.properties for model in graph.models()}
    assert stored.keys() == {"someone/lcm-tiny", "mine"}
    assert (stored["mine"]["family"], stored["mine"]["pipeline"]) == ("sd", "LatentConsistencyModelPipeline")
    assert (stored["mine"]["tflop_rows"], stored["mine"]["tflop_guidance"]) == (1, 8.5)
    # What draws the graph's models finds it, and knows it for one of few steps.
    folders = MatchingGraph(runner).model_folders()
    assert folders == {"someone/lcm-tiny": snapshot.resolve(), "mine": snapshot.resolve()}
    assert is_student(folders["mine"])
    before = dump(runner)
    assert invoke("models", "someone/lcm-tiny", "--no-throughput").exit_code == 0
    assert invoke("models", snapshot, "--no-throughput").exit_code == 0
    assert dump(runner) == before
    missing = invoke("models", "someone/else")
    assert isinstance(missing.exception, ModelUnavailable)
    assert "not on this machine and cannot be fetched" in str(missing.exception)
    # A table that is not there is none on the hub.
    assert isinstance(invoke("models", "someone/else.csv").exception, BadInput)
    assert dump(runner) == before


def test_problems_go_to_stderr_and_nothing_is_written(invoke: Invoke, runner: Runner, tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("model,params\nm,5\n,6\nm,7\n")
    before = dump(runner)
    refused = invoke("models", table)
    assert isinstance(refused.exception, BadInput)
    assert isinstance(refused.exception, Error)
    assert dump(runner) == before
    skipped = invoke("models", table, "--skip-bad", "--json")
    assert [problem["line"] for problem in answer(skipped)["skipped"]] == [3, 4]
    assert skipped.stderr.count("Skipped: ") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["results", "x.csv", "--on-duplicate", "guess"], "--on-duplicate"),
        (["models"], "Missing argument"),
        (["models", ""], "The path is empty"),
        (["datasets", ""], "The path is empty"),
    ],
)
def test_wrong_usage(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.delenv("MATCHGRAPH_PROBE", raising=False)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
