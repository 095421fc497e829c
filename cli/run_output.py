"""What the commands about fine-tuning runs print."""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matchgraph.cli.display import counts_line, progress_words, status_line
from matchgraph.ingest.runs.estimates import UNMEASURED
from matchgraph.words import SECONDS_PER_HOUR, count, duration

if TYPE_CHECKING:
    from matchgraph.ingest.runs.adapters import AdaptersReport
    from matchgraph.ingest.runs.entries import Run
    from matchgraph.ingest.runs.plan import PlannedRun
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.ingest.runs.worker import WorkSummary
    from matchgraph.ingest.runs.workflow import ChangedRuns, PlanSummary, QueuedRuns
    from matchgraph.predictor.active import Proposal


def show_adapters(report: AdaptersReport, as_json: bool) -> None:
    """Print how adapters that were trained elsewhere did."""
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        rows = [asdict(one) | {"file": str(one.file), "folder": str(one.folder)} for one in report.adapters]
        click.echo(json.dumps({"adapters": rows, "notes": list(report.notes)}, ensure_ascii=False))
        return
    for one in report.adapters:
        values = ", ".join(f"{metric} {value:.4g}" for metric, value in one.values.items())
        kept = "" if one.recorded else " (not on the edge)"
        click.echo(f"{one.file.name}: {values}, trained by {one.facts['trained_by']}{kept}; see {one.folder}")


def show_plan(found: PlanSummary, price_per_hour: float | None, as_json: bool) -> None:
    """Print a plan: by model on stdout, or each run as JSON."""
    cost = None
    if price_per_hour is not None and not found.time_unknown:
        cost = found.device_hours * price_per_hour
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "cost": cost}, ensure_ascii=False))
        return
    show_plan_table(found.runs)
    for model, memory in found.memory.items():
        choices = f": {', '.join(memory.choices)}" if memory.choices else ""
        verdict = "" if memory.fits else ", which does not fit"
        click.echo(f"{model}: {memory.peak_gib:.1f} GiB of GPU memory in {memory.stage}{verdict}{choices}.")
    states = sorted(Counter(run.state.lower() for run in found.runs).items())
    words = ", ".join(f"{number} {state}" for state, number in states)
    click.echo(f"{count(len(found.runs), 'run')}: {words}.")
    if not found.to_do:
        return
    unknown = f"he time of {count(found.not_estimated, 'run')} cannot be estimated"
    if found.time_unknown:
        on_cpu = any(run.estimate.basis == UNMEASURED for run in found.runs)
        click.echo(f"T{unknown}{'; --gpu-memory GIB plans for a GPU' if on_cpu else ''}.")
        return
    line = f"About {duration(found.device_hours * SECONDS_PER_HOUR)} on one device"
    if cost is not None:
        line += f", {cost:,.2f} at {price_per_hour:,.2f} an hour"
    if found.not_estimated:
        line += f"; t{unknown}"
    click.echo(f"{line}.")


def show_plan_table(runs: Sequence[PlannedRun]) -> None:
    """Print what a plan has for each model."""
    from rich.text import Text

    from matchgraph.cli.rendering import new_table, stdout_console

    by_model: dict[str, list[PlannedRun]] = defaultdict(list)
    for run in runs:
        by_model[run.model].append(run)
    table = new_table()
    table.add_column("model", overflow="fold")
    for name in ("runs", "to do", "with a result", "time"):
        table.add_column(name, justify="right")
    table.add_column("estimated from", overflow="fold")
    for model, own in by_model.items():
        to_do = [run for run in own if run.state != "DONE"]
        seconds = [run.estimate.seconds for run in to_do]
        known = None if None in seconds else sum(second or 0.0 for second in seconds)
        bases = ", ".join(dict.fromkeys(run.estimate.basis for run in to_do))
        recorded = sum(run.recorded for run in own)
        cells = [model, len(own), len(to_do), recorded, duration(known) if to_do else "", bases]
        table.add_row(*(Text(str(cell)) for cell in cells))
    stdout_console().print(table)


def show_proposal(
    proposal: Proposal, budget_hours: float, price_per_hour: float | None, out: Path | None, as_json: bool
) -> None:
    """Print which pairs to measure, what they cost and why."""
    from rich.text import Text

    from matchgraph.cli.rendering import new_table, stdout_console

    cost = None if price_per_hour is None else proposal.hours * price_per_hour
    if as_json:
        facts = {**asdict(proposal), "budget_hours": budget_hours, "cost": cost}
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    table = new_table()
    table.add_column("#", justify="right")
    table.add_column("model", overflow="fold")
    table.add_column("dataset", overflow="fold")
    table.add_column("time", justify="right")
    table.add_column("gain", justify="right")
    table.add_column("why", overflow="fold")
    for place, pair in enumerate(proposal.pairs, start=1):
        cells = [place, pair.model, pair.dataset, duration(pair.hours * SECONDS_PER_HOUR)]
        table.add_row(*(Text(str(cell)) for cell in [*cells, f"{pair.gain:.1%}", pair.why]))
    stdout_console().print(table)
    price = "" if cost is None else f", {cost:,.2f} at {price_per_hour:,.2f} an hour"
    click.echo(
        f"{len(proposal.pairs)} of {count(proposal.missing, 'missing pair')} in about "
        f"{duration(proposal.hours * SECONDS_PER_HOUR)} on one device{price}. They remove "
        f"{1 - proposal.uncertainty_left:.0%} of the uncertainty about which model is good where (known so "
        f"far: {proposal.basis})."
    )
    if out is not None:
        command = shlex.join(["matchgraph", "ingest", "run", "--pairs", str(out)])
        click.echo(f"Written to {out}; run them with `{command}`.")


def show_queued(found: QueuedRuns, as_json: bool) -> None:
    """Print what a plan has in the queue."""
    total, queued = len(found.runs), found.queued
    for note in found.plan.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps({"total": total, "queued": queued}))
    else:
        click.echo(f"{count(total, 'run')}, {len(queued)} queued; run them with `matchgraph ingest worker`.")


def show_changed(what: str, found: ChangedRuns, otherwise: str, as_json: bool) -> None:
    """Print which runs were queued again or cancelled, and which of those named were not."""
    for run in found.unchanged:
        click.echo(f"{run.id} is {run.status.lower()}: {otherwise}.", err=True)
    if as_json:
        click.echo(json.dumps({what: list(found.changed)}))
    else:
        click.echo(f"{count(len(found.changed), 'run')} {what}.")


def show_status(found: RunsStatus, limit: int, *, details: bool, filtered: bool) -> None:
    """Print how many runs there are of each status, and the first of them.

    Args:
        found: the runs.
        limit: how many to list.
        details: whether to print all that is known of each.
        filtered: whether only some of the graph's runs were asked for.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.artefacts import has_checkpoint

    home = settings_from_environment().home
    click.echo(counts_line(found))
    runs = found.newest_first()
    for run in runs[:limit]:
        resumes = run.status == "QUEUED" and has_checkpoint(home, run.id)
        click.echo(status_line(run, found.seconds_left.get(run.id), resumes=resumes))
        if details:
            show_details(run, home)
    if len(runs) > limit:
        click.echo(
            f"{count(len(runs) - limit, 'more run')} not shown: raise --limit, filter by --running, --model "
            "or --dataset, or use --json.",
            err=True,
        )
    for one in found.adapters[:limit]:
        values = ", ".join(f"{metric} {value:.4g}" for metric, value in one.values.items())
        trained = ", ".join(
            f"{name.removeprefix('trained_')} {value}"
            for name, value in one.facts.items()
            if name.startswith("trained_")
        )
        click.echo(f"ADAPTER   {one.adapter}  {one.model} x {one.dataset}  {values}  {trained}")
    if len(found.adapters) > limit:
        click.echo(
            f"{count(len(found.adapters) - limit, 'more adapter')} not shown: raise --limit.", err=True
        )
    if not runs and not found.adapters:
        why = (
            "leave out --running, --model or --dataset" if filtered else "`matchgraph ingest run` starts some"
        )
        click.echo(f"No runs: {why}.", err=True)


def show_details(run: Run, home: Path) -> None:
    """Print the details that `status_line` leaves out; `home` is the data folder."""
    from matchgraph.ingest.runs.artefacts import claim_folder

    if run.status not in ("RUNNING", "QUEUED") and (words := progress_words(run)):
        click.echo(f"  last stage: {words}")
    # The adapter's path is relative to the data folder of whoever carried the run out.
    adapter = run.properties.get("adapter")
    folder = (home / adapter).parent if adapter else claim_folder(home, run.id, run.fence)
    if folder.is_dir():
        click.echo(f"  folder: {folder}")
    elif adapter:
        click.echo(f"  adapter: {adapter}")
    for name in ("machine", "note", "host"):
        if name in run.properties:
            click.echo(f"  {name}: {run.properties[name]}")
    click.echo(f"  settings: {json.dumps(dict(run.config), sort_keys=True, ensure_ascii=False)}")
    if run.error:
        click.echo(f"  error: {run.error}")
    if "traceback" in run.properties:
        click.echo(run.properties["traceback"])


def show_summary(summary: WorkSummary, as_json: bool) -> None:
    """Print how the work went, failures on stderr."""
    for run_id, error in summary.failed.items():
        click.echo(f"Failed: {run_id}: {error.splitlines()[0] if error else 'no reason given'}", err=True)
    for run_id, reason in summary.not_here.items():
        click.echo(f"Not possible here: {run_id}: {reason}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        click.echo(summary_line(summary))


def summary_line(summary: WorkSummary) -> str:
    """How the work went, in one line."""
    parts = [f"{summary.done} done now"] if summary.done or summary.already_done < summary.total else []
    parts.append(f"{summary.already_done} already done")
    if summary.done_elsewhere:
        parts.append(f"{summary.done_elsewhere} done by other workers")
    for runs, what in (
        (summary.failed, "failed (try again with --retry-failed, or `matchgraph ingest retry`)"),
        (summary.elsewhere, "with other workers"),
        (summary.queued, "queued"),
        (summary.cancelled, "cancelled"),
    ):
        if runs:
            parts.append(f"{len(runs)} {what}")
    return f"{count(summary.total, 'run')}: {', '.join(parts)}."
