"""`matchgraph query`: explore the graph with named queries or with any reading Cypher statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import ParameterInvalid, QueryNotFound
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

_CLICK_TYPES = {"integer": click.INT, "float": click.FLOAT, "boolean": click.BOOL}


def _output_options(command: Any) -> Any:
    as_json = click.option("--json", "as_json", is_flag=True, help="Print rows as a JSON array.")
    as_csv = click.option("--csv", "as_csv", is_flag=True, help="Print rows as CSV.")
    return as_json(as_csv(command))


class NamedQueries(click.Group):
    """A group with one command for each file under `cypher/explore`, made when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(queries.names(queries.EXPLORE))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        try:
            return _command(queries.describe(name))
        except QueryNotFound:
            return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Looking the name up first makes an unknown one our error, which names the nearest.
        queries.describe(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Queries"):
            formatter.write_dl([(info.name, info.title) for info in queries.catalogue()])


@click.group(cls=NamedQueries, invoke_without_command=True)
@click.option("--cypher", metavar="STATEMENT", help="Run this statement; statements that write are refused.")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help='Value of $NAME in the statement, as JSON (3, true, [1,2], "3") or else as text. Repeatable.',
)
@_output_options
@click.pass_context
def query(
    ctx: click.Context, cypher: str | None, parameters: tuple[str, ...], as_json: bool, as_csv: bool
) -> None:
    """Explore the graph.

    Without arguments, list the named queries. With a query's name, run it; its --help describes it. With
    --cypher, run any statement that only reads.
    """
    _check_output(as_json, as_csv)
    if ctx.invoked_subcommand is not None:
        if cypher is not None:
            raise click.UsageError("Give a query's name or --cypher, not both.")
        return
    if cypher is None:
        if parameters:
            raise click.UsageError("--param goes with --cypher; a named query has options of its own.")
        _print(*_listing(), as_json, as_csv)
        return
    values = _parsed_parameters(parameters)
    with _connect() as runner:
        _print(*runner.read_only(cypher, values), as_json, as_csv)


def _command(info: queries.QueryInfo) -> click.Command:
    options = [
        click.Option(
            [f"--{parameter.name.replace('_', '-')}", parameter.name],
            type=_CLICK_TYPES.get(parameter.type, click.STRING),
            # An explicit default of None would count as a value given.
            **(
                {"required": True}
                if parameter.required
                else {"default": parameter.default, "show_default": True}
            ),
            help=parameter.help[0].upper() + parameter.help[1:] + ".",
        )
        for parameter in info.parameters
    ]

    @click.pass_context
    def callback(ctx: click.Context, /, as_json: bool, as_csv: bool, **given: Any) -> None:
        # --json is understood on either side of the query's name.
        outer = ctx.parent.params if ctx.parent else {}
        as_json, as_csv = as_json or outer.get("as_json", False), as_csv or outer.get("as_csv", False)
        _check_output(as_json, as_csv)
        from matchgraph.graphdb.explore import explore

        with _connect() as runner:
            columns, rows = explore(runner, info.name, given)
            _print(columns, rows, as_json, as_csv, "" if rows else _why_empty(runner, info, given))

    command = click.Command(info.name, params=list(options), callback=callback)
    command.help = f"{info.title}.\n\n{info.description}"
    command.short_help = info.title
    for decorated in reversed(getattr(_output_options(lambda: None), "__click_params__", [])):
        command.params.append(decorated)
    return command


def _connect() -> Runner:
    from matchgraph.graphdb.connection import connect

    return connect()


def _listing() -> tuple[list[str], list[dict[str, Any]]]:
    rows = [
        {
            "query": info.name,
            "answers": info.title,
            "options": " ".join(
                f"--{p.name}" if p.required else f"[--{p.name} {p.default}]" for p in info.parameters
            ),
        }
        for info in queries.catalogue()
    ]
    return ["query", "answers", "options"], rows


def _parsed_parameters(given: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterInvalid(f"--param {item!r} is not NAME=VALUE.")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
        except (ValueError, RecursionError) as error:
            raise ParameterInvalid(
                f"--param {name} cannot be read as JSON: {error}. Put it in double quotes to pass it as text."
            ) from error
    return values


def _check_output(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise click.UsageError("Choose one of --json and --csv.")


def _why_empty(runner: Runner, info: queries.QueryInfo, given: Mapping[str, Any]) -> str:
    """Why a named query may have found nothing, and what to do; empty where that is not known."""
    from matchgraph.graphdb.upkeep import listed

    values = {row["metric"]: row for row in listed(runner, "metrics")}
    if not any(row["results"] or row["similarities"] for row in values.values()):
        return " The graph has no results: `matchgraph ingest minizoo` loads those of the small zoo."
    for parameter in info.parameters:
        if parameter.type == "metric":
            kind = "similarities" if parameter.name == "similarity" else "results"
            asked = given[parameter.name]
            others = [name for name, row in values.items() if row[kind] and name != asked]
            if not (asked in values and values[asked][kind]):
                has = f"but by {some(others)}: give --{parameter.name}" if others else "nor by another metric"
                return f" The graph has no {kind} by {asked}, {has}."
    return ""


def _print(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], as_json: bool, as_csv: bool, why_empty: str = ""
) -> None:
    from matchgraph.cli import rendering

    if as_json:
        click.echo(rendering.as_json(rows))
    elif as_csv:
        click.echo(rendering.as_csv(columns, rows), nl=False)
    elif rows:
        rendering.stdout_console().print(rendering.for_reading(columns, rows))
    else:
        click.echo(f"No rows.{why_empty}", err=True)
