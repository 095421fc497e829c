"""`graph export`, `ingest records`, `ingest minizoo` and `ingest published`: what comes in tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matchgraph.cli.display import show_time_left
from matchgraph.cli.options import GivenPath, json_option, opened_graph, path_argument
from matchgraph.words import count

if TYPE_CHECKING:
    from matchgraph.ingest.workflow import RecordCounts

without_option = click.option(
    "--without",
    multiple=True,
    metavar="DATASET",
    help="Leave out a dataset and its results, to predict for it as for a new one. Repeatable.",
)


@click.command()
@click.argument("folder", type=GivenPath())
@click.option(
    "--shareable",
    is_flag=True,
    help="Write records for another machine: without folders, throughput, unfinished runs, hosts and times.",
)
@json_option
def export(folder: Path, shareable: bool, as_json: bool) -> None:
    """Write the whole graph to FOLDER, as tables that `ingest records` loads again.

    Loading them gives the same graph, property by property. What a table cannot hold, such as lists, goes to
    rest.jsonl. Weights and images are not copied.
    """
    from matchgraph.ingest.workflow import export_records

    with opened_graph() as (graph, _):
        counts = export_records(graph, folder, shareable=shareable)
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
    """Load a folder of records that `graph export` wrote: models, datasets, similarities, results, runs, and
    scored prompts.

    The graph's other content stays, including properties that the records do not have; where both have an
    entry, the one in the records wins. Records of other images or weights under an id of the graph are
    refused.
    """
    from matchgraph.ingest.workflow import load_records

    with opened_graph() as (graph, _):
        found = load_records(graph, path, without=without, on_progress=show_time_left("rows"))
    show_counts(found, as_json)


@click.command()
@without_option
@json_option
def minizoo(without: Sequence[str], as_json: bool) -> None:
    """Load the records that come with matchgraph: ten tiny models, 32 datasets, 320 measured runs."""
    from matchgraph.ingest.workflow import load_minizoo

    with opened_graph() as (graph, _):
        found = load_minizoo(graph, without=without, on_progress=show_time_left("rows"))
    show_counts(found, as_json)


@click.command()
@click.argument("names", metavar="[OWNER/NAME]...", nargs=-1)
@json_option
def published(names: Sequence[str], as_json: bool) -> None:
    """Add published facts about well-known models: parameters, TFLOP, licence, memory of runs, average rank.

    Each fact is stored with its source and the date it was read; facts without a source are left out. Without
    names, all models of the table are added: the ten of Match & Choose and others. A model that the graph has
    under the same name gets the facts in addition to what was read from its folder. `predict` starts from
    them as long as the graph has no results. To fine-tune a model, add its folder with
    `ingest models OWNER/NAME` or `ingest models FOLDER --id OWNER/NAME`.
    """
    from matchgraph.ingest.workflow import ingest_published

    with opened_graph() as (graph, _):
        report = ingest_published(graph, names)
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps({"models": dict(report.models), "notes": list(report.notes)}))
    else:
        click.echo(f"Added published facts of {count(len(report.models), 'model')}.")


def show_counts(found: RecordCounts, as_json: bool) -> None:
    """Print how many rows of each kind were loaded; those of prompts only where there are any."""
    counts = found.to_dict()
    if as_json:
        click.echo(json.dumps(counts))
        return
    if not (found.prompts or found.variants):
        counts = {
            name: rows for name, rows in counts.items() if name not in {"prompts", "variants", "scores"}
        }
    click.echo(f"In the graph: {', '.join(f'{rows} {what}' for what, rows in counts.items())}.")


COMMANDS = (records, minizoo, published)
