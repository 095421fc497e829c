"""Constraints and indexes of the graph, as numbered migrations under `cypher/schema/`, each recorded when
applied.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import MigrationFailed

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

FOLDER = "schema"
_FILE = re.compile(r"(?P<version>\d{3})_[a-z0-9_]+")


def migrations() -> dict[int, str]:
    """Version to `folder/name` of its statement, in order, from 1 without a gap.

    Raises:
        MigrationFailed: the files are not numbered so.
    """
    found: dict[int, str] = {}
    for name in queries.names(FOLDER):
        match = _FILE.fullmatch(name)
        if match is None or int(match["version"]) != len(found) + 1:
            raise MigrationFailed(f"cypher/{FOLDER}/{name}.cypher should be numbered {len(found) + 1:03d}.")
        found[len(found) + 1] = f"{FOLDER}/{name}"
    return found


def version(runner: Runner) -> int:
    """The version that the database's schema has, 0 for an empty database; never writes."""
    return runner.read(queries.load("read/schema-version"))[0]["version"]


def apply(runner: Runner) -> int:
    """Bring the database's schema up to date; one read when it is.

    A migration is an idempotent statement (`IF NOT EXISTS`), so that two processes may apply it at once, and
    one that was cut off between a migration and its record just applies it again.

    Returns:
        How many migrations were applied.

    Raises:
        MigrationFailed: the database was set up by a newer version of this program.
    """
    known = migrations()
    current = version(runner)
    if current > len(known):
        raise MigrationFailed(
            f"The graph has schema version {current}, this program knows {len(known)}: update matchgraph."
        )
    for number in range(current + 1, len(known) + 1):
        runner.schema(queries.load(known[number]))
        runner.write(queries.load("write/schema-version"), version=number)
    return len(known) - current
