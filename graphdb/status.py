"""What the graph's server is and holds, found without starting or changing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from matchgraph.graphdb import queries
from matchgraph.graphdb.connection import Settings, external_runner
from matchgraph.graphdb.errors import GdsMissing
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.launch import ServerState
from matchgraph.graphdb.server.managed import ManagedServer

BROWSER_PORT = 7474


@dataclass(frozen=True)
class Status:
    """The server and what it holds; the second half is empty where no server runs.

    Attributes:
        running: whether a server answers.
        managed: whether it is ours to start and stop.
        home: the data folder; None with a Neo4j of the user's own.
        password_file: where the managed server's password is; None with a Neo4j of the user's own.
        user: the user we connect as.
        pid: the managed server's process.
        uri: Bolt address.
        browser: address of Neo4j Browser; the usual one, on port 7474, with a Neo4j of the user's own.
        neo4j: version of the server.
        gds: version of Graph Data Science; None where it has none.
        nodes: number of nodes by label.
        relationships: number of relationships by type.
    """

    running: bool
    managed: bool
    home: str | None
    password_file: str | None
    user: str
    pid: int | None = None
    uri: str | None = None
    browser: str | None = None
    neo4j: str | None = None
    gds: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    relationships: Mapping[str, int] = field(default_factory=dict)


def status(settings: Settings) -> Status:
    """The status of the server that the settings name; starts none.

    Args:
        settings: where the graph is.

    Returns:
        Its status; `running` is false where a managed server is not running.

    Raises:
        ServerUnreachable: a Neo4j of the user's own does not answer.
        AuthenticationFailed: it refuses the user or the password.
    """
    if not settings.managed:
        with external_runner(settings) as theirs:
            return _described(settings, theirs)
    server = ManagedServer(settings.home)
    runner = server.runner_if_running()
    if runner is None:
        return _managed(settings, server, running=False)
    with runner:
        return _described(settings, runner)


def _described(settings: Settings, runner: Runner) -> Status:
    facts = {
        "neo4j": runner.read(queries.load("status/neo4j-version"))[0]["version"],
        "gds": _gds_version(runner),
        "nodes": {r["label"]: r["count"] for r in runner.read(queries.load("status/nodes"))},
        "relationships": {r["type"]: r["count"] for r in runner.read(queries.load("status/relationships"))},
    }
    if settings.managed:
        server = ManagedServer(settings.home)
        return _managed(settings, server, running=True, state=server.running(), **facts)
    host = urlsplit(runner.uri).hostname or "localhost"
    browser = f"http://{host}:{BROWSER_PORT}/browser/"
    return Status(True, False, None, None, settings.user, uri=runner.uri, browser=browser, **facts)


def _managed(
    settings: Settings,
    server: ManagedServer,
    *,
    running: bool,
    state: ServerState | None = None,
    **facts: Any,
) -> Status:
    if state:
        facts |= {"pid": state.pid, "uri": state.uri, "browser": state.browser}
    return Status(running, True, str(settings.home), str(server.password_file), settings.user, **facts)


def _gds_version(runner: Runner) -> str | None:
    try:
        return runner.gds_version()
    except GdsMissing:
        return None
