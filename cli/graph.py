"""`matchgraph graph`: start, stop and look at the managed Neo4j."""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from dataclasses import asdict
from typing import Any

import click

from matchgraph.graphdb.connection import Settings, connect, settings_from_environment
from matchgraph.graphdb.errors import ServerNotManaged
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.graphdb.status import Status
from matchgraph.graphdb.status import status as status_of

DECLINED_EXIT = 1

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def graph() -> None:
    """Start, stop and look at the managed Neo4j.

    Other commands start it when they need it. With MATCHGRAPH_NEO4J_URI, _USER and _PASSWORD set, a Neo4j of
    your own is used instead.
    """


@graph.command()
@json_option
def start(as_json: bool) -> None:
    """Start the managed Neo4j, or say that it runs."""
    settings = settings_from_environment()
    connect(settings).close()
    show(status_of(settings), as_json)


@graph.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop the managed Neo4j; the graph is kept."""
    stopped = managed_server("stop").stop()
    show_fact({"stopped": stopped}, "Stopped." if stopped else "Not running.", as_json)


@graph.command()
@json_option
def status(as_json: bool) -> None:
    """Show versions, addresses and how much the graph holds; starts nothing."""
    show(status_of(settings_from_environment()), as_json)


@graph.command(name="open")
@click.option("--launch/--no-launch", default=True, help="Open a web browser, where there is one.")
@json_option
def open_browser(launch: bool, as_json: bool) -> None:
    """Open Neo4j Browser; start the managed Neo4j if it is not running."""
    settings = settings_from_environment()
    connect(settings).close()
    found = status_of(settings)
    launched = launch and has_display() and webbrowser.open(found.browser or "")
    fact = {key: getattr(found, key) for key in ("browser", "uri", "user", "password_file")}
    password = f"in {found.password_file}" if found.password_file else "as in MATCHGRAPH_NEO4J_PASSWORD"
    text = f"{found.browser}\nConnect to {found.uri} as user {found.user}, password {password}"
    show_fact({**fact, "launched": launched}, text, as_json)


@graph.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def reset(ctx: click.Context, yes: bool, as_json: bool) -> None:
    """Delete the whole graph. With the managed Neo4j: its database files, so that a broken one starts
    anew.
    """
    settings = settings_from_environment()
    place = settings.home if settings.managed else settings.uri
    if not yes:
        if not at_terminal():
            raise click.UsageError("This deletes the whole graph; say --yes where nobody can be asked.")
        if not click.confirm(f"Delete the whole graph in {place}?", err=True):
            click.echo("Nothing was deleted.", err=True)
            ctx.exit(DECLINED_EXIT)
    delete_graph(settings)
    show_fact({"reset": str(place)}, f"The graph in {place} is empty.", as_json)


def delete_graph(settings: Settings) -> None:
    """Delete the managed server's database, or every node of another server's."""
    if settings.managed:
        ManagedServer(settings.home).reset()
        return
    from matchgraph.graphdb.repository import MatchingGraph

    with connect(settings) as runner:
        MatchingGraph(runner).clear()


def managed_server(action: str) -> ManagedServer:
    """The managed server of the environment's settings.

    Raises:
        ServerNotManaged: the settings name a Neo4j of the user's own.
    """
    settings = settings_from_environment()
    if not settings.managed:
        raise ServerNotManaged(
            f"Will not {action} the Neo4j at {settings.uri}: it is not ours. Unset MATCHGRAPH_NEO4J_URI to "
            "mean the managed one."
        )
    return ManagedServer(settings.home)


def at_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def has_display() -> bool:
    """Whether a web browser could show a window; without one, a text browser would take over the terminal."""
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def show(found: Status, as_json: bool) -> None:
    """Print a status as lines or as JSON."""
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    if not found.running:
        click.echo(f"Not running. Data folder: {found.home}")
        return
    counts = ", ".join(f"{n} {name}" for name, n in [*found.nodes.items(), *found.relationships.items()])
    lines = {
        "Neo4j": f"{found.neo4j}, GDS {found.gds or '(missing)'}",
        "URI": found.uri,
        "Browser": found.browser,
        "Graph": counts or "empty",
        "Home": found.home,
        "Process": found.pid,
    }
    for name, value in lines.items():
        if value is not None:
            click.echo(f"{name + ':':<9}{value}")


def show_fact(fact: dict[str, Any], text: str, as_json: bool) -> None:
    """Print one fact as a sentence or as JSON."""
    click.echo(json.dumps(fact) if as_json else text)
