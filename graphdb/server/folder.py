"""The folder of a managed server: what lies where, and who may look at it or change it.

Below `<home>/neo4j`: `data` (the database), `plugins` (Graph Data Science), `conf`, `logs`, `password`
(readable by its owner only), `server.json` (the process and its ports), `release` (the Neo4j that wrote the
database) and `lock` (held while a server is started or stopped).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from matchgraph.graphdb.errors import SettingsInvalid
from matchgraph.graphdb.server.launch import ServerState, first_user
from matchgraph.graphdb.server.releases import RELEASES, Release, release_named

USER_DATABASE = "neo4j"
ANNOUNCE_WAIT_S = 1


class ServerFolder:
    """The folder of the Neo4j of one data folder.

    Args:
        home: the data folder; made on the first start.
    """

    def __init__(self, home: Path) -> None:
        # Neo4j takes normalised paths only.
        self.folder = Path(os.path.abspath(home.expanduser())) / "neo4j"
        self.data = self.folder / "data"
        # The database in use while another one takes its place.
        self.former_data = self.folder / "data.former"
        # Held by the server as long as it lives.
        self.store_lock = self.data / "databases" / "store_lock"
        self.logs = self.folder / "logs"
        self.plugins = self.folder / "plugins"
        self.configuration = self.folder / "conf" / "neo4j.conf"
        self.password_file = self.folder / "password"
        self.state_file = self.folder / "server.json"
        self.release_file = self.folder / "release"
        self.console_log = self.logs / "console.log"
        self.neo4j_log = self.logs / "neo4j.log"

    def has_database(self) -> bool:
        """Whether there is a database, running or not, that something may be in."""
        return (self.data / "databases" / USER_DATABASE).exists()

    def written_by(self) -> Release | None:
        """The release that wrote the database; None where there is no database."""
        if not self.has_database():
            return None
        if not self.release_file.exists():
            return RELEASES[0]
        return release_named(self.release_file.read_text(encoding="utf-8").strip()) or RELEASES[0]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=ANNOUNCE_WAIT_S)
        except Timeout:
            print("Waiting for another command that starts or stops Neo4j.", file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Names the folder and the remedy where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            remedy = (
                "Make room on that disk"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "Make it writable, or name another folder in MATCHGRAPH_HOME"
            )
            raise SettingsInvalid(
                f"Cannot write to the data folder {self.folder}: {error.strerror or error}. {remedy}."
            ) from error

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Name the folder and its owner where it cannot be read: what runs there is not known then.

        Raises:
            SettingsInvalid: another user's folder.
        """
        try:
            yield
        except PermissionError as error:
            raise SettingsInvalid(
                f"Cannot read the data folder {self.folder}: {error.strerror}{_owner_of(error.filename)}. "
                "Use a folder of your own in MATCHGRAPH_HOME, or connect to the running server with "
                "MATCHGRAPH_NEO4J_URI and _PASSWORD."
            ) from error

    def _read_state(self) -> ServerState | None:
        try:
            recorded = json.loads(self.state_file.read_text(encoding="utf-8"))
            return ServerState(
                int(recorded["pid"]),
                int(recorded["bolt_port"]),
                int(recorded["http_port"]),
            )
        except PermissionError:
            raise
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _write_state(self, state: ServerState) -> None:
        replace_file(self.state_file, json.dumps(asdict(state)))

    def _read_password(self) -> str | None:
        try:
            return self.password_file.read_text(encoding="utf-8").strip() or None
        except PermissionError:
            raise
        except OSError:
            return None

    def _write_password(self) -> str:
        password = secrets.token_urlsafe(24)
        replace_file(self.password_file, password + "\n")
        return password

    def _write_first_user(self, password: str) -> None:
        (self.data / "dbms").mkdir(parents=True, exist_ok=True)
        replace_file(self.data / "dbms" / "auth.ini", first_user(password))

    def _forget_users(self) -> None:
        """Drop the system database, which holds the users; the graph's own database stays and is taken up
        again.
        """
        for kind in ("databases", "transactions"):
            shutil.rmtree(self.data / kind / "system", ignore_errors=True)


def _owner_of(file: str | None) -> str:
    """` (it belongs to NAME)` of the nearest folder above a file that can be looked at."""
    for place in Path(file).parents if file else ():
        try:
            return f" (it belongs to {place.owner()})"
        except (OSError, KeyError):
            continue
    return ""


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
