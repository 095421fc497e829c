"""`matchgraph export`, `ingest records` and `ingest minizoo`: whole graphs as folders of tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import click

from matchgraph.cli.display import count
from matchgraph.cli.options import GivenPath, json_option, opened_graph, path_argument

without_option = click.option(
    "--without",
    multiple=True,
    metavar="DATASET",
    help="Leave a dataset out, with all that is known of it: to predict for it as for a new one. Repeatable.",
)


@click.command()
@click.argument("folder", type=GivenPath())
@json_option
def export(folder: Path, as_json: bool) -> None:
    """Write the whole graph to FOLDER, as tables that `ingest records` loads again.

    Everything that was measured is there with how it was measured, and no weights, images or paths of this
    machine.
    """
    from matchgraph.ingest.tables.records import write_records

    with opened_graph() as (graph, runner):
        counts = write_records(graph, runner, folder)
    if as_json:
        click.echo(json.dumps(counts))
        return
    for name, rows in counts.items():
        click.echo(f"{folder / name}: {count(rows, 'row')}")


@click.command()
@path_argument("FOLDER")
@without_option
@json_option
def records(path: Path, without: Sequence[str], as_json: bool) -> None:
    """Load a folder of records: models, datasets, similarities, results, runs, and scored prompts, that
    `export` wrote.

    What the graph has already stays, and what both have is as in the records then.
    """
    load_records(path, without, as_json)


@click.command()
@without_option
@json_option
def minizoo(without: Sequence[str], as_json: bool) -> None:
    """Load the records that come with matchgraph: ten tiny models, 32 datasets, 320 measured fine-tunings."""
    with resources.as_file(resources.files("matchgraph.minizoo") / "records") as folder:
        load_records(folder, without, as_json)


def load_records(folder: Path, without: Sequence[str], as_json: bool) -> None:
    """Check a folder of records whole, save it, and say what it held."""
    from matchgraph.ingest.tables.records import read_records, save_records

    with opened_graph() as (graph, runner):
        found = read_records(folder, graph.metric).without(without)
        save_records(graph, runner, found)
    counts = {
        "models": len(found.models),
        "datasets": len(found.datasets),
        "similarities": len(found.similar),
        "results": len(found.results),
        "runs": len(found.runs),
    }
    level = found.prompt_level
    of_prompts = {
        "prompts": len(level.prompts),
        "variants": len(level.variants),
        "scores": len(level.scores),
    }
    if as_json:
        click.echo(json.dumps(counts | of_prompts))
        return
    if level.prompts or level.variants:
        counts |= of_prompts
    click.echo(f"In the graph: {', '.join(f'{rows} {what}' for what, rows in counts.items())}.")


COMMANDS = (records, minizoo)
