"""The managed database as a file and back, on a server that may be stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli.graph import graph as graph_command
from matchgraph.graphdb.connection import HOME_VARIABLE, PASSWORD_VARIABLE, URI_VARIABLE, Settings, connect
from matchgraph.graphdb.errors import BackupFailed, ServerDidNotStart, ServerNotManaged
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.server.backup import backup, restore
from matchgraph.graphdb.server.managed import ManagedServer
from tests.ingest.dump import dump


@pytest.mark.slow
def test_a_database_comes_back_as_it_was(
    own_server: ManagedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    home, file = own_server.folder.parent, tmp_path / "zoo.dump"
    with connect(Settings(home=home)) as runner:
        MatchingGraph(runner).save_models([Model("first")])
        before = dump(runner)
    own_server.stop()
    environment = {HOME_VARIABLE: str(home)}
    done = CliRunner().invoke(graph_command, ["backup", str(file)], env=environment)
    assert done.exit_code == 0, done.output
    assert not own_server.running(), "it was stopped before"
    with pytest.raises(BackupFailed, match="already exists"):
        backup(own_server, file)
    half = tmp_path / "half.dump"
    half.write_bytes(file.read_bytes()[:-200])
    files = content(own_server.data)
    with pytest.raises(BackupFailed, match="could not load"):
        restore(own_server, half)
    assert content(own_server.data) == files, "a bad file changes nothing"
    declined = CliRunner().invoke(graph_command, ["restore", str(file)], env=environment)
    assert declined.exit_code == 2
    shutil.rmtree(own_server.data)
    done = CliRunner().invoke(graph_command, ["restore", str(file), "--yes"], env=environment)
    assert done.exit_code == 0, done.output
    with connect(Settings(home=home)) as runner:
        assert dump(runner) == before
        MatchingGraph(runner).clear()
    assert not [
        entry.name for entry in own_server.folder.iterdir() if entry.name in ("restore", "data.former")
    ]


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_database_that_does_not_start_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, other = ManagedServer(tmp_path), tmp_path / "other"
    for folder in (server.data, other):
        folder.mkdir(parents=True)
        (folder / "name").write_text(folder.name)

    def fail(self: ManagedServer, _: None) -> None:
        assert (self.data / "name").read_text() == "other"
        raise ServerDidNotStart

    monkeypatch.setattr(ManagedServer, "_running_or_started", fail)
    with pytest.raises(ServerDidNotStart), server.stopped():
        server.exchange_data(other)
    assert (server.data / "name").read_text() == "data"
    assert not server.former_data.exists()


def test_nothing_to_back_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackupFailed, match="no database"):
        backup(ManagedServer(tmp_path), tmp_path / "file")
    monkeypatch.setenv(URI_VARIABLE, "bolt://127.0.0.1:1")
    monkeypatch.setenv(PASSWORD_VARIABLE, "theirs")
    found = CliRunner().invoke(graph_command, ["backup", str(tmp_path / "file")])
    assert isinstance(found.exception, ServerNotManaged)
