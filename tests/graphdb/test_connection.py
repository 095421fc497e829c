"""Settings from the environment, and what a connection checks."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from matchgraph.graphdb.connection import Settings, connect, settings_from_environment
from matchgraph.graphdb.errors import AuthenticationFailed, ServerUnreachable, SettingsInvalid
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer

VARIABLES = ("MATCHGRAPH_HOME", "MATCHGRAPH_NEO4J_URI", "MATCHGRAPH_NEO4J_USER", "MATCHGRAPH_NEO4J_PASSWORD")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_variables_the_server_is_managed():
    settings = settings_from_environment()
    assert settings.managed
    assert settings.home.name == "matchgraph"
    assert settings.user == "neo4j"


def test_all_variables_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in zip(VARIABLES, (str(tmp_path), "bolt://db:7687", "ann", "secret"), strict=True):
        monkeypatch.setenv(name, value)
    assert settings_from_environment() == Settings(tmp_path, "bolt://db:7687", "ann", "secret")


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert settings_from_environment().managed


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"uri": "bolt://db:7687"}, "MATCHGRAPH_NEO4J_PASSWORD is not"),
        ({"password": "x"}, "MATCHGRAPH_NEO4J_URI is not"),
        ({"user": "ann"}, "MATCHGRAPH_NEO4J_URI is not"),
    ],
)
def test_half_an_address_is_refused(settings: dict[str, str], missing: str, tmp_path: Path):
    with pytest.raises(SettingsInvalid, match=missing):
        Settings(home=tmp_path, **settings)


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MATCHGRAPH_HOME", "~nobody-of-this-name/graph")
    with pytest.raises(SettingsInvalid, match="MATCHGRAPH_HOME"):
        settings_from_environment()


def test_an_unreachable_server_is_one_line(tmp_path: Path):
    with socket.socket() as silent:
        # Bound and not listening: the port is nobody else's, and takes no connection.
        silent.bind(("127.0.0.1", 0))
        uri = f"bolt://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerUnreachable, match=uri) as caught:
            connect(Settings(tmp_path, uri=uri, password="password"))
    assert "\n" not in str(caught.value)


def test_a_wrong_password_is_one_line(runner: Runner, tmp_path: Path):
    with pytest.raises(AuthenticationFailed, match="MATCHGRAPH_NEO4J_PASSWORD") as caught:
        connect(Settings(tmp_path, uri=runner.uri, password="wrong-password"))
    assert "\n" not in str(caught.value)
    assert "wrong-password" not in str(caught.value)


def test_any_neo4j_is_reached_by_address(settings: Settings, runner: Runner, tmp_path: Path):
    password = ManagedServer(settings.home).password_file.read_text().strip()
    with connect(Settings(tmp_path, uri=runner.uri, password=password)) as other:
        assert other.gds_version() == runner.gds_version()
    assert not (tmp_path / "neo4j").exists()


def test_connecting_applies_the_schema(runner: Runner):
    constraints = {(c["labelsOrTypes"][0], c["properties"][0]) for c in runner.read("SHOW CONSTRAINTS")}
    assert {("MatchGraphModel", "id"), ("MatchGraphDataset", "id")} <= constraints
