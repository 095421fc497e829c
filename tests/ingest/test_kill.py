"""Killed in the middle and run again, every command ends in the graph that an undisturbed one gives."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.ledger import DONE, RUNNING, Ledger
from matchgraph.ingest.runs.plan import make_plan, queue_plan
from matchgraph.ingest.runs.worker import work
from matchgraph.ingest.tables.datasets import ingest_dataset_table, ingest_image_folders
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.ingest.tables.results import ingest_results
from tests.ingest.conftest import write_images
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import Silent

Start = Callable[..., "subprocess.Popen[str]"]
PATIENCE_S = 120
MODELS, DATASETS = 50, 50


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Kill a process without warning at the first moment that `reached` says."""
    give_up = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, f"ended too soon: {process.communicate()}"
        assert time.monotonic() < give_up
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def writing(runner: Runner, statement: str) -> bool:
    """Whether a transaction is running a statement with this text."""
    rows = runner.read("SHOW TRANSACTIONS YIELD currentQuery")
    return any(
        statement in (row["currentQuery"] or "") and "SHOW TRANS" not in row["currentQuery"] for row in rows
    )


def settled(runner: Runner) -> None:
    """Wait until the server has undone what the killed client had begun."""
    give_up = time.monotonic() + PATIENCE_S
    while len(runner.read("SHOW TRANSACTIONS YIELD transactionId")) > 1:
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["models", "results"])
def test_a_killed_table_is_written_wholly_or_not_at_all(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, start: Start, kind: str
) -> None:
    models, datasets = tmp_path / "models.csv", tmp_path / "datasets.csv"
    attributes = [f"a{number}" for number in range(40)]
    rows = [
        f"m{number}" + f",{number}" * len(attributes)
        for number in range(1500 if kind == "models" else MODELS)
    ]
    models.write_text("\n".join([",".join(["model", *attributes]), *rows]))
    datasets.write_text("\n".join(["dataset", *(f"d{number}" for number in range(DATASETS))]))
    results = tmp_path / "results.csv"
    results.write_text(
        "\n".join(
            [
                "model,dataset,metric,value",
                *(f"m{m},d{d},clip_fid,{m + d}" for m in range(MODELS) for d in range(DATASETS)),
            ]
        )
    )
    if kind == "models":
        command, statement = ["models", models], "MERGE (m:MatchGraphModel"
    else:
        ingest_models(graph, models)
        ingest_dataset_table(graph, datasets)
        command, statement = ["results", results], "PERFORMS"
    before = dump(runner)
    process = start("ingest", *command)
    kill_when(process, lambda: writing(runner, statement))
    settled(runner)
    after = dump(runner)
    ingest = ingest_models if kind == "models" else ingest_results
    ingest(graph, command[1])
    complete = dump(runner)
    assert after in (before, complete)
    assert complete != before
    graph.clear()
    if kind == "results":
        ingest_models(graph, models)
        ingest_dataset_table(graph, datasets)
    ingest(graph, command[1])
    assert dump(runner) == complete


def test_killed_among_image_folders(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, probe: Path, start: Start
) -> None:
    from matchgraph.training.measure.extractors import load_clip

    folder = tmp_path / "many"
    for number in range(8):
        write_images(folder / f"set-{number:02d}", number, ["a", "b", "c"])
    process = start("ingest", "datasets", folder, "--probe", probe)
    kill_when(process, lambda: len(graph.datasets()) > 0)
    settled(runner)
    written = len(graph.datasets())
    assert 0 < written < 8
    # What is there is whole: each dataset has its statistics and its distances to those before it.
    extractor = load_clip(str(probe), device="cpu")
    assert len(graph.statistics(extractor.hash)) == written
    assert len(graph.snapshot().similar) == written * (written - 1) / 2
    report = ingest_image_folders(graph, folder, extractor)
    assert len(report.unchanged) == written
    resumed = dump(runner)
    graph.clear()
    ingest_image_folders(graph, folder, extractor)
    assert dump(runner) == resumed


def test_killed_among_runs(
    graph: MatchingGraph,
    runner: Runner,
    tmp_path: Path,
    pipelines: Path,
    probe: Path,
    image_folders: Path,
    start: Start,
    settings,
) -> None:
    from matchgraph.ingest.runs.execution import LoraExecutor
    from matchgraph.training.measure.extractors import load_clip

    extractor = load_clip(str(probe), device="cpu")
    config = RunConfig(
        steps=3, batch_size=2, rank=2, resolution_px=32, samples=3, sampling_steps=2, initial=False, seed=11
    )

    def fill() -> None:
        ingest_models(graph, pipelines)
        ingest_image_folders(graph, image_folders, extractor)

    def finish(home: Path) -> list[str]:
        plan = make_plan(graph, config, {"clip": extractor}, Selection())
        queue_plan(ledger, plan, home)
        executor = LoraExecutor(Execution("cpu"), extractors={extractor.hash: extractor})
        work(graph, ledger, executor, home, Silent(), list(plan.requests))
        assert [run.status for run in ledger.runs()] == [DONE] * 6
        return dump(runner, without=RUN_TIMES)

    def mid_run() -> bool:
        statuses = [run.status for run in ledger.runs()]
        return DONE in statuses and RUNNING in statuses

    ledger = Ledger(runner)
    fill()
    options = {
        "steps": 3,
        "batch-size": 2,
        "rank": 2,
        "resolution": 32,
        "samples": 3,
        "sampling-steps": 2,
        "seed": 11,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = start("ingest", "run", "--probe", probe, "--no-initial", "--device", "cpu", *arguments)
    kill_when(process, mid_run)
    settled(runner)
    done = {run.id: run.properties["fence"] for run in ledger.runs() if run.status == DONE}
    assert 0 < len(done) < 6
    resumed = finish(settings.home)
    # What was done was not done again, and the dead worker's run did not wait for its lease.
    assert all(ledger.run(run).properties["fence"] == fence for run, fence in done.items())
    assert sorted(run.attempt for run in ledger.runs())[-1] == 2
    graph.clear()
    fill()
    assert finish(tmp_path / "other-home") == resumed
