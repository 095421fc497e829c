"""`matchgraph report`: the paper's evaluation on the graph, as a page, tables and data."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.display import progress_bar
from matchgraph.predictor.config import EMBEDDERS
from matchgraph.progress import Progress

if TYPE_CHECKING:
    from matchgraph.report.assembly import Report

# `report.assembly.STUDIES`, named here so that `--help` loads none of it.
STUDIES = (
    "selection",
    "calibration",
    "landscape",
    "inputs",
    "sparsity",
    "metrics",
    "probes",
    "rankers",
    "importances",
    "noise",
    "time",
)
DEFAULT_SEEDS = 3
DEFAULT_JOBS = 2


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where to: index.html, report.json and a CSV file for each table. What is computed is kept there as "
    "well, so that a report that was broken off goes on.",
)
@click.option("--metric", default="clip_fid", show_default=True, help="Metric of the results.")
@click.option("--similarity", help="Metric of the datasets' similarities, where there are several.")
@click.option(
    "--measured-with",
    "measured_with",
    multiple=True,
    metavar="HASH",
    help="Keep to values of this extractor, where there are several of one metric. Repeatable.",
)
@click.option(
    "--embedder",
    type=click.Choice(EMBEDDERS),
    default="gds",
    show_default=True,
    help="node2vec in Graph Data Science, or node2vec+ here.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=DEFAULT_SEEDS,
    show_default=True,
    help="Seeds of Tables 3 and 4; the other studies take a third of them, rounded up.",
)
@click.option(
    "--only",
    "only",
    type=click.Choice(STUDIES),
    multiple=True,
    help="Only this study. Repeatable. Without it, all of them.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=DEFAULT_JOBS,
    show_default=True,
    help="Processes side by side.",
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
def report(out: Path, as_json: bool, **options: Any) -> None:
    """Repeat the paper's evaluation on the graph: every table and figure, as one page to read.

    Each dataset in turn is held out and the models are ranked for it from the others: by the default recipe
    and the paper's beside all baselines, with parts of the input, with fewer results, by other metrics,
    probes and rankers. Ctrl-C is safe: the same command goes on where it stopped.
    """
    began = time.perf_counter()
    with progress_bar() as progress:
        made = report_graph(out, options, progress)
    if as_json:
        click.echo(json.dumps(made.content, ensure_ascii=False, allow_nan=False))
        return
    for sentence in made.summary:
        click.echo(sentence)
    click.echo(f"Written to {made.page} in {time.perf_counter() - began:.0f} s.")


def report_graph(out: Path, options: dict[str, Any], progress: Progress) -> Report:
    """Make the report on the graph of the environment.

    Args:
        out: the folder.
        options: of the command.
        progress: told what is going on.

    Returns:
        The report.

    Raises:
        PredictorError, GraphError: what reading the graph or holding datasets out met.
    """
    from matchgraph.graphdb.connection import connect, settings_from_environment
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.predictor.workflow import load_snapshot
    from matchgraph.report.assembly import Plan, make_report
    from matchgraph.report.sources import read_sources

    settings = settings_from_environment()
    plan = Plan(
        options["seeds"], options["embedder"], options["only"], options["jobs"], command(out, options)
    )
    progress("connecting", 0, 0)
    with connect(settings) as runner:
        graph = MatchingGraph(runner)
        main = load_snapshot(graph, options["metric"], options["similarity"], options["measured_with"])
        progress("reading the graph", 0, 0)
        sources = read_sources(graph, runner, main, options["measured_with"])
        return make_report(sources, plan, out, runner=runner, settings=settings, progress=progress)


def command(out: Path, options: dict[str, Any]) -> str:
    """The command line that makes this report, as far as it decides what is in it."""
    words = ["matchgraph", "report", "--out", str(out), "--metric", options["metric"]]
    words += ["--similarity", options["similarity"]] if options["similarity"] else []
    words += [word for extractor in options["measured_with"] for word in ("--measured-with", extractor)]
    return shlex.join([*words, "--embedder", options["embedder"], "--seeds", str(options["seeds"])])
