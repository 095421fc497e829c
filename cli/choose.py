"""`matchgraph choose`: one graph, three levels; see `matchgraph.levels.choosing`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.display import show_work
from matchgraph.cli.options import (
    caption_column_option,
    device_option,
    gpu_memory_option,
    json_option,
    opened_graph,
    out_option,
    probe_option,
    prompts_option,
    scorer_options,
    seed_option,
)
from matchgraph.cli.route import budget_option, router_store


@click.command()
@scorer_options
@caption_column_option
@prompts_option("Prompts to draw, one per line.", required=True)
@budget_option("Average cost per image.", required=True)
@probe_option(required=True)
@click.option(
    "--metric",
    default="clip_score",
    show_default=True,
    help="Measure that all levels optimise: nearness to the images, a metric with a fitted router, or a "
    "mixture that `route mix` defined.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Also draw with fewer levels (six times in all) and report each gain.",
)
@click.option(
    "--models",
    "count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many of the best models to choose from.",
)
@click.option(
    "--adapter",
    "adapters",
    metavar="MODEL=FILE",
    multiple=True,
    callback=lambda _context, _parameter, given: adapters_of(given),
    help="Adapter of a model that was fine-tuned on the images, used if that model is chosen. Its student "
    "draws only with an adapter of its own; the teacher's file may fit it. Repeatable.",
)
@out_option("Folder for the images of the last level.")
@seed_option("the noise and the bootstrap")
@device_option
@gpu_memory_option
@json_option
def choose(
    weights: Mapping[str, Path | None],
    caption_column: str | None,
    prompts_file: Path,
    budget_tflop: float,
    probe: str,
    metric: str,
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose model, candidate and teacher for prompts by one measure, and draw them.

    Needs a graph with scored prompts, a router fitted for the measure and, for the last level, students tuned
    for it. For nearness, the model is the one predicted to be best for the images after fine-tuning:
    fine-tune it (`matchgraph ingest run`) and pass its adapter with --adapter; the router uses the scores of
    the pretrained model. For any other measure, it is the model with the best scores, and the distance to the
    images is only reported.
    """
    from matchgraph.levels.choosing import choose as choose_levels
    from matchgraph.levels.choosing import fewer, models_for
    from matchgraph.progress import progress_bar
    from matchgraph.training.images import DatasetFolder

    images = weights["nearness"]
    folder = None if images is None else DatasetFolder(images, caption_column)
    if metric == "nearness" and folder is None:
        raise click.UsageError("--metric nearness needs --images.")

    def show_failure(prompt: str, failure: str) -> None:
        click.echo(f"{prompt!r}: {failure}", err=True)

    with opened_graph() as (graph, runner):
        wanted: Sequence[str] | int = count
        notes: Sequence[str] = ()
        if metric == "nearness" and folder is not None:
            with progress_bar() as progress:
                wanted, notes = models_for(graph, folder, probe, count, on_progress=progress)
        for note in notes:
            click.echo(f"Note: {note}", err=True)
        models, levels = choose_levels(
            runner,
            router_store(),
            folder,
            prompts_file,
            wanted,
            budget_tflop,
            probe,
            metric=metric,
            weights=weights,
            on_work=show_work,
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
    click.echo(f"Models: {', '.join(models)}.")
    for level in levels:
        gain = ""
        if level.over_one_choice is not None:
            value, low, high = level.over_one_choice
            gain = f", {value:+.4f} [{low:+.4f}, {high:+.4f}] over a single choice"
        if level.over_fewer is not None and " + " in level.name:
            value, low, high = level.over_fewer
            gain += f", {value:+.4f} [{low:+.4f}, {high:+.4f}] over {fewer(level.name)}"
        away = "" if level.distance is None else f" distance to the images {level.distance:.2f},"
        click.echo(
            f"{level.name}: {metric} {level.quality:.4f} ({level.expected_quality:.4f} expected{gain}) for "
            f"{level.tflop:.4g} TFLOP ({level.expected_tflop:.4g} expected),{away} "
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
