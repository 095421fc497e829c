"""A Ray cluster of two nodes: work on it is stopped, a node is killed; the graph does not show it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import ClusterUnusable, RayMissing, WorkerFailed
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.entries import DONE, QUEUED, RUNNING, TRAINING, Run
from matchgraph.ingest.runs.execution import LoraExecutor
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner
from matchgraph.ingest.runs.plan import make_plan, queue_plan
from matchgraph.ingest.runs.ray_executor import (
    ClusterOptions,
    Share,
    check_reach,
    connected,
    share_of,
    work_on_ray,
)
from matchgraph.ingest.runs.worker import WorkerOptions, work
from matchgraph.ingest.tables.datasets import ingest_image_folders
from matchgraph.ingest.tables.models import ingest_models
from tests.ingest.conftest import Invoke
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import Silent

PATIENCE_S = 600
OPTIONS = WorkerOptions("cpu", heartbeat_s=1.0)
NODE = {
    "num_cpus": 1,
    "num_gpus": 0,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
    "include_log_monitor": False,
}
# Of a node that is killed, the cluster then hears within two seconds.
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each, and a head with none, which cannot be killed alone."""
    # Not pytest's folder, whose long name would not fit the address of a socket.
    folder = tempfile.mkdtemp(prefix="ray-")
    changed = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_TMPDIR": folder}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    # A test cluster notes its address there, and does not make the folder where nobody used Ray before.
    Path(folder, "ray").mkdir()
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "no_monitor": True, "temp_dir": folder, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(wait=False, **NODE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def fill(
    graph: MatchingGraph, runner: Runner, pipelines: Path, image_folders: Path, probe: Path
) -> Callable[[Path, RunConfig], list[str]]:
    """Fill the graph with a model and three datasets, and queue the run of each pair; gives their ids."""
    from matchgraph.training.measure.extractors import load_clip

    extractor = load_clip(str(probe), device="cpu")

    def fill(home: Path, config: RunConfig) -> list[str]:
        graph.clear()
        ingest_models(graph, sorted(pipelines.iterdir())[0])
        ingest_image_folders(graph, image_folders, extractor)
        plan = make_plan(graph, config, {"clip": extractor}, Selection(), weights={"clip": f"clip:{probe}"})
        queue_plan(Ledger(runner), plan, home)
        return list(plan.requests)

    return fill


def config(steps: int, seed: int) -> RunConfig:
    return RunConfig(
        steps=steps,
        batch_size=2,
        rank=2,
        resolution_px=32,
        samples=3,
        sampling_steps=2,
        initial=False,
        seed=seed,
    )


def node_of(cluster: Any, owner: Owner) -> Any:
    """The node that a worker's process belongs to."""
    ancestors = {process.pid for process in psutil.Process(owner.pid).parents()}
    return next(
        node
        for node in cluster.worker_nodes
        if any(info.process.pid in ancestors for infos in node.all_processes.values() for info in infos)
    )


def on_ray(
    settings: Settings,
    runner: Runner,
    ids: Sequence[str],
    cluster: Any,
    watch: Callable[[Sequence[Run]], None] = lambda _: None,
    stop: threading.Event | None = None,
    told: list[str] | None = None,
    **options: Any,
) -> dict[str, str]:
    give_up = time.monotonic() + PATIENCE_S

    def watched(runs: Sequence[Run]) -> None:
        assert time.monotonic() < give_up, [run.status for run in runs]
        watch(runs)

    return work_on_ray(
        settings,
        Ledger(runner),
        ids,
        OPTIONS,
        ClusterOptions(cluster.address, **options),
        watched,
        stop or threading.Event(),
        told.append if told is not None else lambda _: None,
    )


@pytest.mark.slow
def test_stopped_work_is_given_back(
    settings: Settings, runner: Runner, cluster: Any, fill: Callable[[Path, RunConfig], list[str]]
) -> None:
    ids = fill(settings.home, config(steps=1_000_000, seed=5))
    stop = threading.Event()

    def stop_in_training(runs: Sequence[Run]) -> None:
        # Not before its first step, of which there is no checkpoint.
        if any(run.progress and run.progress.stage == TRAINING and run.progress.step for run in runs):
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        on_ray(settings, runner, ids, cluster, stop_in_training, stop, workers=1)
    runs = Ledger(runner).runs()
    assert [run.status for run in runs] == [QUEUED] * 3
    # It was given back and not lost: that costs no attempt, and a checkpoint says how far it came.
    (begun,) = [run for run in runs if run.fence]
    assert (begun.fence, begun.attempt) == (1, 0)
    assert list((settings.home / "runs" / begun.id).rglob("checkpoint.safetensors"))


@pytest.mark.slow
def test_a_node_killed_in_mid_run_changes_nothing(
    settings: Settings,
    runner: Runner,
    graph: MatchingGraph,
    cluster: Any,
    fill: Callable[[Path, RunConfig], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = config(steps=15, seed=6)
    ids = fill(tmp_path, asked)
    work(graph, Ledger(runner), LoraExecutor(Execution("cpu")), tmp_path, Silent(), ids)
    clean = dump(runner, without=RUN_TIMES)

    assert fill(settings.home, asked) == ids
    killed: list[str] = []

    def watch(runs: Sequence[Run]) -> None:
        for run in runs:
            if not killed and run.status == RUNNING and run.owner is not None:
                killed.append(run.id)
                node = node_of(cluster, run.owner)
                # As when a machine loses its power: all that ran on it is gone at once.
                psutil.Process(run.owner.pid).kill()
                cluster.remove_node(node, allow_graceful=False)

    told: list[str] = []
    capsys.readouterr()
    assert on_ray(settings, runner, ids, cluster, watch, told=told) == {}
    assert capsys.readouterr().out == ""
    assert len(told) == 1
    assert told[0].startswith("A worker was lost")
    assert len(killed) == len(cluster.worker_nodes) == 1
    runs = Ledger(runner).runs(ids)
    assert [run.status for run in runs] == [DONE] * 3
    assert {run.id: run.fence for run in runs} == {run: 2 if run in killed else 1 for run in ids}
    assert dump(runner, without=RUN_TIMES) == clean


@pytest.mark.slow
def test_workers_that_cannot_start_are_not_started_for_ever(
    settings: Settings,
    runner: Runner,
    cluster: Any,
    fill: Callable[[Path, RunConfig], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = fill(settings.home, config(steps=1, seed=7))
    # The workers find themselves on another machine than the one that the managed server answers to.
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    monkeypatch.setattr(
        "matchgraph.ingest.runs.ray_executor.living_nodes",
        lambda _: [{"NodeManagerHostname": "elsewhere", "NodeID": "1", "Resources": {"CPU": 1.0}}],
    )
    with pytest.raises(
        WorkerFailed, match=r"lost before they start a run.*cannot reach the Neo4j of elsewhere"
    ):
        on_ray(settings, runner, ids, cluster)
    assert [run.status for run in Ledger(runner).runs(ids)] == [QUEUED] * 3


def test_a_graph_that_other_machines_cannot_reach_is_no_graph_for_them(tmp_path: Path) -> None:
    managed = Settings(tmp_path)
    check_reach(managed, "a", "a")
    for settings in (managed, Settings(tmp_path, uri="bolt://localhost:7687", password="x")):
        with pytest.raises(ClusterUnusable, match="node b cannot reach the Neo4j of a"):
            check_reach(settings, "a", "b")
    check_reach(Settings(tmp_path, uri="bolt://graph.example:7687", password="x"), "a", "b")


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 6.0}], {}, "auto", Share(4.0, 0.0, 3, 3)),
        ([{"CPU": 2.0}, {"CPU": 1.0}], {}, "auto", Share(2.0, 0.0, 1, 1)),
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 8.0}], {}, "auto", Share(1.0, 1.0, 8, 8)),
        ([{"CPU": 64.0, "GPU": 8.0}], {"gpus": 0.5, "workers": 3}, "auto", Share(1.0, 0.5, 3, 16)),
        ([{"CPU": 4.0, "GPU": 8.0}], {"cpus": 2.0}, "cuda", Share(2.0, 1.0, 2, 2)),
        ([{"CPU": 8.0, "GPU": 1.0}], {}, "cpu", Share(4.0, 0.0, 2, 2)),
        ([{"CPU": 8.0}], {}, "cuda", Share(1.0, 1.0, 1, 0)),
    ],
)
def test_each_worker_gets_its_share(
    nodes: list[dict[str, float]], asked: dict[str, float], device: str, expected: Share
) -> None:
    assert share_of([{"Resources": node} for node in nodes], ClusterOptions(**asked), device) == expected


def test_no_ray_and_no_cluster_are_said_in_one_line(
    settings: Settings, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nowhere:
        address = "nowhere"

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterUnusable, match="No Ray cluster can be used at 'nowhere'") as caught:
        on_ray(settings, runner, [], Nowhere)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayMissing, match=r"pip install 'matchgraph\[ray\]'"):
        on_ray(settings, runner, [], Nowhere)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_at_which_nothing_listens_is_told_without_ray(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(**_: Any) -> None:
        raise AssertionError("Ray was left to find out")

    monkeypatch.setattr("ray.init", never)
    with socket.socket() as silent:
        # Bound and not listening: the port is nobody else's, and takes no connection.
        silent.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterUnusable, match=r"refused\. Start one with `ray start"), connected(address):
            pass


@pytest.mark.parametrize("options", [["--gpus", 1], ["--cpus", 1], ["--address", "host:1"]])
def test_options_of_a_cluster_are_refused_without_one(
    invoke: Invoke, probe: Path, options: list[object]
) -> None:
    result = invoke("run", "--probe", probe, *options)
    assert result.exit_code == 2
    assert "--address, --gpus and --cpus are for --executor ray" in result.stderr


@pytest.mark.slow
def test_a_numbered_gpu_is_rays_to_choose(settings: Settings, runner: Runner) -> None:
    options = WorkerOptions("cuda:1")
    with pytest.raises(ClusterUnusable, match="--device cuda:1"):
        work_on_ray(
            settings, Ledger(runner), [], options, ClusterOptions(), lambda _: None, threading.Event()
        )
