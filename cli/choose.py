"""`matchgraph choose`: one graph, three levels; see `matchgraph.levels`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.options import (
    caption_column_option,
    device_option,
    gpu_memory_option,
    json_option,
    opened_graph,
    out_option,
    probe_option,
    prompts_option,
    seed_option,
)
from matchgraph.cli.route import budget_option, router_store


@click.command()
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images to choose the model for.",
)
@caption_column_option
@prompts_option("Prompts to draw, one per line.", required=True)
@budget_option("Average cost of an image.", required=True)
@probe_option(required=True)
@click.option("--metric", default="clip_score", show_default=True, help="Quality metric of a fitted router.")
@click.option(
    "--models",
    "count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of best models for the images to choose from.",
)
@click.option(
    "--adapter",
    "adapters",
    metavar="MODEL=FILE",
    multiple=True,
    callback=lambda _context, _parameter, given: adapters_of(given),
    help="Adapter of a model that was fine-tuned on the images, used if that model is chosen. Repeatable.",
)
@out_option("Folder for the images of the last level.")
@seed_option("the noise and the bootstrap")
@device_option
@gpu_memory_option
@json_option
def choose(
    images: Path,
    caption_column: str | None,
    prompts_file: Path,
    budget_tflop: float,
    probe: str,
    metric: str,
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose model, candidate and teacher for images and prompts, draw, and report the gain of each level.

    Needs a graph with results, scored prompts, a fitted router and, for the last level, tuned students. A
    model is chosen for its predicted quality after fine-tuning: fine-tune it (`matchgraph ingest run`) and
    pass its adapter with --adapter. The router uses the scores of the model without the adapter.
    """
    from matchgraph.levels import choose as choose_levels
    from matchgraph.levels import models_for
    from matchgraph.progress import progress_bar
    from matchgraph.training.images import DatasetFolder

    folder = DatasetFolder(images, caption_column)

    def show_failure(prompt: str, failure: str) -> None:
        click.echo(f"{prompt!r}: {failure}", err=True)

    with opened_graph() as (graph, runner):
        with progress_bar() as progress:
            models, notes = models_for(graph, folder, probe, count, on_progress=progress)
        for note in notes:
            click.echo(f"Note: {note}", err=True)
        levels = choose_levels(
            runner,
            router_store(),
            folder,
            prompts_file,
            models,
            budget_tflop,
            probe,
            metric=metric,
            on_failure=show_failure,
            **options,
        )
    if as_json:
        click.echo(
            json.dumps(
                {"models": models, "notes": list(notes), "levels": [asdict(level) for level in levels]}
            )
        )
        return
    click.echo(f"For {images}: {', '.join(models)}.")
    for level in levels:
        value, low, high = level.over_one_choice
        click.echo(
            f"{level.name}: {metric} {level.quality:.4f} ({level.expected_quality:.4f} expected, "
            f"{value:+.4f} [{low:+.4f}, {high:+.4f}] over one choice) for {level.tflop:.4g} TFLOP "
            f"({level.expected_tflop:.4g} expected), distance to the images {level.distance:.2f}, "
            f"{100 * level.by_teacher:.0f} % by a teacher; {most(level.candidates)}."
        )


def adapters_of(given: Sequence[str]) -> dict[str, Path]:
    """Adapters by model, from `MODEL=FILE`.

    Raises:
        BadParameter: one is of another form, its file is not there, or a model has two.
    """
    found: dict[str, Path] = {}
    for each in given:
        model, separator, file = each.partition("=")
        if not (model and separator and file):
            raise click.BadParameter(f"{each!r} is not of the form MODEL=FILE.")
        if not Path(file).exists():
            raise click.BadParameter(f"The adapter of {model}, {file}, does not exist.")
        if model in found:
            raise click.BadParameter(f"{model} has two adapters: give one.")
        found[model] = Path(file)
    return found


def most(candidates: Sequence[str]) -> str:
    """The three candidates that drew the most prompts."""
    common = Counter(candidates).most_common(3)
    return ", ".join(f"{100 * count / len(candidates):.0f} % {name}" for name, count in common)
