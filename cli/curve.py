"""`matchgraph route curve`: the gain of routing, as a page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from matchgraph.cli.display import show_time_left
from matchgraph.cli.options import opened_graph, out_option, probe_option, seed_option

# Prompts that are left out are named up to so many.
SHOWN = 5


@click.command()
@probe_option(note="Without it, the network and other wordings are left out.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="By default every metric that prompts are scored by. Repeatable.",
)
@out_option("Folder for the page, its tables and routing.json.", default="routing-report")
@click.option(
    "--paraphrases",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of prompt and paraphrase, to measure how decisions depend on the wording. Needs --probe.",
)
@click.option(
    "--folds",
    type=click.IntRange(3),
    default=10,
    show_default=True,
    help="Number of folds; each is the test set once.",
)
@seed_option("the folds, the network and the bootstrap")
def curve(
    probe: str | None,
    metrics: tuple[str, ...],
    out: Path,
    paraphrases: Path | None,
    folds: int,
    seed: int,
) -> None:
    """Measure the gain of routing on held-out prompts, as a page of curves and tables."""
    from matchgraph.report.routing import write_report
    from matchgraph.routing.studies import evaluate

    with opened_graph() as (_, runner):
        found = evaluate(
            runner,
            probe,
            metrics=metrics,
            paraphrases=paraphrases,
            folds=folds,
            seed=seed,
            on_progress=show_time_left("parts"),
        )
    for metric, texts in found.left_out.items():
        click.echo(
            f"{metric}: {len(texts)} prompts are left out, as some candidate has no score there:", err=True
        )
        for text in texts[:SHOWN]:
            click.echo(f"  {text!r}", err=True)
    if any(len(texts) > SHOWN for texts in found.left_out.values()):
        click.echo(f"{out / 'left-out.json'} names all of them.", err=True)
    words = ["matchgraph", "route", "curve", "--folds", str(folds), "--seed", str(seed)]
    words += [word for metric in metrics for word in ("--metric", metric)]
    words += [] if paraphrases is None else ["--paraphrases", str(paraphrases)]
    words += [] if probe is None else ["--probe", probe]
    page, summary = write_report(found.studies, out, shlex.join(words), found.facts)
    if found.left_out:
        (out / "left-out.json").write_text(json.dumps(found.left_out, indent=1), encoding="utf-8")
    for sentence in summary:
        click.echo(sentence)
    click.echo(f"Written to {page}.")
