"""The managed Neo4j: one server per data folder, started when needed, shared by all commands, and
repaired after a crash.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from matchgraph.graphdb.errors import (
    AuthenticationFailed,
    DatabaseFailed,
    ServerDidNotStart,
    ServerUnreachable,
    SettingsInvalid,
)
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.artifacts import Jars, link_plugins, provide
from matchgraph.graphdb.server.folder import ServerFolder, replace_file
from matchgraph.graphdb.server.launch import (
    USER,
    ServerState,
    bound_socket,
    configuration,
    heap_size,
    is_locked,
    java_command,
    listens,
)
from matchgraph.graphdb.server.releases import RELEASES, VERSION_VARIABLE, Release, chosen_release, read_lock
from matchgraph.progress import Progress

START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60
POLL_S = 0.25
PORT_WAIT_S = 10
LOCK_WAIT_S = 60
LOG_LINES_SHOWN = 3
PORT_TRIES = 3
EXEC_WAIT_S = 5
EXEC_POLL_S = 0.01


class ManagedServer(ServerFolder):
    """The Neo4j of one data folder.

    Args:
        home: the data folder; made on the first start.
    """

    def runner(self, on_progress: Progress | None = None) -> Runner:
        """A runner on the running server; starts it, or repairs what a crash left, where needed.

        Args:
            on_progress: called with the bytes fetched at a first start; None for a bar on stderr.

        Returns:
            A runner that has been answered.

        Raises:
            ServerDidNotStart: the server stopped or stayed silent; names the log and shows its end.
            AuthenticationFailed: the password file is not of this server.
            ArtifactUnavailable, ArtifactMismatch: its jars could not be had.
            SettingsInvalid: the data folder cannot be written, or the heap size is none.
        """
        runner = self.runner_if_running()
        if runner:
            return runner
        with self._writable(), self._locked():
            return self._running_or_started(on_progress)

    def runner_if_running(self) -> Runner | None:
        """A runner on the server if it runs and answers; None otherwise. Starts nothing."""
        with self._readable():
            state, password = self.running(), self._read_password()
        if state and password:
            runner = Runner(state.uri, USER, password)
            try:
                runner.verify()
            except (ServerUnreachable, DatabaseFailed, AuthenticationFailed):
                runner.close()
            else:
                return runner
        return None

    def running(self) -> ServerState | None:
        """The server process of this folder, found by the state file; None if it is not there. Starts
        nothing.
        """
        with self._readable():
            state = self._read_state()
        return state if state and self._process(state) else None

    def stop(self) -> bool:
        """Stop the server if it runs, and wait until it has.

        Returns:
            Whether one was running.
        """
        with self._readable():
            if not self.folder.exists():
                return False
        with self._writable(), self._locked():
            state = self._found()
            if state is None:
                return False
            self._terminate(state)
            return True

    def reset(self) -> None:
        """Stop the server and delete its database, its logs and its password. The fetched jars stay."""
        self.stop()
        if self.folder.exists():
            with self._writable(), self._locked():
                for folder in (self.data, self.logs, self.plugins, self.configuration.parent):
                    shutil.rmtree(folder, ignore_errors=True)
                self.password_file.unlink(missing_ok=True)
                self.state_file.unlink(missing_ok=True)
                self.release_file.unlink(missing_ok=True)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep the server stopped, and other commands from starting it; one that ran is started again at the
        end, whatever happens.
        """
        with self._writable(), self._locked():
            state = self._found()
            if state:
                self._terminate(state)
            try:
                yield
            finally:
                if state:
                    self._running_or_started(None).close()

    def exchange_data(self, data: Path) -> None:
        """Put another data folder in the place of the one in use, while the server is `stopped`, and start.

        Where it does not start, the former one is put back. Where this is cut short, one of the two is used,
        and both are whole.

        Args:
            data: the other folder, in the same file system; without the database of users.

        Raises:
            ServerDidNotStart: it does not start.
        """
        if self.data.exists():
            shutil.rmtree(self.former_data, ignore_errors=True)
            self.data.rename(self.former_data)
        try:
            data.rename(self.data)
            self._running_or_started(None).close()
        except BaseException:
            state = self._found()
            if state:
                self._terminate(state)
            if self.former_data.exists():
                shutil.rmtree(self.data, ignore_errors=True)
                self.former_data.rename(self.data)
            raise
        shutil.rmtree(self.former_data, ignore_errors=True)

    def set_aside(self) -> Path:
        """Stop the server and move its database to a folder beside it.

        Returns:
            That folder.
        """
        self.stop()
        with self._writable(), self._locked():
            aside = self.folder / f"data-{time.strftime('%Y%m%d-%H%M%S')}"
            self.data.rename(aside)
        self.reset()
        return aside

    def _running_or_started(self, on_progress: Progress | None) -> Runner:
        if self.former_data.exists() and not self.data.exists():
            self.former_data.rename(self.data)
        password = self._read_password()
        state = self._found()
        if state is None:
            heap_size()
        if state and password:
            # Another command may have started it a moment ago, so give it the time of a start.
            try:
                return self._when_ready(state, password)
            except (ServerDidNotStart, ServerUnreachable):
                self._terminate(state)
        elif state:
            self._terminate(state)
        release = self._release()
        jars = provide(pinned=read_lock(release.lock_file), on_progress=on_progress)
        link_plugins(jars.gds, self.plugins)
        if password is None:
            self._forget_users()
            password = self._write_password()
        if not (self.data / "databases" / "system").exists():
            self._write_first_user(password)
        replace_file(self.release_file, f"{release.name}\n")
        return self._started(release, jars, password)

    def _release(self) -> Release:
        """The release to start.

        Raises:
            SettingsInvalid: there is none of the name asked for, or a later one wrote the database.
        """
        release, former = chosen_release(), self.written_by()
        if former is not None and RELEASES.index(former) > RELEASES.index(release):
            raise SettingsInvalid(
                f"The database in {self.folder} was written by Neo4j {former.name}, which Neo4j "
                f"{release.name} cannot read. Set {VERSION_VARIABLE}={former.name}; to go back, "
                "export the graph (`matchgraph graph export`) and load its records into another "
                "MATCHGRAPH_HOME."
            )
        return release

    def _started(self, release: Release, jars: Jars, password: str) -> Runner:
        remembered = self._read_state()
        for attempt in range(PORT_TRIES):
            ports = self._with_free_ports(remembered if attempt == 0 else None)
            try:
                return self._when_ready(self._launched(ports, release, jars), password)
            except ServerDidNotStart:
                # Somebody took a port after it was found free: choose others.
                if attempt + 1 == PORT_TRIES or not self._port_was_taken():
                    raise
            except BaseException:
                state = self._found()
                if state:
                    self._terminate(state)
                raise
        raise AssertionError("unreachable")

    def _launched(self, state: ServerState, release: Release, jars: Jars) -> ServerState:
        for folder in (self.data, self.logs, self.configuration.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(configuration(state), encoding="utf-8")
        command = self._command(release, jars)
        # What an error message shows must be of this start.
        self.neo4j_log.unlink(missing_ok=True)
        with self.console_log.open("wb") as log:
            # A session of its own: Ctrl-C in the command's terminal must not stop the server under other
            # commands.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # Java takes names of files in the locale's encoding, which may be plain ASCII.
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        try:
            started = replace(state, pid=process.pid)
            self._write_state(started)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return started

    def _command(self, release: Release, jars: Jars) -> list[str]:
        # Procedures are found by scanning the plugins folder, extensions on the class path: GDS has both.
        # The latter come from the cache: a class path cannot hold every path that a home may have.
        return [
            *java_command((*jars.neo4j, *jars.gds)),
            release.main_class,
            self._home_argument,
            f"--config-dir={self.configuration.parent.name}",
        ]

    @property
    def _home_argument(self) -> str:
        """By this argument a server process is known as the one of this folder."""
        return f"--home-dir={self.folder}"

    def _when_ready(self, state: ServerState, password: str) -> Runner:
        """A runner once the server answers a statement; its port opens before its database is there."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            process = self._process(state)
            if process is None:
                raise ServerDidNotStart(f"Neo4j stopped while it started. {self._log_end()}")
            if listens(process, state.bolt_port):
                runner = Runner(state.uri, USER, password)
                try:
                    runner.verify()
                except (ServerUnreachable, DatabaseFailed):
                    runner.close()
                except AuthenticationFailed as error:
                    runner.close()
                    raise AuthenticationFailed(
                        f"The managed Neo4j does not know the password in {self.password_file}. Put the "
                        "right one there, or delete that file: the next command sets a new password and "
                        "keeps the graph."
                    ) from error
                except BaseException:
                    runner.close()
                    raise
                else:
                    return runner
            time.sleep(POLL_S)
        self._terminate(state)
        raise ServerDidNotStart(f"Neo4j was not ready after {START_TIMEOUT_S} s. {self._log_end()}")

    def _log_end(self) -> str:
        # The JVM's own complaints go to the console, Neo4j's to its log.
        log = self.console_log if _lines(self.console_log) else self.neo4j_log
        return f"Its log {log} ends: {' | '.join(_lines(log)[-LOG_LINES_SHOWN:]) or '(empty)'}"

    def _port_was_taken(self) -> bool:
        return any(
            "Address already in use" in line for line in _lines(self.console_log) + _lines(self.neo4j_log)
        )

    def _with_free_ports(self, remembered: ServerState | None) -> ServerState:
        """The remembered ports where they are still free, so that a browser's bookmark keeps working, once
        nothing locks the database.
        """
        wanted = (remembered.bolt_port, remembered.http_port) if remembered else (0, 0)
        began = time.monotonic()
        # One that was killed: the threads of a dead process hold its ports and its lock, with which no other
        # starts, until the last of them is gone.
        port_wait, lock_wait = (PORT_WAIT_S, LOCK_WAIT_S) if remembered and remembered.pid else (0, 0)
        while True:
            waited = time.monotonic() - began
            with bound_socket(wanted[0]) as bolt, bound_socket(wanted[1]) as http:
                found = bolt.getsockname()[1], http.getsockname()[1]
            free = found == wanted or waited >= port_wait
            if free and (waited >= lock_wait or not is_locked(self.store_lock)):
                return ServerState(0, *found)
            time.sleep(POLL_S)

    def _process(self, state: ServerState) -> psutil.Process | None:
        """The process that a state names, if it is alive and is the server of this folder: pids are used
        again. The folder in its command line tells, and not when it started, which moves with the clock.
        """
        try:
            process = psutil.Process(state.pid) if state.pid > 0 else None
            if (
                process is not None
                and process.status() != psutil.STATUS_ZOMBIE
                and self._home_argument in _command_line(process)
            ):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        return None

    def _found(self) -> ServerState | None:
        """The running server by the state file or, where that was lost, by looking through the processes."""
        state = self.running()
        if state:
            return state
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if self._home_argument in command and any(each.main_class in command for each in RELEASES):
                found = replace(self._configured_ports(), pid=process.pid)
                if self._process(found):
                    self._write_state(found)
                    return found
        return None

    def _configured_ports(self) -> ServerState:
        values = dict(
            line.split("=", 1) for line in self.configuration.read_text(encoding="utf-8").splitlines()
        )
        ports = (int(values[f"server.{name}.listen_address"].rpartition(":")[2]) for name in ("bolt", "http"))
        return ServerState(0, *ports)

    def _terminate(self, state: ServerState) -> None:
        """Stop a process, kindly first, and remember only its ports."""
        process = self._process(state)
        if process:
            try:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(STOP_TIMEOUT_S)
            except psutil.NoSuchProcess:
                pass
        self._write_state(replace(state, pid=0))


def _command_line(process: psutil.Process) -> list[str]:
    """The arguments of a process: one that is just becoming another program has none for a moment."""
    until = time.monotonic() + EXEC_WAIT_S
    while not (arguments := process.cmdline()) and time.monotonic() < until:
        time.sleep(EXEC_POLL_S)
    return arguments


def _lines(log: Path) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
