"""`matchgraph ingest`: add models, datasets, results and fine-tuning runs to the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.groups import SuggestingGroup
from matchgraph.cli.options import (
    GivenPath,
    caption_column_option,
    configuration,
    direction_option,
    extractor_option,
    json_option,
    metric_option,
    neighbours_option,
    opened_graph,
    path_argument,
    probe_option,
    replace_option,
    settings_options,
    skip_bad_option,
    text_option,
)
from matchgraph.cli.records import COMMANDS as RECORD_COMMANDS
from matchgraph.cli.runs import COMMANDS as RUN_COMMANDS
from matchgraph.ingest.errors import Problem
from matchgraph.ingest.tables.facts import FactsConfig
from matchgraph.progress import progress_bar
from matchgraph.words import count


@click.group(cls=SuggestingGroup)
def ingest() -> None:
    """Add models, datasets, results and fine-tuning runs to the graph.

    An input with problems is rejected as a whole, and each problem is reported with its line; --skip-bad
    writes the rest. Repeating a command leaves the graph as it was after the first time.
    """


for command in (*RUN_COMMANDS, *RECORD_COMMANDS):
    ingest.add_command(command)


@ingest.command()
@path_argument("FILE.csv|FOLDER|FILE.safetensors|OWNER/NAME")
@click.option("--id", "model_id", metavar="ID", help="Id of a single pipeline, instead of its folder's name.")
@click.option(
    "--config",
    metavar="FOLDER|MODEL",
    help="For a checkpoint in a single file: a pipeline folder, a model of the graph or OWNER/NAME of the "
    "same architecture, to take configurations, tokenizers and missing components from.",
)
@replace_option("model")
@settings_options(FactsConfig)
@text_option
@skip_bad_option
@json_option
def models(
    path: Path,
    model_id: str | None,
    config: str | None,
    replace_content: bool,
    text: Sequence[str],
    skip_bad: bool,
    as_json: bool,
    **measuring: Any,
) -> None:
    """Add models: a table of attributes, or diffusers pipeline folders.

    The table has a column `model` (or `id`); every other column is an attribute. A folder is one pipeline
    (model_index.json and its components' configs) or contains several. OWNER/NAME is a pipeline on the
    Hugging Face hub, taken from the hub's local cache or fetched into it. A single .safetensors file, as from
    Civitai, is converted once into a pipeline folder in the data folder; nothing is fetched for it. `params`
    (of the denoiser) and `tflop` (the pipeline's default call for one image of 512 pixels, as in the paper)
    come from the configs alone; if the weights are there, `throughput` is measured. Unchanged folders are not
    measured again.
    """
    from matchgraph.ingest.workflow import ingest_models

    facts = configuration(FactsConfig, measuring)
    with opened_graph() as (graph, _), progress_bar() as on_progress:
        report = ingest_models(
            graph,
            path,
            text=text,
            skip_bad=skip_bad,
            model_id=model_id,
            replace_content=replace_content,
            facts=facts,
            config=config,
            on_progress=on_progress,
        )
    measured = {name: dict(figures) for name, figures in report.measured.items()}
    show(
        "\n".join(
            [f"{count(len(report.written), 'model')} in the graph.", *map(figures_line, measured.items())]
        ),
        {"models": list(report.written), "notes": list(report.notes), "measured": measured},
        report.skipped,
        as_json,
        report.notes,
    )


def figures_line(entry: tuple[str, Mapping[str, float]]) -> str:
    """What was measured of one model, in one line."""
    name, figures = entry
    words = [f"{figures['params']:,} parameters"] if "params" in figures else []
    words += [f"{figures['tflop']:.4g} TFLOP"] if "tflop" in figures else []
    words += [f"{figures['throughput']:.4g} images/s"] if "throughput" in figures else []
    return f"{name}: {', '.join(words) or 'nothing measured'}"


@ingest.command()
@click.argument("sources", metavar="FILE.csv|FOLDER|OWNER/NAME...", nargs=-1, required=True, type=GivenPath())
@probe_option()
@extractor_option
@metric_option
@click.option(
    "--embedding",
    default="clip",
    show_default=True,
    metavar="EXTRACTOR",
    help="Extractor whose mean features become the datasets' embedding.",
)
@click.option("--id", "dataset_id", metavar="ID", help="Id of a single image folder, instead of its name.")
@caption_column_option
@neighbours_option
@replace_option("dataset")
@text_option
@skip_bad_option
@json_option
def datasets(sources: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Add datasets: tables with embeddings, or image folders.

    A table has a column `dataset` (or `id`), the mean embedding in columns e0..eN, and any attributes. An
    image folder contains images, with captions in metadata.jsonl or metadata.csv (file_name and text, caption
    or prompt), or in a .txt, .caption or .json file next to each. Subfolders train, validation and test are
    the splits of one dataset, and models are fine-tuned on train only; subfolders such as `10_sks dog` are
    concepts of one dataset, as for kohya's scripts; other subfolders are datasets of their own. Parquet,
    Arrow (save_to_disk) and WebDataset files are unpacked once into the data folder; OWNER/NAME is a dataset
    in the hub's local cache. Images need --probe. Each dataset is compared with its nearest ones by every
    --metric. Paths are processed in order; the command stops at the first one with problems.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.workflow import ingest_datasets

    home = settings_from_environment().home
    with opened_graph() as (graph, _), progress_bar() as on_progress:
        report = ingest_datasets(graph, sources, home=home, on_progress=on_progress, **options)
    written, unchanged = list(report.written), list(report.unchanged)
    images = report.images
    counted = f"\n{count(images, 'image')}, {report.captioned} captioned." if images else ""
    show(
        f"{count(len(written), 'dataset')} written, {len(unchanged)} unchanged, "
        f"{count(report.similarities, 'similarity', 'similarities')} measured.{counted}",
        {
            "datasets": written,
            "unchanged": unchanged,
            "similarities": report.similarities,
            "images": images,
            "captioned": report.captioned,
            "notes": list(report.notes),
        },
        report.skipped,
        as_json,
        report.notes,
    )


@ingest.command()
@path_argument("FILE.csv|FILE.json")
@direction_option
@click.option("--model-column", metavar="COLUMN", help="In an export: column with the models' ids.")
@click.option("--dataset-column", metavar="COLUMN", help="In an export: column with the datasets' ids.")
@click.option(
    "--metric-column",
    "metric_columns",
    multiple=True,
    metavar="COLUMN[=METRIC]",
    help="In an export: column with a metric's values; by default those of metrics that the graph knows. "
    "Repeatable.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["error", "mean", "first", "last", "best"]),
    default="error",
    show_default=True,
    help="Which value to use where a model has several for one dataset, metric and stage.",
)
@skip_bad_option
@json_option
def results(
    path: Path,
    model_column: str | None,
    dataset_column: str | None,
    metric_columns: Sequence[str],
    as_json: bool,
    **options: Any,
) -> None:
    """Add recorded results: columns model, dataset, metric, value.

    Optional columns: stage (initial or finetuned), n_real, n_gen, standard_error, bias, seeds, run,
    extractor, extractor_name, resize, version, std, training_seconds, seconds_per_image. An export of runs by
    MLflow (`search_runs`) or W&B, as CSV or JSON, is read as well: by default the parameters `model` and
    `dataset`, and the metrics that the graph knows.
    """
    from matchgraph.ingest.tables.trackers import TrackedColumns
    from matchgraph.ingest.workflow import ingest_results

    options["columns"] = TrackedColumns(model_column, dataset_column, tuple(metric_columns))
    with opened_graph() as (graph, _):
        reading = ingest_results(graph, path, **options)
    facts = {
        "results": len(reading.results),
        "repeats": reading.repeats,
        "new_metrics": [metric.name for metric in reading.new_metrics],
    }
    merged = f" ({count(reading.repeats, 'repeated row')} merged)" if reading.repeats else ""
    facts["notes"] = [*reading.notes]
    new = "".join(
        f" New metric {metric.name}: {'larger' if metric.larger_is_better else 'smaller'} is better."
        for metric in reading.new_metrics
    )
    line = f"{count(len(reading.results), 'result')} in the graph{merged}.{new}"
    show(line, facts, reading.skipped, as_json, reading.notes)


@ingest.command()
@path_argument("FILE.csv")
@direction_option
@skip_bad_option
@json_option
def similarities(path: Path, as_json: bool, **options: Any) -> None:
    """Add recorded similarities of datasets: columns dataset, other, metric, value.

    A pair has no order; if both directions are given, they must agree. Optional columns: n_real, extractor,
    resize.
    """
    from matchgraph.ingest.workflow import ingest_similarities

    with opened_graph() as (graph, _):
        reading = ingest_similarities(graph, path, **options)
    facts = {
        "similarities": len(reading.similar),
        "repeats": reading.repeats,
        "self_pairs": reading.ignored,
        "new_metrics": [metric.name for metric in reading.new_metrics],
    }
    line = f"{count(len(reading.similar), 'similarity', 'similarities')} in the graph."
    show(line, facts, reading.skipped, as_json)


def show(
    line: str, facts: dict[str, Any], skipped: Sequence[Problem], as_json: bool, notes: Sequence[str] = ()
) -> None:
    """Print an answer on stdout, notes and skipped input on stderr."""
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    for problem in skipped:
        click.echo(f"Skipped: {problem}", err=True)
    if as_json:
        facts["skipped"] = [problem.to_dict() for problem in skipped]
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        click.echo(line)
