"""The commands about runs, in process: plan, run, worker, status, retry and cancel."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.errors import NodeNotFound
from matchgraph.graphdb.models import Result as Measured
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import ConfigChanged, IngestError, NothingToDo, UnknownRun
from matchgraph.ingest.runs import local
from matchgraph.ingest.runs.entries import Run, RunProgress
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.predictor.errors import NothingToPropose
from tests.ingest.conftest import Invoke, answer
from tests.ingest.dump import dump

ZOO = Path(__file__).parents[2] / "zoo"
SMALL = [
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
    "--sampling-steps",
    2,
]


@pytest.mark.parametrize("command", ["plan", "run", "worker", "status", "retry", "cancel"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(matchgraph, ["ingest", command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "--budget-hours", "0"], "--budget-hours"),
        (["plan", "--out", "x.csv"], "--budget-hours"),
        (["run", "--steps", "0"], "--steps"),
        (["run", "--workers", "0"], "--workers"),
        (["run", "--workers", "many"], "--workers"),
        (["retry"], "--all"),
        (["cancel", "--all", "0123456789abcdef"], "--all"),
        (["status", "--watch", "--json"], "--watch"),
        (["plan", "--price-per-hour", "nan"], "not a finite number"),
        (["plan", "--budget-hours", "inf"], "not a finite number"),
        (["run", "--cache-gb", "nan"], "not a finite number"),
        (["worker", "--cache-gb", "inf"], "not a finite number"),
        (["models", "zoo", "--guidance", "nan"], "not a finite number"),
    ],
)
def test_wrong_usage(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.delenv("MATCHGRAPH_PROBE", raising=False)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "--probe"),
        (["datasets", str(ZOO)], "--probe"),
        (["run", "--pairs", "x.csv", "--model", "m"], "--pairs stands alone"),
        (["plan", "--budget-hours", "5", "--pairs", "x.csv", "--model", "m"], "--pairs stands alone"),
        (["run", "--executor", "ray", "--address", ""], "--address is empty"),
    ],
)
def test_what_a_service_refuses(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("MATCHGRAPH_PROBE", raising=False)
    assert message in str(invoke(*arguments).exception)


@pytest.fixture
def zoo(
    invoke: Invoke, graph: MatchingGraph, probe: Path, image_folders: Path, tmp_path: Path
) -> list[object]:
    """Two models without weights and two datasets; gives the options of a plan for them."""
    table = tmp_path / "facts.csv"
    table.write_text("model,tflop\nsd-1.5,71.58\nsdxl-base,155.96\n")
    for name in ("sd-1.5", "sdxl-base"):
        ingest_models(graph, ZOO / name)
    ingest_models(graph, table)
    folders = [image_folders / name for name in ("cats", "dogs")]
    assert invoke("datasets", *folders, "--probe", probe).exit_code == 0
    return ["--probe", probe, *SMALL]


def test_a_plan_says_what_there_is_and_what_the_rest_costs(
    invoke: Invoke,
    runner: Runner,
    graph: MatchingGraph,
    zoo: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = dump(runner)
    monkeypatch.setattr(local, "visible_gpus", lambda _: [])
    assert "\nThe time of 4 runs cannot be estimated; --gpu-memory" in invoke("plan", *zoo).stdout
    # No price is known, which is another thing than none.
    assert answer(invoke("plan", *zoo, "--price-per-hour", 3, "--json"))["cost"] is None
    monkeypatch.setattr(local, "visible_gpus", lambda _: ["0"])
    first = answer(invoke("plan", *zoo, "--price-per-hour", 3, "--json"))
    assert dump(runner) == before
    assert first == answer(invoke("run", *zoo, "--price-per-hour", 3, "--dry-run", "--json"))
    assert dump(runner) == before
    assert {run["state"] for run in first["runs"]} == {"NEW"}
    assert (first["to_do"], first["not_estimated"]) == (4, 0)
    assert first["cost"] == pytest.approx(first["device_hours"] * 3)
    assert first["device_hours"] > 0
    assert {run["estimate"]["basis"] for run in first["runs"]} == {"an assumed GPU of 50 TFLOP/s"}
    # SDXL computes more than SD 1.5 for a picture of one size.
    seconds = {run["model"]: run["estimate"]["seconds"] for run in first["runs"]}
    assert seconds["sdxl-base"] > seconds["sd-1.5"]

    ledger = Ledger(runner)
    assert (
        invoke("run", *zoo, "--queue").stdout
        == "4 runs, 4 queued; run them with `matchgraph ingest worker`.\n"
    )
    done, running = (run["id"] for run in first["runs"][:2])
    here = Owner.here()
    claim = ledger.claim(done, here)
    assert claim is not None
    outcome = {"machine": "another", "adapter": "a", "training_seconds": 40.0, "seconds_per_image": 10.0}
    row = next(run for run in first["runs"] if run["id"] == done)
    outcome["clip_fid"] = 5.0
    ledger.complete(claim, graph, [result(row["model"], row["dataset"])], outcome)
    held = ledger.claim(running, here)
    assert held is not None
    ledger.heartbeat(held, RunProgress("fine-tuning", 1, 2, 0.5))
    second = answer(invoke("plan", *zoo, "--json"))
    assert [run["state"] for run in second["runs"]] == ["DONE", "RUNNING", "QUEUED", "QUEUED"]
    assert [run["recorded"] for run in second["runs"]] == [True, False, False, False]
    estimates = [run["estimate"] for run in second["runs"]]
    assert estimates[0] == {"seconds": 0.0, "basis": "done"}
    # Half of the training, and one of two samplings of three images.
    assert estimates[1]["seconds"] == pytest.approx(40 / 2 + 3 * 10)
    assert estimates[2]["basis"] == "runs of other models"
    table = invoke("plan", *zoo, "--price-per-hour", 3).stdout
    assert "4 runs: 1 done, 2 queued, 1 running." in table
    assert "at 3.00 an hour" in table


@pytest.mark.slow
def test_a_plan_says_what_fits_a_gpu(invoke: Invoke, zoo: list[object]) -> None:
    asked = ["plan", *zoo, "--model", "sd-1.5", "--precision", "bf16", "--resolution", 512, "--batch-size", 8]
    # Or it would be tried in fewer bits.
    asked += ["--quantisation", "none"]
    for gib, fits in ((12, True), (1, False)):
        memory = answer(invoke(*asked, "--gpu-memory", gib, "--json"))["memory"]["sd-1.5"]
        assert memory["fits"] == fits
        assert (memory["peak_gib"] <= gib) == fits
        assert "micro-batch 4 of 8" in memory["choices"] or not fits
    shown = invoke(*asked, "--gpu-memory", 1).stdout
    assert re.search(r"sd-1.5: \d\.\d GiB of GPU memory in [a-z ]+, which does not fit: ", shown)


def result(model: str, dataset: str) -> Measured:
    return Measured(model, dataset, "clip_fid", 5.0, "finetuned", {})


def test_a_changed_configuration_is_refused_by_name(
    invoke: Invoke, runner: Runner, zoo: list[object]
) -> None:
    assert invoke("run", *zoo, "--queue").exit_code == 0
    before = dump(runner)
    changed = [*zoo, "--learning-rate", "1e-3"]
    for command in (["run", *changed, "--queue"], ["plan", *changed]):
        refused = invoke(*command)
        assert isinstance(refused.exception, ConfigChanged)
        message = str(refused.exception)
        assert "learning_rate was 1e-05 there and is 0.001 here" in message
        assert "ingest cancel" in message
        assert "--also" in message
    assert dump(runner) == before
    # Another seed is another question, and so is a pair that is not unfinished.
    assert invoke("run", *changed, "--seed", 7, "--queue").exit_code == 0
    assert invoke("run", *changed, "--also", "--queue").exit_code == 0
    assert len(Ledger(runner).runs()) == 12
    assert invoke("cancel", "--all").stdout == "12 runs cancelled.\n"
    assert invoke("run", *changed, "--rank", 3, "--queue").exit_code == 0


def test_cancelled_and_failed_runs_are_queued_again_on_request(
    invoke: Invoke, runner: Runner, environment: Mapping[str, str], zoo: list[object]
) -> None:
    ledger = Ledger(runner)
    assert invoke("run", *zoo, "--queue").exit_code == 0
    ids = [run.id for run in ledger.runs()]
    claim = ledger.claim(ids[0], Owner.here())
    assert claim is not None
    ledger.fail(claim, "broken", traceback="line 1\nline 2", final=True)
    left = Path(environment["MATCHGRAPH_HOME"], "runs", ids[1], "claim-1", "checkpoint")
    left.mkdir(parents=True)
    assert answer(invoke("cancel", ids[1], ids[0], "--json")) == {"cancelled": [ids[1]]}
    assert not left.parent.parent.exists()
    listed = invoke("status").stdout
    assert listed.startswith("2 queued, 0 running, 0 done, 1 failed, 1 cancelled\n")
    assert "broken" in listed
    shown = invoke("status", ids[0]).stdout
    assert "line 1\nline 2" in shown
    assert '"steps": 2' in shown
    # What was cancelled stays so until it is asked for.
    again = invoke("run", *zoo, "--queue", "--retry-failed", "--json")
    assert ids[1] not in answer(again)["queued"]
    assert ids[0] in answer(again)["queued"]
    assert answer(invoke("retry", "--all", "--json")) == {"queued": []}
    retried = invoke("retry", ids[1], ids[0])
    assert retried.stdout == "1 run queued.\n"
    assert retried.stderr == f"{ids[0]} is queued: nothing to retry.\n"
    assert isinstance(invoke("retry", "0" * 16).exception, UnknownRun)


def test_status_tells_how_far_a_run_is(invoke: Invoke, runner: Runner, zoo: list[object]) -> None:
    ledger = Ledger(runner)
    assert invoke("run", *zoo, "--queue").exit_code == 0
    run = ledger.runs()[0].id
    claim = ledger.claim(run, Owner.here())
    assert claim is not None
    ledger.heartbeat(claim, RunProgress("fine-tuning", 1, 2, 0.125))
    facts = answer(invoke("status", run, "--json"))
    assert facts["counts"]["RUNNING"] == 1
    assert facts["runs"][0]["progress"] == {"stage": "fine-tuning", "step": 1, "of": 2, "loss": 0.125}
    assert facts["runs"][0]["seconds_left"] > 0
    assert "token" not in facts["runs"][0]
    line = invoke("status").stdout
    assert "fine-tuning 1/2, loss 0.125" in line
    assert " left" in line
    runner.write("MATCH (run:Run {id: $id}) SET run.lease_until = 0", id=run)
    assert "worker lost" in invoke("status").stdout


def test_status_lists_the_newest_and_keeps_to_what_was_asked_for(
    invoke: Invoke, runner: Runner, environment: Mapping[str, str], zoo: list[object]
) -> None:
    ledger = Ledger(runner)
    assert invoke("run", *zoo, "--queue").exit_code == 0
    runs = ledger.runs()
    ended, running = runs[0], runs[1]
    for run in (ended, running):
        assert ledger.claim(run.id, Owner.here()) is not None
    runner.write("MATCH (run:Run {id: $id}) SET run.status = 'FAILED', run.error = 'broken'", id=ended.id)
    newest = runs[3]
    runner.write("MATCH (run:Run {id: $id}) SET run.queued_at = run.queued_at + 1", id=newest.id)
    shown = invoke("status", "--limit", "2")
    counted, *lines = shown.stdout.splitlines()
    assert counted == "2 queued, 1 running, 0 done, 1 failed, 0 cancelled"
    assert [line.split()[:2] for line in lines] == [["RUNNING", running.id], ["QUEUED", newest.id]]
    assert shown.stderr.startswith("2 more runs not shown: raise --limit")
    assert [line.split()[1] for line in invoke("status", "--running").stdout.splitlines()[1:]] == [running.id]
    of_one = answer(invoke("status", "--dataset", ended.dataset, "--model", ended.model, "--json"))
    assert [run["id"] for run in of_one["runs"]] == [ended.id]
    assert isinstance(invoke("status", "--dataset", "nowhere").exception, NodeNotFound)
    folder = Path(environment["MATCHGRAPH_HOME"], "runs", ended.id, "claim-1")
    folder.mkdir(parents=True)
    # Before there is an adapter, the folder of the last claim.
    assert f"  folder: {folder}\n" in invoke("status", ended.id).stdout
    folder = folder.with_name("claim-2")
    folder.mkdir()
    adapter = f"runs/{ended.id}/claim-2/adapter.safetensors"
    runner.write("MATCH (run:Run {id: $id}) SET run.adapter = $adapter", id=ended.id, adapter=adapter)
    assert f"  folder: {folder}\n" in invoke("status", ended.id).stdout


def test_several_workers_without_anything_to_do(invoke: Invoke, zoo: list[object]) -> None:
    assert invoke("run", *zoo, "--queue").exit_code == 0
    assert invoke("cancel", "--all").exit_code == 0
    for workers in ("2", "1"):
        result = invoke("run", *zoo, "--device", "cpu", "--workers", workers)
        assert result.exit_code == 0
        assert result.stdout == "4 runs: 0 done now, 0 already done, 4 cancelled.\n"
    assert invoke("worker", "--device", "cpu").stdout == "0 runs: 0 already done.\n"


def test_watching_ends_when_nothing_is_left_to_do(invoke: Invoke, zoo: list[object]) -> None:
    assert invoke("run", *zoo, "--queue").exit_code == 0
    assert invoke("cancel", "--all").exit_code == 0
    result = invoke("status", "--watch")
    assert result.exit_code == 0
    assert "4 cancelled" in result.stdout


def test_a_replicate_needs_a_seed_of_its_own(
    invoke: Invoke, runner: Runner, graph: MatchingGraph, zoo: list[object]
) -> None:
    ledger = Ledger(runner)
    assert invoke("run", *zoo, "--queue").exit_code == 0
    # The same seed is refused only where there is something to repeat.
    run = ledger.runs()[0]
    claim = ledger.claim(run.id, Owner.here())
    assert claim is not None
    ledger.complete(claim, graph, [result(run.model, run.dataset)], {"machine": "another", "clip_fid": 5.0})
    refused = invoke("run", *zoo, "--replicate", "--queue")
    assert isinstance(refused.exception, NothingToDo)
    assert "--seed" in str(refused.exception)
    assert invoke("run", *zoo, "--replicate", "--seed", 43, "--queue").exit_code == 0
    assert sum(run.replicate for run in ledger.runs()) == 4
    assert "replicate, seed 43" in invoke("status").stdout


def count_reads(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[int]]:
    """The folders of images that are listed from now on, and the rows of each read of the ledger's runs."""
    from matchgraph.training import images

    listed: list[Path] = []
    read: list[int] = []
    list_folder, read_runs = images.read_image_folder, Ledger._read

    def listing(folder: os.PathLike[str]) -> images.ImageListing:
        listed.append(Path(folder))
        return list_folder(folder)

    def reading(self: Ledger, **chosen: object) -> list[Run]:
        found = read_runs(self, **chosen)
        read.append(len(found))
        return found

    monkeypatch.setattr(images, "read_image_folder", listing)
    monkeypatch.setattr(Ledger, "_read", reading)
    return listed, read


@pytest.mark.slow
def test_fine_tuning_from_folders_to_edges(
    invoke: Invoke,
    graph: MatchingGraph,
    runner: Runner,
    pipelines: Path,
    probe: Path,
    image_folders: Path,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
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
    # Other runs of the ledger are no burden to these.
    assert invoke("run", *options[:-5], "--dataset", "dogs", "--queue").exit_code == 0
    listed, read = count_reads(monkeypatch)
    result = invoke("run", *options)
    done = answer(result)
    assert listed == [image_folders / "cats"]
    # Each run asks once more, as it ends, which mean over seeds it has joined.
    assert len(read) == 7
    assert sum(read) == 10
    monkeypatch.undo()
    assert invoke("cancel", "--all").exit_code == 0
    assert (done["total"], done["already_done"], done["done"]) == (2, 0, 2)
    performs = graph.snapshot().performs
    assert performs[["model", "dataset"]].values.tolist() == [["tiny-sd3", "cats"], ["tiny-unet", "cats"]]
    assert (performs[["value", "initial"]] > 0).all().all()
    assert (performs.value != performs.initial).all()
    row = performs.iloc[0]
    assert f"tiny-sd3 x cats: clip_fid {row.initial:.4g} -> {row.value:.4g}, " in result.stderr
    runs = answer(invoke("status", "--json"))
    assert runs["counts"] == {"QUEUED": 0, "RUNNING": 0, "DONE": 2, "FAILED": 0, "CANCELLED": 2}
    home = Path(environment["MATCHGRAPH_HOME"])
    for run in runs["runs"]:
        if run["dataset"] != "cats":
            continue
        assert not run["config"].keys() & (run.keys() - {"extractors"})
        folder = (home / run["adapter"]).parent
        names = sorted(file.name for file in folder.iterdir())
        assert {"pytorch_lora_weights.safetensors", "record.json", "samples.png"} <= set(names)
        assert "checkpoint" not in names
        text = (folder / "record.json").read_text()
        assert len(json.loads(text)["with"]["happened"]["losses"]) == 2
        assert text.count('"learning_rate"') == text.count('"caption_dropout"') == 1
    assert invoke("status").stdout.startswith("0 queued, 0 running, 2 done, 0 failed, 2 cancelled\n")
    before = dump(runner)
    again = invoke("run", *options[:-1])
    assert again.stdout == "2 runs: 2 already done.\n"
    assert dump(runner) == before


@pytest.mark.slow
def test_failures_are_listed_and_exit_with_1(
    invoke: Invoke, graph: MatchingGraph, image_folders: Path, probe: Path
) -> None:
    # Of Kolors there are only the configs here, and no weights to load.
    assert invoke("models", ZOO / "kolors").exit_code == 0
    assert invoke("datasets", image_folders / "cats", "--probe", probe).exit_code == 0
    result = invoke("run", "--probe", probe, "--steps", 1, "--samples", 2, "--device", "cpu")
    assert result.exit_code == 1
    assert "KolorsPipeline" in result.stderr
    assert "1 failed (try again with --retry-failed, " in result.stdout
    assert "FAILED" in invoke("status").stdout
    assert graph.snapshot().performs.empty


def test_a_budget_is_spent_on_missing_pairs_that_run_takes(
    invoke: Invoke,
    runner: Runner,
    graph: MatchingGraph,
    zoo: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "visible_gpus", lambda _: ["0"])
    whole = answer(invoke("plan", *zoo, "--json"))
    # On a CPU the same hours, and what they are worth.
    monkeypatch.setattr(local, "visible_gpus", lambda _: [])
    seconds = {run["model"]: run["estimate"]["seconds"] for run in whole["runs"]}
    graph.save_results([Measured("sd-1.5", "cats", "clip_fid", 5.0)])
    before = dump(runner)
    file = tmp_path / "pairs.csv"
    budget = whole["device_hours"]
    asked = ("plan", *zoo, "--budget-hours", budget, "--price-per-hour", 3, "--json")
    proposal = answer(invoke(*asked, "--out", file))
    assert dump(runner) == before
    assert proposal == answer(invoke(*asked))
    pairs = {(pair["model"], pair["dataset"]) for pair in proposal["pairs"]}
    assert pairs == {("sd-1.5", "dogs"), ("sdxl-base", "cats"), ("sdxl-base", "dogs")}
    assert proposal["missing"] == 3
    for pair in proposal["pairs"]:
        assert pair["hours"] == pytest.approx(seconds[pair["model"]] / 3600)
    assert proposal["hours"] == pytest.approx(sum(pair["hours"] for pair in proposal["pairs"]))
    assert proposal["cost"] == pytest.approx(3 * proposal["hours"])

    planned = answer(invoke("run", *zoo, "--pairs", file, "--dry-run", "--json"))
    assert {(run["model"], run["dataset"]) for run in planned["runs"]} == pairs
    shown = invoke(*asked[:-1])
    assert "3 of 3 missing pairs" in shown.stdout
    assert "first result of this model" in shown.stdout
    assert "The budget cannot be kept to: nothing measured on a CPU; times are those of an" in shown.stderr

    # What is queued is on its way already, and what is not selected is not wanted.
    assert invoke("run", *zoo, "--model", "sd-1.5", "--queue").exit_code == 0
    left = answer(invoke(*asked, "--dataset", "dogs"))
    assert [(pair["model"], pair["dataset"]) for pair in left["pairs"]] == [("sdxl-base", "dogs")]


def test_a_budget_that_pays_for_nothing(invoke: Invoke, zoo: list[object], tmp_path: Path) -> None:
    nothing = invoke("plan", *zoo, "--budget-hours", 1e-9)
    assert isinstance(nothing.exception, NothingToPropose)
    assert "raise --budget" in str(nothing.exception)
    nowhere = invoke("plan", *zoo, "--budget-hours", 1e9, "--out", tmp_path / "no" / "p.csv")
    assert isinstance(nowhere.exception, IngestError)
    assert "cannot be written" in str(nowhere.exception)
