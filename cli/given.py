"""`matchgraph route scores` and `mix`: scores of one's own, images to score, and mixtures of metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.options import (
    FiniteRange,
    data_folder,
    device_option,
    encoder_option,
    json_option,
    opened_graph,
    scorer_options,
    seed_option,
)
from matchgraph.graphdb.prompt_models import SPLITS, UNITS
from matchgraph.training.measure.scorers import SCORE_METRICS


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@encoder_option
@click.option(
    "--metric",
    help="Name of the metric, if no column has it; by default the name of the column. Larger is better. For "
    f"images, the score to compute ({', '.join(SCORE_METRICS)}); by default clip_score.",
)
@click.option(
    "--cost",
    "costs",
    multiple=True,
    metavar="CANDIDATE=COST",
    help="Cost per image of a candidate, if the file does not have it or has several. Repeatable.",
)
@click.option(
    "--unit",
    type=click.Choice(UNITS),
    help="Unit of the costs, if the file does not have it, or which of its columns of costs to read.",
)
@scorer_options
@seed_option("the split of new prompts")
@device_option
@json_option
def scores(
    path: Path,
    costs: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Add scores of your own: ratings by people, or any metric, for any candidates.

    FILE is CSV, JSON Lines, JSON or Parquet. Long form: columns prompt, candidate (or model), value (or
    score, rating), and optionally metric and cost (or tflop, seconds, usd). Wide form: prompt, and a column
    per candidate. Several values of one candidate on one prompt are averaged. Candidates need no pipeline.
    Instead of values, a column image may hold the paths of images that the candidates drew, to be scored.
    """
    from matchgraph.progress import progress_bar
    from matchgraph.routing.given import add_scores

    with opened_graph() as (_, runner), progress_bar() as progress:
        added = add_scores(
            runner,
            path,
            costs=dict(number_of(cost, "--cost CANDIDATE=COST") for cost in costs),
            on_progress=progress,
            **options,
        )
    for note in added.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(added)))
        return
    values = ", ".join(f"{count} values of {name}" for name, count in added.values.items())
    new = ", ".join(f"{added.splits[name]} for {name}" for name in SPLITS if added.splits.get(name))
    click.echo(
        f"{values} for {len(added.candidates)} candidates on {added.prompts} prompts; {added.new_prompts} of "
        f"these are new{': ' + new if new else ''}."
    )


@click.command()
@click.argument("name")
@click.option(
    "--of",
    "parts",
    multiple=True,
    required=True,
    metavar="METRIC=WEIGHT",
    help="A metric that the graph has scores of, and its weight; only ratios of weights matter. Repeatable.",
)
@json_option
def mix(name: str, parts: tuple[str, ...], as_json: bool) -> None:
    """Define a mixture of metrics as a metric NAME of its own, to route by and to use at all levels.

    Each metric is standardised by the mean and the standard deviation of its scores on the training prompts.
    Run the same command again after scoring more prompts.
    """
    from matchgraph.routing.mixing import mix as mix_metrics

    weights = dict(number_of(part, "--of METRIC=WEIGHT") for part in parts)
    with opened_graph() as (_, runner):
        mixture, count = mix_metrics(runner, data_folder(), name, weights)
    if as_json:
        click.echo(json.dumps({**asdict(mixture), "scores": count}))
        return
    for part in mixture.parts:
        click.echo(f"{part.weight:.3g} x ({part.metric} - {part.mean:.4g}) / {part.std:.4g}")
    click.echo(f"{count} values of {name}. Next: `matchgraph route fit --metric {name}`.")


def number_of(text: str, form: str) -> tuple[str, float]:
    """NAME=NUMBER, as an option takes it, as a pair.

    Args:
        text: what was given.
        form: the option and what it takes, for the message.
    """
    option, _, wanted = form.partition(" ")
    name, equals, number = text.rpartition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not {wanted}.", param_hint=option)
    return name, FiniteRange(0, min_open=True).convert(number, None, None)
