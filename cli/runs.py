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
    joint_display,
    run_bar,
)
from matchgraph.cli.options import (
    FiniteRange,
    GivenPath,
    configuration,
    extractor_option,
    json_option,
    opened_graph,
    out_option,
    probe_option,
    settings_options,
    with_options,
)
from matchgraph.cli.run_file import family_settings, run_file_option
from matchgraph.cli.run_output import (
    show_adapters,
    show_changed,
    show_plan,
    show_proposal,
    show_queued,
    show_status,
    show_summary,
)
from matchgraph.ingest.runs.config import (
    AUTO_TOLERANCE,
    MOST_SAMPLES,
    SAMPLED,
    Execution,
    RunConfig,
    Selection,
)
from matchgraph.ingest.runs.ray_executor import ClusterOptions
from matchgraph.ingest.runs.worker import GRACE_S, PATIENCE_S, POLL_S, WorkerOptions
from matchgraph.ingest.tables.image_folders import MINIMUM_IMAGES
from matchgraph.progress import progress_bar

FAILED_EXIT = 1


class SampleCount(click.ParamType):
    """A number of images, or auto."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """See `click.ParamType`."""
        return value if value == "auto" else click.IntRange(MINIMUM_IMAGES).convert(value, param, ctx)


def run_config(options: dict[str, Any]) -> RunConfig:
    """The configuration that a command's options state, and take them out of `options`."""
    if options["samples"] == "auto":
        tolerance = options["tolerance"]
        options |= {"samples": MOST_SAMPLES, "tolerance": AUTO_TOLERANCE if tolerance is None else tolerance}
    return configuration(RunConfig, options)


planning_options = with_options(
    [
        run_file_option,
        settings_options(Selection, only=("models", "datasets", "pairs")),
        probe_option(),
        extractor_option,
        settings_options(
            RunConfig,
            samples={
                "type": SampleCount(),
                "metavar": "N|auto",
                "help": f"Images sampled per score; auto: --tolerance {AUTO_TOLERANCE:g} and "
                f"at most {MOST_SAMPLES}.",
            },
        ),
        settings_options(Selection, only=("replicate", "repeats", "also")),
        click.option(
            "--price-per-hour",
            type=FiniteRange(0),
            metavar="MONEY",
            help="Price of one device, to show the cost of the plan.",
        ),
    ]
)
working_options = settings_options(WorkerOptions, without=("max_runs",))


class WorkerCount(click.ParamType):
    """A number of workers, or auto, which is None."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """See `click.ParamType`."""
        text = str(value)
        if text == "auto":
            return None
        if not text.isascii() or not text.isdecimal() or int(text) < 1:
            self.fail(f"{value!r} is not a number of workers: give 1 or more, or auto.", param, ctx)
        return int(text)


@click.command()
@planning_options
@settings_options(
    Execution, only=("gpu_memory", "offload", "micro_batch", "sampling_batch", "gradient_checkpointing")
)
@click.option(
    "--budget-hours",
    type=FiniteRange(0, min_open=True),
    metavar="HOURS",
    help="Propose the missing pairs that would teach the predictor most within this time on one device.",
)
@out_option(
    "With --budget-hours: write the proposed pairs here, for `ingest run --pairs`.", metavar="FILE.csv"
)
@json_option
def plan(
    budget_hours: float | None, out: Path | None, price_per_hour: float | None, as_json: bool, **options: Any
) -> None:
    """Show which runs `ingest run` would carry out, which are done, and how long the rest takes.

    With a GPU or --gpu-memory, also show how much GPU memory each model takes and what does not fit. Nothing
    is written. Times are estimated from finished runs, of the same model if possible, otherwise from the
    model's TFLOP. Those of other machines count until this one has done a run, and are then scaled by it.
    Without a GPU, --gpu-memory and any run done on a CPU, no time is known.

    With --budget-hours, propose the pairs without a result from which the predictor would learn most per
    hour, without near-duplicates. In a graph without results and similarities, the proposal covers models and
    datasets evenly.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.candidates import missing_runs
    from matchgraph.ingest.runs.workflow import plan_runs

    if budget_hours is None and out is not None:
        raise click.UsageError("--out writes what --budget-hours proposes: give --budget-hours as well.")
    families = family_settings(options)
    config, selection = run_config(options), configuration(Selection, options)
    execution = configuration(Execution, options)
    with opened_graph() as (graph, _):
        if budget_hours is None:
            home = settings_from_environment().home
            found = plan_runs(graph, config, selection, home=home, execution=execution, families=families)
            show_plan(found, price_per_hour, as_json)
            return
        missing = missing_runs(graph, config, selection, execution, families)
    from matchgraph.ingest.runs.plan import write_pairs
    from matchgraph.predictor.active import propose

    if missing.note:
        click.echo(f"Note: {missing.note}", err=True)
    proposal = propose(
        missing.snapshot, missing.hours, budget_hours, candidates=missing.pairs, seed=config.seed
    )
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
    help="Number of workers. On this machine: processes, 1 by default; auto is one per GPU or per four "
    "cores. On a cluster: by default as many as fit.",
)
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Run workers on this machine or on a Ray cluster.",
)
@settings_options(ClusterOptions, without=("workers",))
@click.option("--queue", is_flag=True, help="Only queue the runs, for `matchgraph ingest worker`.")
@click.option("--dry-run", is_flag=True, help="Show the plan, as `ingest plan` does, and write nothing.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Attempts before a run counts as failed.",
)
@click.option("--retry-failed", is_flag=True, help="Also retry failed runs.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
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

    Finished work is not repeated: after Ctrl-C, a crash or a power cut the same command resumes, within a run
    from its last checkpoint. Several of these can run at once, on several machines too, if they use the same
    Neo4j. The defaults are the paper's and take hours per pair on a GPU.

    With --executor ray the workers are tasks on a Ray cluster, each with a share of its GPUs or cores. Its
    nodes need matchgraph, a Neo4j that all of them can reach, and a file system with the models, the datasets
    and MATCHGRAPH_HOME under the same paths. Runs of a lost node continue on another one.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.worker import stopped_by_signals
    from matchgraph.ingest.runs.workflow import plan_runs, queue_runs, run_pairs

    settings = settings_from_environment()
    families = family_settings(options)
    config, selection = run_config(options), configuration(Selection, options)
    working = configuration(WorkerOptions, options)
    cluster = configuration(ClusterOptions, options, workers=workers)
    here = executor == "local"
    if here and cluster != ClusterOptions(workers=workers):
        raise click.UsageError("--address, --gpus and --cpus are for --executor ray.")
    if here and not _given(ctx, "workers"):
        workers = 1
    queueing: dict[str, Any] = {
        "retry_failed": retry_failed,
        "max_attempts": max_attempts,
        "families": families,
    }
    with opened_graph() as (graph, _):
        if dry_run:
            found = plan_runs(
                graph, config, selection, home=settings.home, execution=working, families=families
            )
            show_plan(found, price_per_hour, as_json)
            return
        if queue:
            queueing |= {"home": settings.home, "execution": working}
            show_queued(queue_runs(graph, config, selection, **queueing), as_json)
            return
        alone = here and workers == 1
        with (
            stopped_by_signals(announce_stop, grace_s=GRACE_S if alone else PATIENCE_S) as stop,
            run_bar() if alone else joint_display() as reporter,
        ):
            queueing |= {"options": working, "reporter": reporter, "stop": stop}
            queueing |= {"workers": workers} if here else {"cluster": cluster}
            summary = run_pairs(graph, settings, config, selection, **queueing)
    show_summary(summary, as_json)
    if summary.failed or summary.not_here:
        ctx.exit(FAILED_EXIT)


@click.command()
@click.argument("path", metavar="FILE.safetensors|FOLDER", type=GivenPath())
@click.option("--model", required=True, metavar="ID", help="The model that it was trained for.")
@click.option("--dataset", required=True, metavar="ID", help="The dataset that it was trained on.")
@probe_option()
@extractor_option
@settings_options(RunConfig, only=SAMPLED)
@click.option("--replace", "replace_result", is_flag=True, help="Replace a result that the edge already has.")
@working_options
@json_option
@click.pass_context
def adapter(ctx: click.Context, /, path: Path, as_json: bool, **options: Any) -> None:
    """Score an adapter that was trained elsewhere, and record it as the model's result on the dataset.

    Nothing is trained. The adapter (LoRA, LoHa, LoKr or DoRA) is sampled with the settings of the graph's
    newest run, on this dataset if there is one; options take precedence. What its file says about its
    training (kohya's scripts, ai-toolkit, OneTrainer, diffusers) is kept on the edge. In a folder, all
    adapters are scored and the edge gets the best one. A pipeline folder, or a checkpoint in a single file,
    is taken as a model that was fine-tuned in full.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.adapters import score_adapters

    changes = {name: value for name in SAMPLED if _given(ctx, name) and (value := options[name]) is not None}
    for name in SAMPLED:
        del options[name]
    working = configuration(WorkerOptions, options)
    home = settings_from_environment().home
    with opened_graph() as (graph, _), progress_bar() as on_progress:
        report = score_adapters(
            graph,
            path,
            home=home,
            changes=changes,
            options=working,
            on_step=on_progress,
            notice=lambda sentence: click.echo(sentence, err=True),
            **options,
        )
    show_adapters(report, as_json)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@settings_options(WorkerOptions)
@click.option("--forever", is_flag=True, help="Wait for new runs when none are left.")
@json_option
@click.pass_context
def worker(ctx: click.Context, /, ids: Sequence[str], forever: bool, as_json: bool, **options: Any) -> None:
    """Carry out queued runs, all or those given, until none are left.

    Any number of workers can share the queue. A worker needs Neo4j (MATCHGRAPH_NEO4J_URI, _USER and
    _PASSWORD) and the folders of models and datasets, under the paths they were ingested from. If
    MATCHGRAPH_HOME is on a shared file system, a worker can continue from the checkpoint of another.

    \b
    On a Slurm cluster, queue the runs and start 40 workers with a GPU each:
      matchgraph ingest run --queue ...
      sbatch --array=1-40 --gpus=1 --time=12:00:00 --signal=B:TERM@120 \\
        --wrap 'exec matchgraph ingest worker'

    Two minutes before its time limit each worker returns its run, and another one continues it.
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
@click.option("--running", is_flag=True, help="Only runs that a worker is carrying out.")
@click.option("--model", "models", multiple=True, metavar="ID", help="Only runs of this model. Repeatable.")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="ID", help="Only runs on this dataset. Repeatable."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="List at most this many runs, the newest of each status first.",
)
@click.option("--watch", is_flag=True, help="Follow the runs until none are left.")
@json_option
def status(ids: Sequence[str], limit: int, watch: bool, as_json: bool, **kept: Any) -> None:
    """List fine-tuning runs by status, newest first, and adapters trained elsewhere; with ids, show those
    runs in detail.

    --json lists all matching runs, regardless of --limit.
    """
    from matchgraph.ingest.runs.workflow import runs_status, watch_runs

    if watch and as_json:
        raise click.UsageError("--watch cannot print JSON: leave out --json, or poll without --watch.")
    with opened_graph() as (graph, _):
        if watch:
            with suppress(KeyboardInterrupt), joint_display() as display:
                watch_runs(graph, ids, reporter=display)
        found = runs_status(graph, ids, **kept)
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        show_status(found, len(ids) or limit, details=bool(ids), filtered=any(kept.values()))


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs that have failed.")
@json_option
def retry(ids: Sequence[str], everything: bool, as_json: bool) -> None:
    """Queue failed or cancelled runs again, with a fresh set of attempts, for `ingest run` or `worker`."""
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
    """Cancel queued and running runs; a worker stops its run at the next heartbeat."""
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.workflow import cancel_runs

    check_selection(ids, everything)
    with opened_graph() as (graph, _):
        found = cancel_runs(graph, ids, home=settings_from_environment().home)
    show_changed("cancelled", found, "nothing to cancel", as_json)


def announce_stop() -> None:
    """Announce the stop after the first Ctrl-C."""
    click.echo("Stopping at the next step; Ctrl-C again stops at once.", err=True)


def check_selection(ids: Sequence[str], everything: bool) -> None:
    """Reject no selection, and ids together with --all."""
    if bool(ids) == everything:
        raise click.UsageError(
            "Name runs by their ids, or give --all; `matchgraph ingest status` lists them."
        )


def _given(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, on the command line or in a run file."""
    source = click.core.ParameterSource
    return ctx.get_parameter_source(name) in (source.COMMANDLINE, source.DEFAULT_MAP)


COMMANDS = (plan, run, adapter, worker, status, retry, cancel)
