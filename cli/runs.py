"""The commands of `matchgraph ingest` that plan, carry out and watch fine-tuning runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.display import (
    counts_line,
    joint_display,
    run_bar,
    status_line,
)
from matchgraph.cli.options import (
    FiniteRange,
    configuration,
    extractor_option,
    json_option,
    opened_graph,
    out_option,
    probe_option,
    settings_options,
    with_options,
)
from matchgraph.cli.run_output import (
    show_changed,
    show_details,
    show_plan,
    show_proposal,
    show_queued,
    show_summary,
)
from matchgraph.ingest.runs.config import RunConfig, Selection
from matchgraph.ingest.runs.ray_executor import ClusterOptions
from matchgraph.ingest.runs.worker import GRACE_S, PATIENCE_S, POLL_S, WorkerOptions

FAILED_EXIT = 1

planning_options = with_options(
    [
        settings_options(Selection, only=("models", "datasets", "pairs")),
        probe_option(),
        extractor_option,
        settings_options(RunConfig),
        settings_options(Selection, only=("replicate", "also")),
        click.option(
            "--price-per-hour",
            type=FiniteRange(0),
            metavar="MONEY",
            help="Of one device, to say what the plan costs.",
        ),
    ]
)
working_options = settings_options(WorkerOptions, only=("device", "checkpoint_steps", "cache_gib"))


class WorkerCount(click.ParamType):
    """A number of workers, or auto, which is None."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """See `click.ParamType`."""
        if isinstance(value, int) or value == "auto":
            return None if value == "auto" else value
        if not value.isascii() or not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is no number of workers: give 1 or more, or auto.", param, ctx)
        return int(value)


@click.command()
@planning_options
@click.option(
    "--budget-hours",
    type=FiniteRange(0, min_open=True),
    metavar="HOURS",
    help="Propose instead which missing pairs would teach the predictor most in so many hours of one device.",
)
@out_option("Of --budget-hours: write the proposed pairs, for `ingest run --pairs`.", metavar="FILE.csv")
@json_option
def plan(
    budget_hours: float | None, out: Path | None, price_per_hour: float | None, as_json: bool, **options: Any
) -> None:
    """Show which runs `ingest run` would do, what there is already, and how long the rest takes.

    Nothing is written. Times come from runs that are done, of the same model where there are any, or else
    from what the model computes.

    With --budget-hours: of the pairs without a result, the ones from which the predictor would learn most
    about which model is good where, for each hour they take, near-copies of each other left out. Without
    results and similarities that is an even cover of models and datasets.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.workflow import missing_runs, plan_runs

    if budget_hours is None and out is not None:
        raise click.UsageError("--out writes what --budget-hours proposes: give a budget.")
    config, selection = configuration(RunConfig, options), configuration(Selection, options)
    with opened_graph() as (graph, _):
        if budget_hours is None:
            home = settings_from_environment().home
            show_plan(plan_runs(graph, config, selection, home=home), price_per_hour, as_json)
            return
        found = missing_runs(graph, config, selection)
    from matchgraph.ingest.runs.plan import write_pairs
    from matchgraph.predictor.active import propose

    proposal = propose(found.snapshot, found.hours, budget_hours, candidates=found.pairs, seed=config.seed)
    if out is not None:
        write_pairs(out, [asdict(pair) for pair in proposal.pairs], ("hours", "why"))
    show_proposal(proposal, budget_hours, price_per_hour, out, as_json)


@click.command()
@planning_options
@working_options
@click.option(
    "--workers",
    type=WorkerCount(),
    metavar="N|auto",
    help="Workers at once: processes on this machine, 1 by default, auto for one on each GPU or every four "
    "cores; on a cluster as many as there is room for by default.",
)
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers are: on this machine, or on a Ray cluster.",
)
@settings_options(ClusterOptions, without=("workers",))
@click.option("--queue", is_flag=True, help="Only queue the runs, for `matchgraph ingest worker` to do.")
@click.option("--dry-run", is_flag=True, help="Show the plan, as `ingest plan` does, and write nothing.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often a run is begun before it counts as failed.",
)
@click.option("--retry-failed", is_flag=True, help="Try runs again that have failed.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    workers: int | None,
    executor: str,
    queue: bool,
    dry_run: bool,
    max_attempts: int,
    retry_failed: bool,
    price_per_hour: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune models on datasets, sample, and record every --metric before and after.

    What is done already is not done again, so after Ctrl-C, a crash or a power cut the same command goes on
    where it stopped, within a run from its last checkpoint. Several of these may run at once, on several
    machines too, if they use the same Neo4j. The defaults are the paper's and take hours on a GPU for each
    pair.

    With --executor ray the workers are tasks on a Ray cluster, each with a share of its GPUs or cores. Its
    nodes need matchgraph, a Neo4j that all of them reach, and a file system with the models, the datasets and
    MATCHGRAPH_HOME under the same paths. A lost node's runs go on elsewhere.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.worker import stopped_by_signals
    from matchgraph.ingest.runs.workflow import plan_runs, queue_runs, run_here, run_on_cluster

    settings = settings_from_environment()
    config, selection = configuration(RunConfig, options), configuration(Selection, options)
    working = configuration(WorkerOptions, options)
    cluster = configuration(ClusterOptions, options, workers=workers)
    here = executor == "local"
    if here and cluster != ClusterOptions(workers=workers):
        raise click.UsageError("--address, --gpus and --cpus are for --executor ray.")
    if here and not _given(ctx, "workers"):
        workers = 1
    queueing = {"retry_failed": retry_failed, "max_attempts": max_attempts}
    with opened_graph() as (graph, _):
        if dry_run:
            show_plan(plan_runs(graph, config, selection, home=settings.home), price_per_hour, as_json)
            return
        if queue:
            show_queued(queue_runs(graph, config, selection, home=settings.home, **queueing), as_json)
            return
        alone = here and workers == 1
        with (
            stopped_by_signals(announce_stop, grace_s=GRACE_S if alone else PATIENCE_S) as stop,
            run_bar() if alone else joint_display() as reporter,
        ):
            queueing |= {"options": working, "reporter": reporter, "stop": stop}
            if here:
                summary = run_here(graph, settings, config, selection, workers=workers, **queueing)
            else:
                summary = run_on_cluster(graph, settings, config, selection, cluster, **queueing)
    show_summary(summary, as_json)
    if summary.failed or summary.not_here:
        ctx.exit(FAILED_EXIT)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@settings_options(WorkerOptions, only=("device", "checkpoint_steps", "cache_gib", "max_runs"))
@click.option("--forever", is_flag=True, help="Wait for new runs where there is none left.")
@json_option
@click.pass_context
def worker(ctx: click.Context, ids: Sequence[str], forever: bool, as_json: bool, **options: Any) -> None:
    """Carry out queued runs until none is left: all of the ledger, or those named.

    Any number of workers share the queue. All that one needs is in Neo4j (MATCHGRAPH_NEO4J_URI, _USER and
    _PASSWORD name it) and in the folders of models and datasets, under the paths by which they were ingested.
    With MATCHGRAPH_HOME on a file system that all of them share, one goes on from another's checkpoint.

    \b
    On a Slurm cluster, 40 workers with a GPU each, queued runs before them:
      matchgraph ingest run --queue ...
      sbatch --array=1-40 --gpus=1 --time=12:00:00 --signal=B:TERM@120 \\
        --wrap 'exec matchgraph ingest worker'

    Two minutes before its time is over each gives back its run, which goes on from there in another.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.worker import stopped_by_signals, work_queue

    working = configuration(WorkerOptions, options, poll_s=POLL_S if forever else None)
    with run_bar() as reporter, stopped_by_signals(announce_stop) as stop:
        summary = work_queue(
            settings_from_environment(), list(ids) or None, working, reporter=reporter, stop=stop
        )
    show_summary(summary, as_json)
    if summary.failed or summary.not_here:
        ctx.exit(FAILED_EXIT)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Show how the running ones get on, until none is left to do.")
@json_option
def status(ids: Sequence[str], watch: bool, as_json: bool) -> None:
    """List the fine-tuning runs by status; those named with all that is known of them."""
    from matchgraph.ingest.runs.workflow import runs_status, watch_runs

    if watch and as_json:
        raise click.UsageError("--watch draws for people: leave --json out, and ask again and again.")
    with opened_graph() as (graph, _):
        if watch:
            with suppress(KeyboardInterrupt), joint_display() as display:
                watch_runs(graph, ids, reporter=display)
        found = runs_status(graph, ids)
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    click.echo(counts_line(found))
    for name in found.counts:
        for run in found.runs:
            if run.status == name:
                click.echo(status_line(run, found.seconds_left.get(run.id)))
                if ids:
                    show_details(run)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs that have failed.")
@json_option
def retry(ids: Sequence[str], everything: bool, as_json: bool) -> None:
    """Queue failed or cancelled runs again, with all their attempts; `ingest run` or `worker` does them."""
    from matchgraph.ingest.runs.workflow import retry_runs

    check_selection(ids, everything)
    with opened_graph() as (graph, _):
        found = retry_runs(graph, ids)
    show_changed("queued", found, "nothing to retry", as_json)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs that are queued or running.")
@json_option
def cancel(ids: Sequence[str], everything: bool, as_json: bool) -> None:
    """Cancel queued and running runs; a worker that is at one stops at its next heartbeat."""
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.workflow import cancel_runs

    check_selection(ids, everything)
    with opened_graph() as (graph, _):
        found = cancel_runs(graph, ids, home=settings_from_environment().home)
    show_changed("cancelled", found, "nothing to cancel", as_json)


def announce_stop() -> None:
    """Say that the first Ctrl-C was heard."""
    click.echo("Stopping at the next step; Ctrl-C again stops at once.", err=True)


def check_selection(ids: Sequence[str], everything: bool) -> None:
    """Refuse a selection that is none, or two."""
    if bool(ids) == everything:
        raise click.UsageError(
            "Name runs by their ids, or give --all; `matchgraph ingest status` lists them."
        )


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


COMMANDS = (plan, run, worker, status, retry, cancel)
