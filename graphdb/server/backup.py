"""The managed database as one file, by Neo4j's own dump and load; any Neo4j of its version or a later one
reads the file as well.

The server is stopped meanwhile: Neo4j Community dumps no database that is in use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING

from matchgraph.graphdb.errors import BackupFailed
from matchgraph.graphdb.server.artifacts import provide
from matchgraph.graphdb.server.folder import USER_DATABASE
from matchgraph.graphdb.server.launch import java_command
from matchgraph.graphdb.server.releases import Release, chosen_release, read_lock

if TYPE_CHECKING:
    from matchgraph.graphdb.server.managed import ManagedServer

MAIN_CLASS = "org.neo4j.cli.AdminTool"
LINES_SHOWN = 3


def backup(server: ManagedServer, file: Path) -> int:
    """Write the whole database to a file, which is there whole or not at all.

    Args:
        server: the managed server; it is stopped meanwhile and, if it ran, started again.
        file: is made.

    Returns:
        Its size in bytes.

    Raises:
        BackupFailed: there is no database, the file is there already or cannot be written, or Neo4j could not
            dump the database.
    """
    release = server.written_by()
    if release is None:
        raise BackupFailed(f"There is no database in {server.folder} to back up.")
    if file.exists():
        raise BackupFailed(f"{file} already exists: name another file, or move that one away.")
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as target:
            with server.stopped():
                _admin(release, server.folder, "dump", "--to-stdout", output=target)
            target.flush()
            os.fsync(target.fileno())
        partial.rename(file)
    except OSError as error:
        raise BackupFailed(f"Cannot write {file}: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def restore(server: ManagedServer, file: Path) -> None:
    """Replace the database by one that was backed up.

    It is loaded beside the one in use, takes its place once it is complete, and keeps it once the server has
    started on it.

    Args:
        server: the managed server; it runs afterwards.
        file: as `backup` wrote it.

    Raises:
        BackupFailed: the file cannot be read or is not a backup; the database is as it was.
        ServerDidNotStart: the server does not start on it; the database is as it was.
    """
    scratch = server.folder / "restore"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with file.open("rb") as source:
            (scratch / "conf").mkdir(parents=True)
            (scratch / "conf" / "neo4j.conf").touch()
            _admin(chosen_release(), scratch, "load", "--from-stdin", input_=source)
        with server.stopped():
            server.exchange_data(scratch / "data")
    except OSError as error:
        raise BackupFailed(f"Cannot restore {file}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _admin(
    release: Release,
    home: Path,
    action: str,
    option: str,
    *,
    input_: IO[bytes] | None = None,
    output: IO[bytes] | None = None,
) -> None:
    """Run `neo4j-admin database ACTION` on a stopped server's folder.

    Raises:
        BackupFailed: it failed; the message has the end of what it said.
    """
    places = {"NEO4J_HOME": str(home), "NEO4J_CONF": str(home / "conf"), "LC_ALL": "C.UTF-8"}
    jars = provide(pinned=read_lock(release.lock_file))
    done = subprocess.run(
        [*java_command(jars.neo4j), MAIN_CLASS, "database", action, option, USER_DATABASE],
        stdin=input_ or subprocess.DEVNULL,
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **places},
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise BackupFailed(f"Neo4j could not {action} the database: {' | '.join(lines[-LINES_SHOWN:])}.")
