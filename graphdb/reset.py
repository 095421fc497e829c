"""Emptying the graph, without touching what other applications keep in the same database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.errors import (
    AuthenticationFailed,
    DatabaseFailed,
    GdsMissing,
    ServerDidNotStart,
    ServerUnreachable,
)
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.server.managed import ManagedServer

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner


@dataclass(frozen=True)
class Reset:
    """What a reset did.

    Attributes:
        place: the data folder of the managed server, or the address of another one.
        foreign_nodes: other applications' nodes, which are still there.
        foreign_relationships: other applications' relationships, which are still there.
        moved_to: folder of the files of a database that did not start, so its content is unknown.
    """

    place: str
    foreign_nodes: int = 0
    foreign_relationships: int = 0
    moved_to: Path | None = None


def reset(settings: Settings) -> Reset:
    """Delete the graph: all that this program wrote, and nothing else.

    Of the managed server the database's files are deleted where nothing else is in them, so that the next
    start sets up a new one. A database that does not start is moved aside.

    Args:
        settings: where the graph is.

    Returns:
        What is left.

    Raises:
        GraphError: another server cannot be reached, by kind, see `graphdb.errors`.
    """
    if not settings.managed:
        with connect(settings) as runner:
            return _cleared(runner, settings.uri or "")
    server, place = ManagedServer(settings.home), str(settings.home)
    if not server.has_database():
        server.reset()
        return Reset(place)
    try:
        with connect(settings) as runner:
            left = _left(runner, place)
            if left.foreign_nodes:
                return _cleared(runner, place)
    except (AuthenticationFailed, DatabaseFailed, GdsMissing, ServerDidNotStart, ServerUnreachable):
        return Reset(place, moved_to=server.set_aside())
    server.reset()
    return left


def _cleared(runner: Runner, place: str) -> Reset:
    MatchingGraph(runner).clear()
    return _left(runner, place)


def _left(runner: Runner, place: str) -> Reset:
    foreign = runner.read(queries.load("status/foreign"))[0]
    return Reset(place, foreign["nodes"], foreign["relationships"])
