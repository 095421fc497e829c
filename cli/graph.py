"""`matchgraph graph`: start, stop and inspect the managed Neo4j and its graph."""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.groups import SuggestingGroup
from matchgraph.cli.options import json_option
from matchgraph.cli.records import export
from matchgraph.graphdb import upkeep
from matchgraph.graphdb.connection import connect, settings_from_environment
from matchgraph.graphdb.errors import ServerNotManaged
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.graphdb.status import Status
from matchgraph.graphdb.status import status as status_of
from matchgraph.graphdb.upkeep import LISTED, NAMED, Belongings, Listed, Named, listed
from matchgraph.progress import progress_bar
from matchgraph.words import count

if TYPE_CHECKING:
    from matchgraph.graphdb.refresh import Refreshed
    from matchgraph.graphdb.runner import Runner

DECLINED_EXIT = 1
FOUND_EXIT = 1
ADDED_BY = {
    "models": "add some with `matchgraph ingest models`, or load the small zoo with `ingest minizoo`",
    "datasets": "add some with `matchgraph ingest datasets`, or load the small zoo with `ingest minizoo`",
    "runs": "`matchgraph ingest run` starts some",
    "metrics": "they come with results and similarities, such as those of `matchgraph ingest minizoo`",
}


@click.group(cls=SuggestingGroup)
def graph() -> None:
    """Start, stop and inspect the managed Neo4j and its graph.

    Other commands start it when they need it. With MATCHGRAPH_NEO4J_URI, _USER and _PASSWORD set, your own
    Neo4j is used instead; MATCHGRAPH_NEO4J_DATABASE names the database.
    """


@graph.command()
@json_option
def start(as_json: bool) -> None:
    """Start the managed Neo4j if it is not running, and show its status."""
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
    """Show versions, addresses and the size of the graph, without starting anything."""
    show(status_of(settings_from_environment()), as_json)


@graph.command()
@json_option
def refresh(as_json: bool) -> None:
    """Update what Neo4j Browser shows: main values, quality bands, weights, nearest datasets and short names.

    These depend on the whole graph, so writing a result does not update them. `graph open` does this too.
    """
    with connect(settings_from_environment()) as runner:
        done = refreshed(runner)
    similarities = count(done.similarities, "similarity", "similarities")
    show_fact(asdict(done), f"Refreshed {count(done.results, 'result')} and {similarities}.", as_json)


def refreshed(runner: Runner) -> Refreshed:
    """Refresh the graph, with a bar."""
    from matchgraph.graphdb.refresh import refresh as refresh_graph

    with progress_bar() as bar:
        return refresh_graph(runner, on_progress=bar)


@graph.command(name="list")
@click.argument("kind", type=click.Choice(LISTED), default="models")
@json_option
def list_command(kind: Listed, as_json: bool) -> None:
    """List models (the default), datasets, runs or metrics, with what is recorded for each."""
    with connect(settings_from_environment()) as runner:
        rows = listed(runner, kind)
    from matchgraph.cli import rendering

    if as_json:
        click.echo(rendering.as_json(rows))
    elif rows:
        rendering.stdout_console().print(rendering.as_table(list(rows[0]), rows))
    else:
        click.echo(f"No {kind}: {ADDED_BY[kind]}.", err=True)


@graph.command()
@click.argument("kind", type=click.Choice(NAMED))
@click.argument("identifier", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_context
def remove(ctx: click.Context, kind: Named, identifier: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove a model or dataset with its results, runs, statistics, variants and scores."""
    with connect(settings_from_environment()) as runner:
        own = upkeep.remove(runner, kind, identifier, dry_run=True)
        if not (dry_run or yes):
            if not at_terminal():
                raise click.UsageError(
                    f"This removes {_with(own)}. Pass --yes to confirm without a terminal."
                )
            if not click.confirm(f"Remove {kind} {identifier!r} with {_with(own)}?", err=True):
                click.echo("Nothing was removed.", err=True)
                ctx.exit(DECLINED_EXIT)
        if not dry_run:
            own = upkeep.remove(runner, kind, identifier)
    done = "Would remove" if dry_run else "Removed"
    show_fact(
        {"removed": identifier, "dry_run": dry_run, **asdict(own)},
        f"{done} {kind} {identifier!r} with {_with(own)}.",
        as_json,
    )


@graph.command()
@click.argument("kind", type=click.Choice(NAMED))
@click.argument("old")
@click.argument("new")
@click.option("--dry-run", is_flag=True, help="Show what would be renamed, and rename nothing.")
@json_option
def rename(kind: Named, old: str, new: str, dry_run: bool, as_json: bool) -> None:
    """Rename a model or dataset; everything that belongs to it moves along."""
    with connect(settings_from_environment()) as runner:
        own = upkeep.rename(runner, kind, old, new, dry_run=dry_run)
    text = f"{'Would rename' if dry_run else 'Renamed'} {kind} {old!r} to {new!r}, with {_with(own)}."
    if own.runs:
        text += " Runs keep their ids, so `ingest plan` plans them again under the new name."
    show_fact({"renamed": old, "to": new, "dry_run": dry_run, **asdict(own)}, text, as_json)


@graph.command()
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check for missing pairs, orphans, mixed extractors and moved files; exit with 1 if there are any."""
    with connect(settings_from_environment()) as runner:
        found = upkeep.check(runner)
    lines = [
        *(f"not compared: {one} and {other} (extractor {by})" for one, other, by in found.missing_pairs),
        *(f"nothing recorded: {kind} {name}" for kind, name in found.orphans),
        *(
            f"mixed extractors: {name} on {of}: {', '.join(all_)}"
            for name, of, all_ in found.mixed_extractors
        ),
        *(f"moved: {kind} {name} is not at {place}" for kind, name, place in found.moved),
    ]
    show_fact(asdict(found), "\n".join(lines) or "No problems found.", as_json)
    if not found.sound:
        ctx.exit(FOUND_EXIT)


def _with(own: Belongings) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in own.nonzero().items()) or "nothing else"


@graph.command(name="open")
@click.option("--launch/--no-launch", default=True, help="Open a web browser, if there is one.")
@json_option
def open_browser(launch: bool, as_json: bool) -> None:
    """Open Neo4j Browser on the graph, with the server, the user and a first query filled in.

    Starts the managed Neo4j if it is not running, and refreshes what Browser shows. On a terminal the
    password is printed; Browser remembers it. Run the statement in the editor to see which model is best on
    which dataset; the ones below it are comments to try next.
    """
    from matchgraph.graphdb.browser import address, statements

    settings = settings_from_environment()
    with connect(settings) as runner:
        refreshed(runner)
        text = statements(runner)
    found = status_of(settings)
    page = address(found.browser or "", found.uri or "", found.user, settings.database, text)
    launched = launch and has_display() and webbrowser.open(page)
    fact = {key: getattr(found, key) for key in ("browser", "uri", "user", "password_file")}
    if as_json:
        click.echo(json.dumps({**fact, "page": page, "launched": launched}))
        return
    password = "the one in MATCHGRAPH_NEO4J_PASSWORD"
    if found.password_file:
        # On a terminal only, for a pipe may end in a log.
        shown = sys.stdout.isatty()
        password = Path(found.password_file).read_text().strip() if shown else f"in {found.password_file}"
    click.echo(f"{page}\nUser: {found.user}\nPassword: {password}")


@graph.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_context
def reset(ctx: click.Context, yes: bool, as_json: bool) -> None:
    """Delete the whole graph; other applications' nodes in the same database stay.

    The files of the managed Neo4j are deleted as well, so that the next start sets up a new database, unless
    other applications' nodes are in it. A database that does not start is moved aside. Routers fitted on the
    graph are deleted too.
    """
    from matchgraph.routing.store import RouterStore

    settings = settings_from_environment()
    routers = RouterStore(settings.home)
    place = settings.home if settings.managed else settings.uri
    if not yes:
        if not at_terminal():
            raise click.UsageError("This deletes the whole graph. Pass --yes to confirm without a terminal.")
        too = f", and the routers fitted in {settings.home}" if routers.metrics() else ""
        if not click.confirm(f"Delete the whole graph in {place}{too}?", err=True):
            click.echo("Nothing was deleted.", err=True)
            ctx.exit(DECLINED_EXIT)
    from matchgraph.graphdb.reset import reset as reset_graph

    done, fitted = reset_graph(settings), routers.metrics()
    routers.clear()
    text = f"The graph in {done.place} is empty."
    if fitted:
        text += f" The routers fitted on it ({', '.join(fitted)}) were deleted."
    if done.foreign_nodes:
        nodes, relationships = (
            count(done.foreign_nodes, "node"),
            count(done.foreign_relationships, "relationship"),
        )
        text += f" Other applications' {nodes} and {relationships} in the same database were left alone."
    if done.moved_to:
        text += f" Its database did not start; what was in it is kept in {done.moved_to}."
    fact = {
        "reset": done.place,
        "foreign_nodes": done.foreign_nodes,
        "foreign_relationships": done.foreign_relationships,
        "moved_to": str(done.moved_to) if done.moved_to else None,
        "routers": fitted,
    }
    show_fact(fact, text, as_json)


@graph.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def backup(file: Path, as_json: bool) -> None:
    """Write the whole managed database to FILE, as a Neo4j dump; the server is stopped in the meantime."""
    from matchgraph.graphdb.server.backup import backup as backup_database

    size = backup_database(managed_server("back up"), file)
    show_fact({"backup": str(file), "bytes": size}, f"{file}: {size:,} bytes.", as_json)


@graph.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_context
def restore(ctx: click.Context, file: Path, yes: bool, as_json: bool) -> None:
    """Replace the managed database with the one that `graph backup` wrote to FILE.

    The current database is kept until the server has started with the other one. The server is stopped in
    the meantime.
    """
    from matchgraph.graphdb.server.backup import restore as restore_database

    server = managed_server("restore")
    if server.has_database() and not yes:
        if not at_terminal():
            raise click.UsageError("This replaces the whole graph. Pass --yes to confirm without a terminal.")
        if not click.confirm(f"Replace the whole graph in {server.folder.parent}?", err=True):
            click.echo("Nothing was replaced.", err=True)
            ctx.exit(DECLINED_EXIT)
    restore_database(server, file)
    show_fact({"restored": str(file)}, f"Restored the graph from {file}.", as_json)


graph.add_command(export)


def managed_server(action: str) -> ManagedServer:
    """The managed server of the environment's settings.

    Raises:
        ServerNotManaged: the settings name a Neo4j of the user's own.
    """
    settings = settings_from_environment()
    if not settings.managed:
        raise ServerNotManaged(
            f"Cannot {action} the Neo4j at {settings.uri}: matchgraph does not manage it. Unset "
            "MATCHGRAPH_NEO4J_URI to use the managed one."
        )
    return ManagedServer(settings.home)


def at_terminal() -> bool:
    """Whether a user can be asked for confirmation."""
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
