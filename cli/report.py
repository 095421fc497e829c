"""`matchgraph report`: the paper's evaluation on the graph, as a page, tables and data."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.options import configuration, json_option, opened_graph, out_option, settings_options
from matchgraph.progress import progress_bar
from matchgraph.report.config import ReportConfig


@click.command()
@out_option(
    "Folder for index.html, report.json and a CSV file per table. Intermediate results are kept there too, "
    "so an interrupted report can be resumed.",
    required=True,
)
@settings_options(ReportConfig)
@json_option
def report(out: Path, as_json: bool, **options: Any) -> None:
    """Repeat the paper's evaluation on the graph: every table and figure, as one page to read.

    Each dataset in turn is held out and the models are ranked for it from the others: by the default recipe,
    the paper's and all baselines; with parts of the input; with fewer results; with other metrics, probes and
    rankers. After Ctrl-C the same command resumes.
    """
    from matchgraph.report.workflow import write_report

    started = time.perf_counter()
    config = configuration(ReportConfig, options)
    with progress_bar() as progress, opened_graph() as (graph, _):
        page = write_report(graph, out, config=config, on_progress=progress)
    if as_json:
        click.echo(json.dumps(page.content, ensure_ascii=False, allow_nan=False))
        return
    for sentence in page.summary:
        click.echo(sentence)
    click.echo(f"Written to {page.path} in {time.perf_counter() - started:.0f} s.")
