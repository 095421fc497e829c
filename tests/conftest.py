"""A real Neo4j with GDS for each test process; each database test starts on an empty graph."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from matchgraph.graphdb import queries
from matchgraph.graphdb.connection import (
    DATABASE_VARIABLE,
    HOME_VARIABLE,
    PASSWORD_VARIABLE,
    URI_VARIABLE,
    USER_VARIABLE,
    Settings,
    connect,
)
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

KEPT_HOME_VARIABLE = "MATCHGRAPH_TEST_HOME"
"""Folder of servers that stay alive between runs; without it, the run's own are stopped at its end."""

# How long an example takes, or its making, says something about the machine, and nothing about the code.
# A contributor's run looks for new examples; that of a submission does not depend on which it finds.
hypothesis.settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("untimed")

# Java's optimising compiler takes a fifth of a start's time, and no test runs long enough to gain from it.
# Verifying the classes of a released Neo4j takes a sixth of the rest.
os.environ.setdefault(
    "JDK_JAVA_OPTIONS",
    "-XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server or a pipeline, by its fixtures, so that `-m` can leave it out, and let the
    long tests in a browser begin: at the end all processes but one would wait for them.
    """
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"settings", "own_server"}:
            item.add_marker("server")
        # It starts servers of its own, for half a minute each.
        if "own_server" in fixtures:
            item.add_marker("slow")
        if fixtures & {"tiny_folder", "pipelines"} or hasattr(getattr(item, "module", None), "tiny"):
            item.add_marker("pipeline")


def pytest_collection_finish() -> None:
    pass_over_what_is_loaded()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        pass_over_what_is_loaded()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pass_over_what_is_loaded() -> None:
    """Let garbage collections pass over all there is, mostly libraries: they took a third of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Settings]:
    """Settings of this process's managed server, which starts on first use."""
    kept = os.environ.get(KEPT_HOME_VARIABLE)
    own = worker_id if worker_id != "master" else ""
    home = Path(kept, own) if kept else tmp_path_factory.mktemp("home")
    yield Settings(home=home)
    if not kept:
        ManagedServer(home).stop()


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedServer]:
    """A server that a test may stop and kill, and leaves running; two processes start it at the same moment.
    Its home has all that could trouble neo4j.conf, a class path or Java's idea of the encoding.
    """
    home = tmp_path_factory.mktemp("own") / "josé Админ #1 'q' 100% a\\b $HOME ${x} [y]:z,w;=!" / "data"
    processes = [starting(home), starting(home)]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len({pid for pid, _ in answers}) == 1, answers
    yield ManagedServer(home)
    ManagedServer(home).stop()


# A test run in a shell's background ignores SIGINT, and its children would too.
START = """
import signal, sys
from pathlib import Path
from matchgraph.graphdb.server.managed import ManagedServer
signal.signal(signal.SIGINT, signal.default_int_handler)
server = ManagedServer(Path(sys.argv[1]))
server.runner().close()
print(server.running().pid)
"""


def starting(home: Path) -> subprocess.Popen[str]:
    """Another process that starts the server of `home` and prints the server's pid."""
    return subprocess.Popen(
        [sys.executable, "-c", START, str(home)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def runner(settings: Settings) -> Iterator[Runner]:
    """A runner on the run's server, with the schema applied."""
    with connect(settings) as connected:
        # Of a run that was killed, where the server is kept.
        drop_projections(connected)
        yield connected


@pytest.fixture
def graph(settings: Settings, runner: Runner) -> Iterator[MatchingGraph]:
    """The matching graph, empty, and no router, calibration or run of an earlier test in the data folder.
    A GDS projection that a test leaves behind fails it.
    """
    from matchgraph.collaboration.pairs import FOLDER as CALIBRATIONS_FOLDER
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.ingest.runs.artefacts import RUNS_FOLDER
    from matchgraph.routing.store import FOLDER as ROUTERS_FOLDER

    for name in (CALIBRATIONS_FOLDER, ROUTERS_FOLDER, RUNS_FOLDER):
        shutil.rmtree(settings.home / name, ignore_errors=True)
    # In one transaction, with what a test wrote as another application would.
    everything = "MATCH (n) WHERE NOT n:MatchGraph DETACH DELETE n"
    runner.write_many([(everything, {}), (queries.load("write/clear-metrics"), {})])
    yield MatchingGraph(runner)
    left_behind = drop_projections(runner)
    assert not left_behind, f"GDS projections left behind: {left_behind}"


@pytest.fixture
def environment(
    settings: Settings,
    graph: MatchingGraph,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Mapping[str, str]:
    """Variables for a command run in process (`CliRunner(env=...)`) on the run's server, with an empty
    graph.
    """
    for name in (URI_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE, DATABASE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return {HOME_VARIABLE: str(settings.home)}


def drop_projections(runner: Runner) -> list[str]:
    """Drop all GDS projections.

    Returns:
        Their names.
    """
    names = [row["graphName"] for row in runner.read("CALL gds.graph.list() YIELD graphName")]
    for name in names:
        runner.read("CALL gds.graph.drop($name) YIELD graphName", name=name)
    return names
