"""The `graph` commands, in process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from matchgraph.cli.graph import graph as graph_command
from matchgraph.graphdb.connection import (
    HOME_VARIABLE,
    PASSWORD_VARIABLE,
    URI_VARIABLE,
    USER_VARIABLE,
    Settings,
)
from matchgraph.graphdb.errors import ServerNotManaged
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.graphdb.server.releases import chosen_release
from matchgraph.routing.store import Fitted, RouterStore


def invoke(arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
    return CliRunner().invoke(graph_command, arguments, env=dict(environment))


def output(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    result = invoke([*arguments, "--json"], environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """A data folder in which nothing has been started."""
    for name in (URI_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return {HOME_VARIABLE: str(tmp_path / "home")}


@pytest.fixture
def own_server(environment: Mapping[str, str], settings: Settings, runner: Runner) -> Mapping[str, str]:
    """The run's server, named as if it were a Neo4j of the user's own."""
    password = ManagedServer(settings.home).password_file.read_text().strip()
    return {**environment, URI_VARIABLE: runner.uri, PASSWORD_VARIABLE: password}


def test_status_and_stop_start_nothing(elsewhere: Mapping[str, str]):
    result = invoke(["status"], elsewhere)
    assert result.exit_code == 0
    assert result.stdout.startswith("Not running.")
    assert output(["status"], elsewhere)["running"] is False
    assert invoke(["stop"], elsewhere).stdout == "Not running.\n"
    assert not Path(elsewhere[HOME_VARIABLE]).exists()


def test_status_tells_versions_addresses_and_counts(
    environment: Mapping[str, str], settings: Settings, runner: Runner
):
    runner.write(
        "MERGE (m:MatchGraphModel {id: 'm'}) MERGE (d:MatchGraphDataset {id: 'd'}) MERGE (m)-[:PERFORMS]->(d)"
    )
    state = ManagedServer(settings.home).running()
    assert state is not None
    release = chosen_release()
    assert output(["status"], environment) == {
        "running": True,
        "managed": True,
        "home": str(settings.home),
        "password_file": str(settings.home / "neo4j" / "password"),
        "user": "neo4j",
        "pid": state.pid,
        "uri": runner.uri,
        "browser": state.browser,
        "neo4j": release.neo4j[0].rpartition(":")[2],
        "gds": release.gds[0].rpartition(":")[2],
        "nodes": {"Dataset": 1, "Model": 1},
        "relationships": {"PERFORMS": 1},
    }
    text = invoke(["status"], environment).stdout
    neo4j, gds = (coordinates[0].rpartition(":")[2] for coordinates in (release.neo4j, release.gds))
    for part in (
        f"{neo4j}, GDS {gds}",
        runner.uri,
        state.browser,
        "1 Dataset, 1 Model, 1 PERFORMS",
        str(state.pid),
    ):
        assert part in text


def test_start_finds_the_running_server(environment: Mapping[str, str], settings: Settings):
    state = ManagedServer(settings.home).running()
    assert state is not None
    assert output(["start"], environment)["pid"] == state.pid


def test_open_prints_the_way_in_but_not_the_password(environment: Mapping[str, str], settings: Settings):
    server = ManagedServer(settings.home)
    state = server.running()
    assert state is not None
    text = invoke(["open", "--no-launch"], environment).stdout
    assert text.startswith(f"{state.browser}?dbms=bolt%3A%2F%2Fneo4j%40")
    assert str(server.password_file) in text
    assert server.password_file.read_text().strip() not in text
    assert output(["open", "--no-launch"], environment)["launched"] is False


def test_open_launches_a_browser_where_there_is_one(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)) or True)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    assert output(["open"], environment)["launched"] is True
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert output(["open"], environment)["launched"] is False
    assert len(opened) == 1


def test_a_neo4j_of_ones_own_is_not_stopped(own_server: Mapping[str, str], runner: Runner):
    result = invoke(["stop"], own_server)
    assert isinstance(result.exception, ServerNotManaged)
    assert output(["status"], own_server)["managed"] is False
    runner.verify()


def test_reset_asks_first_and_empties_the_graph(
    own_server: Mapping[str, str], graph: MatchingGraph, runner: Runner
):
    runner.write("MERGE (:MatchGraphModel {id: 'm'})")
    assert invoke(["reset"], own_server).exit_code == 2
    assert output(["status"], own_server)["nodes"] == {"Model": 1}
    output(["reset", "--yes"], own_server)
    assert output(["status"], own_server)["nodes"] == {}
    assert graph.models() == []


def test_reset_does_nothing_where_the_answer_is_no(
    own_server: Mapping[str, str], graph: MatchingGraph, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    runner.write("MERGE (:MatchGraphModel {id: 'm'})")
    monkeypatch.setattr("matchgraph.cli.graph.at_terminal", lambda: True)
    result = CliRunner().invoke(graph_command, ["reset"], input="n\n", env=dict(own_server))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Nothing was deleted" in result.stderr
    assert [model.id for model in graph.models()] == ["m"]


def test_reset_deletes_the_managed_database_and_routers_but_no_other_file(elsewhere: Mapping[str, str]):
    home = Path(elsewhere[HOME_VARIABLE])
    server = ManagedServer(home)
    (server.data / "databases").mkdir(parents=True)
    (home / "adapters").mkdir()
    server.password_file.write_text("x")
    # What prompts would be answered from after other scores of the same candidates have come in.
    routers = RouterStore(home)
    routers.save(Fitted("taste", "knn", "probe", ("a", "b"), (0.1, 0.2), 0.5))
    assert routers.metrics() == ["taste"]
    assert output(["reset", "--yes"], elsewhere)["routers"] == ["taste"]
    assert routers.metrics() == []
    assert not server.data.exists()
    assert not server.password_file.exists()
    assert (home / "adapters").exists()
