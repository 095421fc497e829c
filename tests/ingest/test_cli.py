"""The commands of `matchgraph ingest`, in process: answers on stdout, problems on stderr, exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import matchgraph
from graphdb.repository import MatchingGraph
from graphdb.runner import Runner
from ingest.errors import BadInput
from tests.ingest.dump import dump

ZOO = Path(__file__).parents[2] / "zoo"
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(environment: Mapping[str, str]) -> Invoke:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(matchgraph, ["ingest", *map(str, arguments)], env=dict(environment))

    return invoke


def answer(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", ["", "models", "datasets", "results", "similarities", "run", "status"])
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


def test_problems_go_to_stderr_and_nothing_is_written(invoke: Invoke, runner: Runner, tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("model,params\nm,5\n,6\nm,7\n")
    before = dump(runner)
    refused = invoke("models", table)
    assert isinstance(refused.exception, BadInput)
    assert refused.exception.matchgraph_user_error
    assert dump(runner) == before
    skipped = invoke("models", table, "--skip-bad", "--json")
    assert [problem["line"] for problem in answer(skipped)["skipped"]] == [3, 4]
    assert skipped.stderr.count("Skipped: ") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["datasets", str(ZOO)], "--probe"),
        (["run"], "--probe"),
        (["run", "--pairs", "x.csv", "--model", "m"], "--pairs stands alone"),
        (["run", "--steps", "0"], "--steps"),
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


def test_fine_tuning_from_folders_to_edges(
    invoke: Invoke,
    graph: MatchingGraph,
    runner: Runner,
    pipelines: Path,
    probe: Path,
    image_folders: Path,
    environment: Mapping[str, str],
) -> None:
    assert answer(invoke("models", pipelines, "--json"))["models"] == ["tiny-sd3", "tiny-unet"]
    singly = [image_folders / name for name in ("dogs", "cats")]
    found = answer(invoke("datasets", *singly, "--probe", probe, "--json"))
    assert (found["datasets"], found["similarities"]) == (["dogs", "cats"], 1)
    found = answer(invoke("datasets", image_folders, "--probe", probe, "--json"))
    assert (found["datasets"], found["unchanged"], found["similarities"]) == (["trees"], ["cats", "dogs"], 2)
    assert "params" in graph.models()[0].properties
    options = [
        "--probe",
        probe,
        "--steps",
        2,
        "--batch-size",
        2,
        "--rank",
        2,
        "--resolution",
        32,
        "--samples",
        3,
    ]
    options += ["--sampling-steps", 2, "--dataset", "cats", "--device", "cpu", "--json"]
    result = invoke("run", *options)
    done = answer(result)
    assert (done["total"], done["already_done"], done["done"]) == (2, 0, 2)
    performs = graph.snapshot().performs
    assert performs[["model", "dataset"]].values.tolist() == [["tiny-sd3", "cats"], ["tiny-unet", "cats"]]
    assert (performs[["value", "initial"]] > 0).all().all()
    assert (performs.value != performs.initial).all()
    row = performs.iloc[0]
    assert f"tiny-sd3 x cats: clip_fid {row.initial:.4g} -> {row.value:.4g}, " in result.stderr
    runs = answer(invoke("status", "--json"))
    assert runs["counts"] == {"QUEUED": 0, "RUNNING": 0, "DONE": 2, "FAILED": 0}
    home = Path(environment["MATCHGRAPH_HOME"])
    for run in runs["runs"]:
        folder = (home / run["adapter"]).parent
        names = sorted(file.name for file in folder.iterdir())
        assert names == ["pytorch_lora_weights.safetensors", "record.json", "samples.png"]
        assert len(json.loads((folder / "record.json").read_text())["with"]["happened"]["losses"]) == 2
    assert invoke("status").stdout.startswith("0 queued, 0 running, 2 done, 0 failed\n")
    before = dump(runner)
    again = invoke("run", *options[:-1])
    assert again.stdout == "2 runs: 2 already done.\n"
    assert dump(runner) == before


def test_failures_are_listed_and_exit_with_1(
    invoke: Invoke, graph: MatchingGraph, image_folders: Path, probe: Path
) -> None:
    # Kolors is a pipeline that no family of the training package knows.
    assert invoke("models", ZOO / "kolors").exit_code == 0
    assert invoke("datasets", image_folders / "cats", "--probe", probe).exit_code == 0
    result = invoke("run", "--probe", probe, "--steps", 1, "--samples", 2, "--device", "cpu")
    assert result.exit_code == 1
    assert "KolorsPipeline" in result.stderr
    assert "1 failed (try again with --retry-failed)" in result.stdout
    assert "FAILED" in invoke("status").stdout
    assert graph.snapshot().performs.empty
