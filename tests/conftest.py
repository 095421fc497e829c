"""One real Neo4j with GDS for the whole test run; each database test starts on an empty graph."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from matchgraph.graphdb.connection import (
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
"""Data folder of a server that stays alive between runs; without it, the run's own is stopped at the end."""


# In a test file's text: a fixture of the server as a parameter, or used by name.
ON_SERVER = re.compile(
    r'(?<!as )\b(graph|runner|environment|settings)\b *[:,)]|usefixtures\("(graph|environment)"\)'
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let pytest-xdist give all files with tests of the server to one process, as there is one server, and
    each other file to whichever is free.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return server_or_file(nodeid.partition("::")[0])

    @functools.cache
    def server_or_file(file: str) -> str:
        text = (config.rootpath / file).read_text(encoding="utf-8")
        return "server" if ON_SERVER.search(text) else file

    return OneServer(config, log)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of the run's managed server, which starts on first use."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        try:
            (tmp_path_factory.getbasetemp().parent / "server").open("x").close()
        except FileExistsError:
            pytest.fail("Another process has the server: ON_SERVER does not see that this file uses it, too.")
    kept = os.environ.get(KEPT_HOME_VARIABLE)
    home = Path(kept) if kept else tmp_path_factory.mktemp("home")
    yield Settings(home=home)
    if not kept:
        ManagedServer(home).stop()


@pytest.fixture(scope="session")
def runner(settings: Settings) -> Iterator[Runner]:
    """A runner on the run's server, with the schema applied."""
    with connect(settings) as connected:
        yield connected


@pytest.fixture
def graph(runner: Runner) -> Iterator[MatchingGraph]:
    """The matching graph, empty. A GDS projection that a test leaves behind fails it."""
    from matchgraph.graphdb.repository import MatchingGraph

    drop_projections(runner)
    matching_graph = MatchingGraph(runner)
    matching_graph.clear()
    yield matching_graph
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
    for name in (URI_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE):
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
