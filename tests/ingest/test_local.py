"""Worker processes on this machine: they share the runs, survive each other's death, and end when told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import WorkerFailed
from matchgraph.ingest.runs import local, worker_process
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.entries import AFTER, QUEUED, RUNNING, TRAINING, Run
from matchgraph.ingest.runs.execution import LoraExecutor
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.plan import Plan, make_plan, queue_plan
from matchgraph.ingest.runs.worker import WorkerOptions, work
from matchgraph.ingest.runs.worker_process import ordered_options
from matchgraph.ingest.tables.datasets import ingest_image_folders
from matchgraph.ingest.tables.models import ingest_models
from tests.ingest.conftest import ROOT
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import Silent, fill, plan

PATIENCE_S = 180
CONFIG = RunConfig(
    steps=15, batch_size=2, rank=2, resolution_px=32, samples=2, sampling_steps=1, initial=False, seed=3
)


def test_gpus_are_shared_out_and_cores_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(local.THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(local, "_cores", lambda: 16)
    assert local.places(3, ["0", "GPU-a"]) == [
        {local.GPU_VARIABLE: "0", local.THREADS_VARIABLE: "5"},
        {local.GPU_VARIABLE: "GPU-a", local.THREADS_VARIABLE: "5"},
        {local.GPU_VARIABLE: "0", local.THREADS_VARIABLE: "5"},
    ]
    assert local.places(20, [])[0] == {local.THREADS_VARIABLE: "1"}
    monkeypatch.setenv(local.THREADS_VARIABLE, "2")
    assert local.places(2, []) == [{}, {}]
    assert local.worker_count(None, []) == 4
    assert local.worker_count(None, ["0", "1"]) == 2
    assert local.worker_count(7, ["0"]) == 7


def test_a_child_works_with_the_options_of_its_parent() -> None:
    options = WorkerOptions(gpu_memory=24.0, validate_steps=500, track=("tensorboard",))
    line = json.dumps(local.order(Settings(home=ROOT), [], [], options, {}))
    assert ordered_options(json.loads(line)) == options


def test_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(local.GPU_VARIABLE, raising=False)
    assert local.visible_gpus("auto") == ["0", "1", "2"]
    assert local.visible_gpus("cuda:1") == ["1"]
    assert local.visible_gpus("cpu") == []
    monkeypatch.setenv(local.GPU_VARIABLE, "5,GPU-b,7")
    assert local.visible_gpus("cuda") == ["5", "GPU-b", "7"]
    assert local.visible_gpus("cuda:2") == ["7"]


def test_a_child_knows_its_gpu_by_the_number_that_it_sees(tmp_path: Path) -> None:
    def device(share: Mapping[str, str], asked: str) -> str:
        options = WorkerOptions(device=asked)
        return local.order(Settings(home=tmp_path), [], [], options, share)["options"]["device"]

    one = {local.GPU_VARIABLE: "1"}
    assert [device(one, asked) for asked in ("cuda:1", "cuda", "auto")] == ["cuda", "cuda", "auto"]
    assert device({}, "cpu") == "cpu"


@pytest.fixture
def planned(graph: MatchingGraph, pipelines: Path, probe: Path, image_folders: Path) -> Plan:
    """Two runs of one tiny model."""
    from matchgraph.training.measure.extractors import load_clip

    extractor = load_clip(str(probe), device="cpu")
    ingest_models(graph, sorted(pipelines.iterdir())[-1])
    shutil.rmtree(image_folders / "trees")
    ingest_image_folders(graph, image_folders, extractor)
    return make_plan(graph, CONFIG, {"clip": extractor}, Selection(), weights={"clip": f"clip:{probe}"})


def training(run: Run) -> bool:
    """Whether it has begun to; that a stage which is soon over is looked at in time is not certain."""
    return run.status == RUNNING and run.progress is not None and run.progress.stage in (TRAINING, AFTER)


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        # Of other tests there may be some that have ended, or end now.
        with suppress(psutil.NoSuchProcess):
            if "matchgraph.ingest.runs.worker_process" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow
def test_stopped_and_with_a_child_killed_it_ends_as_if_nothing_had_been(
    planned: Plan,
    graph: MatchingGraph,
    runner: Runner,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "POLL_S", 0.05)
    ledger, ids = Ledger(runner), list(planned.requests)
    queue_plan(ledger, planned, settings.home)
    options = WorkerOptions(device="cpu", checkpoint_steps=5)
    one_thread = {local.THREADS_VARIABLE: "1"}

    stop = threading.Event()
    killed: dict[str, int] = {}

    def disturb(runs: Sequence[Run]) -> None:
        """Kill the first child, which is replaced, and stop the second, as Ctrl-C does."""
        for run in runs:
            if run.status != RUNNING or run.owner is None:
                continue
            if not killed and training(run):
                os.kill(run.owner.pid, signal.SIGKILL)
                killed[run.id] = run.owner.pid
            elif killed and run.owner.pid not in killed.values():
                # Anywhere in its run: a look in a stage that is soon over may come too late.
                stop.set()

    with pytest.raises(KeyboardInterrupt):
        local.work_locally(settings, ledger, ids, options, [one_thread], disturb, stop)
    assert not children()
    # Neither to be killed nor to be stopped costs an attempt.
    assert sorted((run.status, run.attempt) for run in ledger.runs()) == [(QUEUED, 0), (QUEUED, 0)]
    assert work(graph, ledger, LoraExecutor(Execution("cpu")), settings.home, Silent(), ids).done == 2
    assert {ledger.run(run).attempt for run in killed} == {1}
    disturbed = dump(runner, without=RUN_TIMES)

    runner.write("MATCH (r:Run) DETACH DELETE r")
    runner.write("MATCH ()-[e:PERFORMS]->() DELETE e")
    queue_plan(ledger, planned, settings.home)
    assert work(graph, ledger, LoraExecutor(Execution("cpu")), settings.home, Silent(), ids).done == 2
    assert dump(runner, without=RUN_TIMES) == disturbed


def test_a_child_ends_with_its_parent(settings: Settings, environment: Mapping[str, str]) -> None:
    """While it waits for runs; what it does with a run that it has begun is in the test above."""
    order = local.order(settings, [], [], WorkerOptions(device="cpu", poll_s=10 * PATIENCE_S), {})
    child = subprocess.Popen(
        [sys.executable, "-m", "matchgraph.ingest.runs.worker_process"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # As when the parent is killed: the pipe between them is closed.
        _, errors = child.communicate(json.dumps(order) + "\n", timeout=PATIENCE_S)
    finally:
        child.kill()
    assert child.returncode == 130, errors


def test_what_an_interrupt_breaks_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that is interrupted after the time of grace may raise anything."""
    order = local.order(Settings(home=tmp_path), [], [], WorkerOptions(device="cpu"), {})
    asked_to_end = False

    def failing(*_: object, stop: threading.Event, **__: object) -> None:
        if asked_to_end:
            signal.raise_signal(signal.SIGTERM)
        assert stop.is_set() == asked_to_end
        raise ImportError("numpy")

    monkeypatch.setattr(worker_process, "_follow_parent", lambda: None)
    monkeypatch.setattr(worker_process, "work_queue", failing)
    with pytest.raises(ImportError):
        worker_process.carry_out_order(order)
    asked_to_end = True
    assert worker_process.carry_out_order(order) == worker_process.INTERRUPTED


@pytest.mark.slow
def test_children_that_die_at_once_end_the_work(
    graph: MatchingGraph, runner: Runner, image_folders: Path, tmp_path: Path
) -> None:
    fill(graph, image_folders)
    ledger = Ledger(runner)
    planned = plan(graph)
    queue_plan(ledger, planned, tmp_path)
    shares = [{"PYTHONHOME": str(tmp_path / "nowhere")}]
    seen: list[int] = []
    with pytest.raises(WorkerFailed, match=r"worker-1\.log"):
        local.work_locally(
            Settings(home=tmp_path),
            ledger,
            list(planned.requests),
            WorkerOptions(device="cpu"),
            shares,
            lambda runs: seen.append(len(runs)),
            threading.Event(),
        )
    assert set(seen) == {4}
    assert {run.status for run in ledger.runs()} == {QUEUED}


def test_nothing_queued_starts_nobody(graph: MatchingGraph, runner: Runner, tmp_path: Path) -> None:  # noqa: ARG001
    nobody = [{"PYTHONHOME": str(tmp_path / "nowhere")}]
    found = local.work_locally(
        Settings(home=tmp_path),
        Ledger(runner),
        [],
        WorkerOptions(),
        nobody,
        lambda _: None,
        threading.Event(),
    )
    assert found == {}
