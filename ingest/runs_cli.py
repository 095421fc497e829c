"""The commands of `matchgraph ingest` that plan, carry out and watch fine-tuning runs."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.display import count, progress_display
from ingest.options import NEEDS_PROBE, GivenPath, json_option, opened_graph, probe_option

if TYPE_CHECKING:
    from rich.progress import Progress

    from ingest.ledger import Run
    from ingest.run import WorkSummary

FAILED_EXIT = 1


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="ID",
    help="A model to fine-tune; all with a folder by default. Repeatable.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="ID",
    help="A dataset to fine-tune on; all with a folder by default. Repeatable.",
)
@click.option(
    "--pairs",
    type=GivenPath(),
    metavar="FILE.csv",
    help="Pairs to run instead: columns model, dataset.",
)
@probe_option
@click.option("--steps", type=click.IntRange(1), default=10_000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images in a step.")
@click.option("--learning-rate", type=float, default=1e-5, show_default=True, help="Of AdamW.")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="LoRA rank.")
@click.option(
    "--resolution",
    "resolution_px",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Side of the images, in pixels.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the frozen weights.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=42,
    show_default=True,
    help="Of training and sampling.",
)
@click.option(
    "--samples", type=click.IntRange(2), default=10_000, show_default=True, help="Images sampled for a score."
)
@click.option(
    "--sampling-steps",
    type=click.IntRange(1),
    help="Scheduler steps for an image; by default the model family's.",
)
@click.option(
    "--guidance",
    type=click.FloatRange(0),
    help="Classifier-free guidance scale; by default the model family's.",
)
@click.option(
    "--initial/--no-initial", default=True, show_default=True, help="Score the pretrained model as well."
)
@click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU where there is one) or a torch device."
)
@click.option("--retry-failed", is_flag=True, help="Try runs again that have failed.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    models: Sequence[str],
    datasets: Sequence[str],
    pairs: Path | None,
    probe: str | None,
    device: str,
    retry_failed: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune models on datasets, sample, and record the CLIP-FID before and after.

    What is done already is not done again, so after Ctrl-C, a crash or a power cut the same command goes on
    where it stopped. Several of these may run at once, on several machines too, if they use the same Neo4j.
    The defaults are the paper's and take hours on a GPU for each pair.
    """
    if pairs is not None and (models or datasets):
        raise click.UsageError("--pairs stands alone: leave --model and --dataset out.")
    if probe is None:
        raise click.UsageError(NEEDS_PROBE)
    from graphdb.connection import settings_from_environment
    from ingest.execution import LoraExecutor
    from ingest.ledger import Ledger
    from ingest.run import RunConfig, plan_runs, work
    from training.extractors import load_clip

    config = RunConfig(**options)
    extractor = load_clip(probe, device=device)
    home = settings_from_environment().home
    with opened_graph() as (graph, runner), run_bar() as reporter, terminated_like_ctrl_c():
        plan = plan_runs(graph, config, extractor, models=models, datasets=datasets, pairs=pairs)
        summary = work(
            graph,
            Ledger(runner),
            plan,
            LoraExecutor(extractor, device),
            home,
            reporter,
            retry_failed=retry_failed,
        )
    show_summary(summary, as_json)
    if summary.failed:
        ctx.exit(FAILED_EXIT)


@click.command()
@json_option
def status(as_json: bool) -> None:
    """List the fine-tuning runs by status."""
    from ingest.ledger import STATUSES, Ledger

    with opened_graph() as (_, runner):
        runs = Ledger(runner).runs()
    counts = Counter(run.status for run in runs)
    if as_json:
        facts = {
            "counts": {name: counts[name] for name in STATUSES},
            "runs": [run_as_json(run) for run in runs],
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(", ".join(f"{counts[name]} {name.lower()}" for name in STATUSES))
    for name in STATUSES:
        for run in runs:
            if run.status == name:
                click.echo(status_line(run))


def status_line(run: Run) -> str:
    """One run in one line: status, id, pair, attempts, and time, lease or error."""
    facts = [
        f"{run.status:<8}{run.id}  {run.model} x {run.dataset}",
        f"attempt {run.attempt}/{run.max_attempts}",
    ]
    if run.expired:
        facts.append("its worker is gone")
    if run.status == "DONE":
        facts.append(figures(run))
    if run.error:
        facts.append(run.error.splitlines()[0])
    return "  ".join(facts)


def figures(run: Run) -> str:
    """What a finished run measured, in a few words."""
    parts = []
    for metric in run.config["metrics"]:
        before = run.properties.get(f"initial_{metric}")
        change = "" if before is None else f"{before:.4g} -> "
        parts.append(f"{metric} {change}{run.properties[metric]:.4g}")
    return f"{', '.join(parts)}, {run.properties['training_seconds']:.0f} s training"


def run_as_json(run: Run) -> dict[str, Any]:
    """One run as JSON-ready values."""
    hidden = {"id", "status", "attempt", "max_attempts", "fence", "config", "owner", "token", "error", "lock"}
    return {
        "id": run.id,
        "model": run.model,
        "dataset": run.dataset,
        "status": run.status,
        "attempt": run.attempt,
        "max_attempts": run.max_attempts,
        "expired": run.expired,
        "error": run.error,
        "config": dict(run.config),
        **{
            name: value
            for name, value in run.properties.items()
            if name not in hidden and name not in run.config
        },
    }


def show_summary(summary: WorkSummary, as_json: bool) -> None:
    """Print how the work went; failures go to stderr."""
    for run_id, error in summary.failed.items():
        click.echo(f"Failed: {run_id}: {error}", err=True)
    if as_json:
        facts = {
            "total": summary.total,
            "already_done": summary.already_done,
            "done": summary.done,
            "failed": dict(summary.failed),
            "elsewhere": list(summary.elsewhere),
            "queued": list(summary.queued),
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    parts = [f"{summary.done} done now"] if summary.done or summary.already_done < summary.total else []
    parts.append(f"{summary.already_done} already done")
    for runs, what in (
        (summary.failed, "failed (try again with --retry-failed)"),
        (summary.elsewhere, "with other workers"),
        (summary.queued, "queued"),
    ):
        if runs:
            parts.append(f"{len(runs)} {what}")
    click.echo(f"{count(summary.total, 'run')}: {', '.join(parts)}.")


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Take a request to end, as batch systems send it, like Ctrl-C: give the run back, then end."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class RunReporter:
    """Shows all runs as one bar and the run at hand as another; finished runs stay as lines on stderr."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("runs", total=None)
        self._step = bars.add_task("", total=None, visible=False)
        self._named: str | None = None

    def planned(self, total: int, done: int) -> None:
        """See `ingest.run.Reporter`."""
        # Runs that were done before took no time now, so they must not shorten the estimate.
        self._bars.update(self._all, total=total - done)
        if done:
            self._print(f"{done} of {total} runs already done.")

    def began(self, run: Run) -> None:
        """See `ingest.run.Reporter`."""
        from rich.markup import escape

        self._bars.update(self._all, description=escape(f"{run.model} x {run.dataset}"))
        self._named = None

    def step(self, name: str, done: int, of: int) -> None:
        """See `ingest.run.Reporter`."""
        if name != self._named:
            self._bars.reset(self._step, description=f"  {name}", total=of, visible=True)
            self._named = name
        self._bars.update(self._step, completed=done)

    def ended(self, run: Run, outcome: str) -> None:
        """See `ingest.run.Reporter`."""
        self._bars.advance(self._all)
        self._print(f"{run.model} x {run.dataset}: {figures(run) if run.status == 'DONE' else outcome}")

    def _print(self, line: str) -> None:
        # Through the bars' own console, which keeps lines and bars apart; ids are no markup.
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def run_bar() -> Iterator[RunReporter]:
    """The reporter of `ingest run`."""
    with progress_display() as bars:
        yield RunReporter(bars)


COMMANDS = (run, status)
