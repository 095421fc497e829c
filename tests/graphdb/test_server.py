"""The managed server's life: shared starts, crashes, interrupts and lost files, with real processes.

Starting takes long, so the tests of one server follow each other on it and start it again only where they
must.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from matchgraph.graphdb.errors import AuthenticationFailed, ServerDidNotStart, SettingsInvalid
from matchgraph.graphdb.server.artifacts import VERSION_VARIABLE, release_named
from matchgraph.graphdb.server.managed import HEAP_VARIABLE, USER, ManagedServer, ServerState

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
PATIENCE_S = 300


def starting(home: Path) -> subprocess.Popen[str]:
    """Another process that starts the server of `home` and prints the server's pid."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", START, str(home)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedServer]:
    """A server of this file's own, first started by two processes at the same moment."""
    home = tmp_path_factory.mktemp("server")
    managed = ManagedServer(home)
    processes = [starting(home), starting(home)]
    answers = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len({pid for pid, _ in answers}) == 1, answers
    yield managed
    managed.stop()


def state_of(server: ManagedServer) -> ServerState:
    state = server.running()
    assert state is not None
    return state


def test_two_processes_that_start_at_once_share_one_server(server: ManagedServer):
    ours = [
        p
        for p in psutil.process_iter(["cmdline"])
        if f"--home-dir={server.folder}" in (p.info["cmdline"] or [])
    ]
    assert [process.pid for process in ours] == [state_of(server).pid]


def test_listens_on_loopback_only(server: ManagedServer):
    state = state_of(server)
    sockets = psutil.Process(state.pid).net_connections(kind="inet")
    listening = [(s.laddr.ip.removeprefix("::ffff:"), s.laddr.port) for s in sockets if s.status == "LISTEN"]
    assert sorted(listening) == sorted([("127.0.0.1", state.bolt_port), ("127.0.0.1", state.http_port)])


def test_only_the_owner_can_read_the_password(server: ManagedServer):
    assert server.password_file.stat().st_mode & 0o777 == 0o600
    password = server.password_file.read_text().strip()
    assert len(password) >= 24
    assert password not in " ".join(psutil.Process(state_of(server).pid).cmdline())
    assert password not in server.configuration.read_text()


def test_outlives_the_command_that_started_it(server: ManagedServer):
    state = state_of(server)
    assert os.getsid(state.pid) == state.pid
    with server.runner() as runner:
        runner.verify()
    assert state_of(server) == state


def test_a_lost_state_file_does_not_lose_the_server(server: ManagedServer):
    state = state_of(server)
    server.state_file.unlink()
    assert server.running() is None
    server.runner().close()
    found = state_of(server)
    assert (found.pid, found.uri, found.browser) == (state.pid, state.uri, state.browser)


def test_a_wrong_password_file_is_told_and_leaves_the_server_alone(server: ManagedServer):
    state, password = state_of(server), server.password_file.read_text()
    server.password_file.write_text("not-the-password")
    with pytest.raises(AuthenticationFailed, match="delete that file") as caught:
        server.runner()
    assert str(server.password_file) in str(caught.value)
    server.password_file.write_text(password)
    server.runner().close()
    assert state_of(server) == state


def test_a_killed_server_is_repaired_and_keeps_data_and_addresses(server: ManagedServer):
    with server.runner() as runner:
        runner.write("MERGE (:Probe {id: 'before the kill'})")
    killed = state_of(server)
    process = psutil.Process(killed.pid)
    process.kill()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert server.running() is None
    with server.runner() as runner:
        assert runner.read("MATCH (p:Probe) RETURN p.id AS id") == [{"id": "before the kill"}]
    repaired = state_of(server)
    assert repaired.pid != killed.pid
    assert (repaired.uri, repaired.browser) == (killed.uri, killed.browser)


def test_interrupt_lost_password_and_taken_port_at_a_start(server: ManagedServer):
    """One start for three troubles: each is seen by itself in the asserts."""
    before = state_of(server)
    with server.runner() as runner:
        runner.write("MERGE (:Kept)")
    assert server.stop()
    assert not server.stop()
    assert not psutil.pid_exists(before.pid) or psutil.Process(before.pid).status() == psutil.STATUS_ZOMBIE

    command = starting(server.folder.parent)
    wait_for(lambda: server.running() is not None)
    half_started = state_of(server).pid
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=PATIENCE_S)
    assert command.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert not psutil.pid_exists(half_started)

    lost = server.password_file.read_text()
    server.password_file.unlink()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", before.bolt_port))
        other.listen()
        with server.runner() as runner:
            assert runner.read("MATCH (k:Kept) RETURN count(k) AS kept") == [{"kept": 1}]
    after = state_of(server)
    assert after.bolt_port != before.bolt_port
    assert after.http_port == before.http_port
    assert server.password_file.read_text() != lost
    assert server.password_file.stat().st_mode & 0o777 == 0o600


def test_a_foreign_process_with_the_recorded_pid_is_neither_adopted_nor_stopped(tmp_path: Path):
    managed = ManagedServer(tmp_path)
    managed.folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as foreign:
        try:
            created = psutil.Process(foreign.pid).create_time()
            managed.state_file.write_text(json.dumps(asdict(ServerState(foreign.pid, created, 7687, 7474))))
            assert managed.running() is None
            assert managed.stop() is False
            assert foreign.poll() is None
        finally:
            foreign.kill()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "created": 0, "bolt_port": 1, "http_port": 2}']
)
def test_a_broken_state_file_counts_as_none(text: str, tmp_path: Path):
    managed = ManagedServer(tmp_path)
    managed.folder.mkdir()
    managed.state_file.write_text(text)
    assert managed.running() is None


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    managed = ManagedServer(tmp_path)
    monkeypatch.setenv(HEAP_VARIABLE, "1k")
    with pytest.raises(ServerDidNotStart, match="Too small maximum heap") as caught:
        managed.runner()
    assert str(managed.console_log) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert managed.running() is None


@pytest.mark.parametrize("heap", ["lots", "g", "-1g", "1.5g"])
def test_a_heap_that_is_no_size_is_refused(heap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HEAP_VARIABLE, heap)
    with pytest.raises(SettingsInvalid, match=HEAP_VARIABLE):
        ManagedServer(tmp_path).runner()


def test_a_database_of_a_later_release_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    managed = ManagedServer(tmp_path)
    assert managed.written_by() is None
    (managed.data / "databases" / "neo4j").mkdir(parents=True)
    assert managed.written_by() == release_named("5.26")
    managed.release_file.write_text("2026.01\n")
    with pytest.raises(SettingsInvalid, match=f"written by Neo4j 2026.01.*{VERSION_VARIABLE}=2026.01"):
        managed.runner()
    monkeypatch.setenv(VERSION_VARIABLE, "no such")
    with pytest.raises(SettingsInvalid, match=VERSION_VARIABLE):
        managed.runner()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsInvalid, match="MATCHGRAPH_HOME"):
        ManagedServer(tmp_path / "file").runner()


def test_the_user_is_the_one_that_connects(server: ManagedServer):
    with server.runner() as runner:
        assert runner.user == USER
        assert runner.read("SHOW CURRENT USER YIELD user") == [{"user": USER}]


def test_a_home_may_have_any_letters(tmp_path: Path):
    """Neither neo4j.conf, nor a class path, nor Java's idea of the encoding decides where the graph is."""
    home = tmp_path / "josé Админ #1 'q' 100% a\\b $HOME ${x} [y]:z,w;=!" / "data"
    managed = ManagedServer(home)
    try:
        with managed.runner() as runner:
            assert runner.gds_version()
        assert managed.running() is not None
        assert (managed.data / "databases" / "neo4j").is_dir()
        assert managed.neo4j_log.is_file()
        assert [entry.name for entry in tmp_path.iterdir()] == [home.parent.name]
        assert [entry.name for entry in home.iterdir()] == ["neo4j"]
    finally:
        managed.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_another_users_home_is_named_and_nothing_said_of_its_server(server: ManagedServer):
    os.seteuid(65534)
    try:
        for ask in (server.running, server.runner_if_running, server.stop, server.runner):
            with pytest.raises(SettingsInvalid, match=r"Permission denied \(it belongs to root\)"):
                ask()
    finally:
        os.seteuid(0)
    assert server.running() is not None
