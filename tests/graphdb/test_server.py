"""The managed server's life: shared starts, interrupts and lost files, with real processes.

A start takes long, so the server is started again only where it must be; `tests/faults` kills it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from matchgraph.graphdb.errors import AuthenticationFailed, ServerDidNotStart, SettingsInvalid
from matchgraph.graphdb.server.launch import HEAP_VARIABLE, USER, ServerState, bound_socket, is_locked
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.graphdb.server.releases import VERSION_VARIABLE, release_named
from tests.conftest import starting

PATIENCE_S = 300


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state_of(own_server: ManagedServer) -> ServerState:
    state = own_server.running()
    assert state is not None
    return state


def test_two_processes_that_start_at_once_share_one_server(own_server: ManagedServer):
    ours = [
        p
        for p in psutil.process_iter(["cmdline"])
        if f"--home-dir={own_server.folder}" in (p.info["cmdline"] or [])
    ]
    assert [process.pid for process in ours] == [state_of(own_server).pid]


def test_the_graph_is_in_its_home_whatever_letters_that_has(own_server: ManagedServer):
    home = own_server.folder.parent
    with own_server.runner() as runner:
        assert runner.gds_version()
    assert (own_server.data / "databases" / "neo4j").is_dir()
    assert own_server.neo4j_log.is_file()
    assert [entry.name for entry in home.parent.parent.iterdir()] == [home.parent.name]
    assert "neo4j" in [entry.name for entry in home.iterdir()]


def test_listens_on_loopback_only(own_server: ManagedServer):
    state = state_of(own_server)
    sockets = psutil.Process(state.pid).net_connections(kind="inet")
    listening = [(s.laddr.ip.removeprefix("::ffff:"), s.laddr.port) for s in sockets if s.status == "LISTEN"]
    assert sorted(listening) == sorted([("127.0.0.1", state.bolt_port), ("127.0.0.1", state.http_port)])


def test_only_the_owner_can_read_the_password(own_server: ManagedServer):
    assert own_server.password_file.stat().st_mode & 0o777 == 0o600
    password = own_server.password_file.read_text().strip()
    assert len(password) >= 24
    assert password not in " ".join(psutil.Process(state_of(own_server).pid).cmdline())
    assert password not in own_server.configuration.read_text()


def test_outlives_the_command_that_started_it(own_server: ManagedServer):
    state = state_of(own_server)
    assert os.getsid(state.pid) == state.pid
    with own_server.runner() as runner:
        runner.verify()
    assert state_of(own_server) == state


def test_a_lost_state_file_does_not_lose_the_server(own_server: ManagedServer):
    state = state_of(own_server)
    own_server.state_file.unlink()
    assert own_server.running() is None
    own_server.runner().close()
    found = state_of(own_server)
    assert (found.pid, found.uri, found.browser) == (state.pid, state.uri, state.browser)


def test_a_wrong_password_file_is_told_and_leaves_the_server_alone(own_server: ManagedServer):
    state, password = state_of(own_server), own_server.password_file.read_text()
    own_server.password_file.write_text("not-the-password")
    with pytest.raises(AuthenticationFailed, match="delete that file") as caught:
        own_server.runner()
    assert str(own_server.password_file) in str(caught.value)
    own_server.password_file.write_text(password)
    own_server.runner().close()
    assert state_of(own_server) == state


@pytest.mark.slow
def test_interrupt_lost_password_and_taken_port_at_a_start(own_server: ManagedServer):
    """One start for three troubles: each is seen by itself in the asserts."""
    before = state_of(own_server)
    with own_server.runner() as runner:
        runner.write("MERGE (:Kept)")
    assert own_server.stop()
    assert not own_server.stop()
    assert not psutil.pid_exists(before.pid) or psutil.Process(before.pid).status() == psutil.STATUS_ZOMBIE

    command = starting(own_server.folder.parent)
    wait_for(lambda: own_server.running() is not None)
    half_started = state_of(own_server).pid
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=PATIENCE_S)
    assert command.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert not psutil.pid_exists(half_started)

    lost = own_server.password_file.read_text()
    own_server.password_file.unlink()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", before.bolt_port))
        other.listen()
        with own_server.runner() as runner:
            assert runner.read("MATCH (k:Kept) RETURN count(k) AS kept") == [{"kept": 1}]
            runner.write("MATCH (k:Kept) DELETE k")
    after = state_of(own_server)
    assert after.bolt_port != before.bolt_port
    assert after.http_port == before.http_port
    assert own_server.password_file.read_text() != lost
    assert own_server.password_file.stat().st_mode & 0o777 == 0o600


def test_a_foreign_process_with_the_recorded_pid_is_neither_adopted_nor_stopped(tmp_path: Path):
    managed = ManagedServer(tmp_path)
    managed.folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as foreign:
        try:
            managed.state_file.write_text(json.dumps(asdict(ServerState(foreign.pid, 7687, 7474))))
            assert managed.running() is None
            assert managed.stop() is False
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_a_server_is_known_whatever_the_clock_says(
    own_server: ManagedServer, monkeypatch: pytest.MonkeyPatch
):
    state = state_of(own_server)
    moved = psutil.Process(state.pid).create_time() + 3600
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: moved)
    assert own_server.running() == state


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "bolt_port": 1, "http_port": 2}']
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


# Until its input ends.
HOLDS_A_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print(flush=True)
    sys.stdin.read()
"""


def test_a_killed_server_is_followed_once_its_database_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("matchgraph.graphdb.server.managed.PORT_WAIT_S", 0)
    managed = ManagedServer(tmp_path)
    managed.store_lock.parent.mkdir(parents=True)
    managed.store_lock.touch()
    command = [sys.executable, "-S", "-c", HOLDS_A_LOCK, managed.store_lock]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dying:
        assert dying.stdin is not None
        assert dying.stdout is not None
        dying.stdout.readline()
        assert is_locked(managed.store_lock)
        threading.Timer(0.4, dying.stdin.close).start()
        managed._with_free_ports(ServerState(2**22 - 1, 1, 2))
        assert not is_locked(managed.store_lock)


def test_a_process_is_known_once_it_has_become_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    managed = ManagedServer(tmp_path)
    state = ServerState(os.getpid(), 1, 1)
    becoming_java = iter([[], [], ["java", managed._home_argument]])
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: next(becoming_java))
    assert managed._process(state) is not None
    becoming_another = iter([[], [], ["sleep", "600"]])
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: next(becoming_another))
    assert managed._process(state) is None
    monkeypatch.setattr("matchgraph.graphdb.server.managed.EXEC_WAIT_S", 0.05)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])
    assert managed._process(state) is None


@pytest.mark.parametrize(("pid", "same"), [(2**22 - 1, True), (0, False)])
def test_a_killed_server_gets_its_ports_back_once_they_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int, same: bool
):
    monkeypatch.setattr("matchgraph.graphdb.server.managed.PORT_WAIT_S", PATIENCE_S)
    # Of those that no outgoing connection of another process gets meanwhile.
    with bound_socket(0) as dying, bound_socket(0) as free:
        dying.listen()
        ports = dying.getsockname()[1], free.getsockname()[1]
        free.close()
        if same:
            threading.Timer(0.4, dying.close).start()
        found = ManagedServer(tmp_path)._with_free_ports(ServerState(pid, *ports))
        assert ((found.bolt_port, found.http_port) == ports) is same


@pytest.mark.parametrize("heap", ["lots", "g", "-1g", "1.5g"])
def test_a_heap_that_is_no_size_is_refused(heap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HEAP_VARIABLE, heap)
    with pytest.raises(SettingsInvalid, match=HEAP_VARIABLE):
        ManagedServer(tmp_path).runner()


def test_a_database_of_a_later_release_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    managed = ManagedServer(tmp_path)
    monkeypatch.delenv(VERSION_VARIABLE, raising=False)
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


def test_the_user_is_the_one_that_connects(own_server: ManagedServer):
    with own_server.runner() as runner:
        assert runner.user == USER
        assert runner.read("SHOW CURRENT USER YIELD user") == [{"user": USER}]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_another_users_home_is_named_and_nothing_said_of_its_server(own_server: ManagedServer):
    os.seteuid(65534)
    try:
        for ask in (own_server.running, own_server.runner_if_running, own_server.stop, own_server.runner):
            with pytest.raises(SettingsInvalid, match=r"Permission denied \(it belongs to root\)"):
                ask()
    finally:
        os.seteuid(0)
    assert own_server.running() is not None
