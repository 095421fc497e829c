"""The same graph through py2neo, for scripts that were written for it; nothing of ours uses it.

py2neo is at its end of life: 2021.2.4 is its last release, made for Neo4j 4. Tried with Neo4j 5.26 it talks
Bolt, runs statements and transactions, and matches nodes; it knows neither routing (`neo4j://`) nor anything
that came with Neo4j 5.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.connection import Settings, connect, settings_from_environment
from matchgraph.graphdb.errors import AuthenticationFailed, MissingOptionalDependency, ServerUnreachable

if TYPE_CHECKING:
    import py2neo


def py2neo_graph(settings: Settings | None = None) -> py2neo.Graph:
    """A py2neo graph on the Neo4j that the settings name; a managed server is started if it must be.

    Args:
        settings: None for those of the environment.

    Returns:
        The graph, connected.

    Raises:
        MissingOptionalDependency: py2neo is not installed.
        ServerUnreachable: py2neo cannot talk to the server.
        GraphError: there is no server to talk to, see `graphdb.connection.connect`.
    """
    if importlib.util.find_spec("py2neo") is None:
        raise MissingOptionalDependency("py2neo is not installed: pip install 'matchgraph[py2neo]'.")
    import py2neo

    settings = settings or settings_from_environment()
    with connect(settings) as runner:
        uri, user = runner.uri, runner.user
    password = settings.password or _managed_password(settings)
    try:
        graph = py2neo.Graph(
            uri.replace("neo4j://", "bolt://").replace("neo4j+s", "bolt+s"),
            auth=(user, password),
            name=settings.database,
        )
        graph.run(queries.load("status/ping"))
    except Exception as error:  # py2neo leaks the errors of several layers below it
        raise ServerUnreachable(f"py2neo cannot talk to {uri}: {type(error).__name__}: {error}") from error
    return graph


def _managed_password(settings: Settings) -> str:
    from matchgraph.graphdb.server.managed import ManagedServer

    file = ManagedServer(settings.home).password_file
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AuthenticationFailed(
            f"The managed server's password cannot be read from {file}: {error}."
        ) from error
