"""The commands of `matchgraph ingest` that plan, carry out and watch fine-tuning runs."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.display import (
    count,
    counts_line,
    duration,
    joint_display,
    progress_words,
    run_bar,
    status_line,
)
from matchgraph.cli.options import (
    NEEDS_PROBE,
    FiniteRange,
    GivenPath,
    extractor_option,
    json_option,
    metric_option,
    opened_graph,
    probe_option,
    with_options,
)
from matchgraph.ingest.errors import IngestError
from matchgraph.training.config import PRECISIONS

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.ingest.runs.ledger import Ledger, Run
    from matchgraph.ingest.runs.plan import Plan, PlannedRun
    from matchgraph.ingest.runs.ray_executor import ClusterOptions
    from matchgraph.ingest.runs.worker import WorkerOptions, WorkSummary
    from matchgraph.predictor.active import Proposal
    from matchgraph.training.measure.extractors import Extractor

FAILED_EXIT = 1
WATCH_S = 2.0
SECONDS_PER_HOUR = 3600
GIB = 2**30

PLANNING_OPTIONS = (
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="ID",
        help="A model to fine-tune; all with a folder by default. Repeatable.",
    ),
    click.option(
        "--dataset",
        "datasets",
        multiple=True,
        metavar="ID",
        help="A dataset to fine-tune on; all with a folder by default. Repeatable.",
    ),
    click.option(
        "--pairs",
        type=GivenPath(),
        metavar="FILE.csv",
        help="Pairs to run instead: columns model, dataset.",
    ),
    probe_option(),
    extractor_option,
    metric_option,
    click.option(
        "--steps", type=click.IntRange(1), default=10_000, show_default=True, help="Optimiser steps."
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=8,
        show_default=True,
        help="Images in a forward pass.",
    ),
    click.option("--learning-rate", type=float, default=1e-5, show_default=True, help="Of AdamW."),
    click.option(
        "--method",
        type=click.Choice(["lora", "full"]),
        default="lora",
        show_default=True,
        help="Train an adapter, or all weights of the denoiser.",
    ),
    click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="LoRA rank."),
    click.option(
        "--resolution",
        "resolution_px",
        type=click.IntRange(8),
        default=512,
        show_default=True,
        help="Side of the images, in pixels.",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="fp32",
        show_default=True,
        help="Of the frozen weights.",
    ),
    click.option(
        "--gradient-accumulation",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Forward passes in a step.",
    ),
    click.option("--gradient-checkpointing", is_flag=True, help="Compute activations twice to save memory."),
    click.option("--compile", is_flag=True, help="Run the denoiser through torch.compile."),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=42,
        show_default=True,
        help="Of training and sampling.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(2),
        default=10_000,
        show_default=True,
        help="Images sampled for a score.",
    ),
    click.option(
        "--sampling-steps",
        type=click.IntRange(1),
        help="Scheduler steps for an image; by default the model family's.",
    ),
    click.option(
        "--guidance",
        type=FiniteRange(0),
        help="Classifier-free guidance scale; by default the model family's.",
    ),
    click.option(
        "--initial/--no-initial",
        default=True,
        show_default=True,
        help="Score the pretrained model as well.",
    ),
    click.option(
        "--replicate",
        is_flag=True,
        help="Measure again under another --seed, to tell the noise: the figures stay on the run, the "
        "graph's edges as they are.",
    ),
    click.option(
        "--also",
        is_flag=True,
        help="Have these runs beside unfinished ones of the same pairs and seed with other settings.",
    ),
    click.option(
        "--price-per-hour",
        type=FiniteRange(0),
        metavar="MONEY",
        help="Of one device, to reckon what the plan costs.",
    ),
)
WORKING_OPTIONS = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto (a GPU where there is one) or a torch device.",
    ),
    click.option(
        "--checkpoint-steps",
        type=click.IntRange(1),
        default=500,
        show_default=True,
        help="Training steps between two checkpoints; a stop by Ctrl-C loses none.",
    ),
    click.option(
        "--cache-gb",
        type=FiniteRange(0, min_open=True),
        default=20.0,
        show_default=True,
        help="Room for cached encodings of images and captions.",
    ),
)


@click.command()
@with_options(PLANNING_OPTIONS)
@click.option(
    "--budget",
    "budget_hours",
    type=FiniteRange(0, min_open=True),
    metavar="HOURS",
    help="Propose instead which missing pairs would teach the predictor most in so many hours of one device.",
)
@click.option(
    "--out",
    type=GivenPath(),
    metavar="FILE.csv",
    help="Of --budget: write the proposed pairs, for `ingest run --pairs`.",
)
@json_option
def plan(
    probe: str | None,
    price_per_hour: float | None,
    budget_hours: float | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show which runs `ingest run` would do, what there is already, and how long the rest takes.

    Nothing is written. Times come from runs that are done, of the same model where there are any, or else
    from what the model computes.

    With --budget: of the pairs without a result, the ones from which the predictor would learn most about
    which model is good where, for each hour they take, near-copies of each other left out. Without results
    and similarities that is an even cover of models and datasets.
    """
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.ledger import Ledger

    if budget_hours is None and out is not None:
        raise click.UsageError("--out writes what --budget proposes: give a budget.")
    with opened_graph() as (graph, runner):
        ledger = Ledger(runner)
        if budget_hours is not None:
            proposal = proposed_runs(graph, ledger, budget_hours, options)
            if out is not None:
                write_pairs(proposal, out)
            show_proposal(proposal, budget_hours, price_per_hour, out, as_json)
            return
        planned, _, also = planned_runs(graph, probe, "cpu", options)
        show_plan(graph, ledger, planned, settings_from_environment().home, also, price_per_hour, as_json)


@click.command()
@with_options(PLANNING_OPTIONS)
@with_options(WORKING_OPTIONS)
@click.option(
    "--workers",
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
@click.option(
    "--address",
    help="Of the Ray cluster: HOST:PORT or ray://HOST:PORT; by default the one that this machine is part of.",
)
@click.option(
    "--gpus",
    type=FiniteRange(0),
    help="GPUs of each worker on a Ray cluster, or a fraction of one; by default 1 where there are any.",
)
@click.option(
    "--cpus",
    type=FiniteRange(0, min_open=True),
    help="Cores of each worker on a Ray cluster; by default 1 beside a GPU, and else up to 4.",
)
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
    probe: str | None,
    price_per_hour: float | None,
    device: str,
    checkpoint_steps: int,
    cache_gb: float,
    workers: str | None,
    executor: str,
    address: str | None,
    gpus: float | None,
    cpus: float | None,
    queue: bool,
    dry_run: bool,
    max_attempts: int,
    retry_failed: bool,
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
    from matchgraph.ingest.runs.ledger import Ledger
    from matchgraph.ingest.runs.plan import queue_plan
    from matchgraph.ingest.runs.worker import GRACE_S, PATIENCE_S, WorkerOptions, stopped_by_signals

    settings = settings_from_environment()
    working = WorkerOptions(device, checkpoint_steps, int(cache_gb * GIB))
    number = None if executor == "ray" else number_of_workers("1" if workers is None else workers, device)
    cluster = cluster_options(executor, address, workers, gpus, cpus)
    with opened_graph() as (graph, runner):
        ledger = Ledger(runner)
        planned, instruments, also = planned_runs(graph, probe, device if number == 1 else "cpu", options)
        if dry_run:
            show_plan(graph, ledger, planned, settings.home, also, price_per_hour, as_json)
            return
        runs = queue_plan(
            ledger, planned, settings.home, retry_failed=retry_failed, also=also, max_attempts=max_attempts
        )
        if queue:
            show_queued(runs, as_json)
            return
        with stopped_by_signals(announce_stop, grace_s=GRACE_S if number == 1 else PATIENCE_S) as stop:
            if cluster is not None:
                summary = work_on_cluster(ledger, planned, settings, working, cluster, stop)
            elif number == 1:
                summary = work_here(
                    graph, ledger, list(planned.requests), settings, working, instruments, stop
                )
            else:
                summary = work_beside(ledger, planned, settings, working, number, stop)
    show_summary(summary, as_json)
    if summary.failed or summary.not_here:
        ctx.exit(FAILED_EXIT)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@with_options(WORKING_OPTIONS)
@click.option("--max-runs", type=click.IntRange(1), help="Take so many runs and end.")
@click.option("--forever", is_flag=True, help="Wait for new runs where there is none left.")
@json_option
@click.pass_context
def worker(
    ctx: click.Context,
    ids: Sequence[str],
    device: str,
    checkpoint_steps: int,
    cache_gb: float,
    max_runs: int | None,
    forever: bool,
    as_json: bool,
) -> None:
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
    from matchgraph.ingest.runs.ledger import Ledger
    from matchgraph.ingest.runs.worker import POLL_S, WorkerOptions, stopped_by_signals, work_queue

    options = WorkerOptions(
        device,
        checkpoint_steps,
        int(cache_gb * GIB),
        max_runs=max_runs,
        poll_s=POLL_S if forever else None,
    )
    settings = settings_from_environment()
    if ids:
        with opened_graph() as (_, runner):
            chosen_runs(Ledger(runner), ids)
    with run_bar() as reporter, stopped_by_signals(announce_stop) as stop:
        summary = work_queue(settings, list(ids) or None, options, reporter=reporter, stop=stop)
    show_summary(summary, as_json)
    if summary.failed or summary.not_here:
        ctx.exit(FAILED_EXIT)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Show how the running ones get on, until none is left to do.")
@json_option
def status(ids: Sequence[str], watch: bool, as_json: bool) -> None:
    """List the fine-tuning runs by status; those named with all that is known of them."""
    from matchgraph.ingest.runs.estimates import Estimator
    from matchgraph.ingest.runs.ledger import STATUSES, Ledger

    if watch and as_json:
        raise click.UsageError("--watch draws for people: leave --json out, and ask again and again.")
    with opened_graph() as (graph, runner):
        ledger = Ledger(runner)
        models = {model.id: model for model in graph.models()}
        if watch:
            with suppress(KeyboardInterrupt):
                watch_runs(ledger, ids, models)
        runs = chosen_runs(ledger, ids) if ids else ledger.runs()
        estimator = Estimator(ledger.runs() if ids else runs, models)
    if as_json:
        counts = Counter(run.status for run in runs)
        facts = {
            "counts": {name: counts[name] for name in STATUSES},
            "runs": [run_as_json(run, estimator) for run in runs],
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(counts_line(runs))
    for name in STATUSES:
        for run in runs:
            if run.status == name:
                click.echo(status_line(run, estimator))
                if ids:
                    show_details(run)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs that have failed.")
@json_option
def retry(ids: Sequence[str], everything: bool, as_json: bool) -> None:
    """Queue failed or cancelled runs again, with all their attempts; `ingest run` or `worker` does them."""
    from matchgraph.ingest.runs.ledger import CANCELLED, FAILED, Ledger

    check_selection(ids, everything)
    with opened_graph() as (_, runner):
        ledger = Ledger(runner)
        chosen = ledger.runs() if everything else chosen_runs(ledger, ids)
        statuses = [FAILED] if everything else [FAILED, CANCELLED]
        queued = ledger.requeue([run.id for run in chosen], statuses=statuses)
    show_changed("queued", queued, [] if everything else chosen, "nothing to retry", as_json)


@click.command()
@click.argument("ids", metavar="[RUN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All runs that are queued or running.")
@json_option
def cancel(ids: Sequence[str], everything: bool, as_json: bool) -> None:
    """Cancel queued and running runs; a worker that is at one stops at its next heartbeat."""
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.artefacts import remove_run
    from matchgraph.ingest.runs.ledger import QUEUED, Ledger

    check_selection(ids, everything)
    with opened_graph() as (_, runner):
        ledger = Ledger(runner)
        chosen = ledger.runs() if everything else chosen_runs(ledger, ids)
        cancelled = ledger.cancel([run.id for run in chosen])
    home = settings_from_environment().home
    for run in chosen:
        # What a running one leaves is removed by its worker.
        if run.id in cancelled and run.status == QUEUED:
            remove_run(home, run.id)
    show_changed("cancelled", cancelled, [] if everything else chosen, "nothing to cancel", as_json)


def check_pairs_alone(options: dict[str, Any]) -> None:
    """Refuse a file of pairs beside a selection of models or datasets."""
    if options["pairs"] is not None and (options["models"] or options["datasets"]):
        raise click.UsageError("--pairs stands alone: leave --model and --dataset out.")


def planned_runs(
    graph: MatchingGraph, probe: str | None, device: str, options: dict[str, Any]
) -> tuple[Plan, Mapping[str, Extractor], bool]:
    """The plan that the options ask for, its extractors, and whether it may stand beside unfinished runs."""
    check_pairs_alone(options)
    from matchgraph.ingest.instruments import extractor_specs, load_instruments
    from matchgraph.ingest.runs.config import RunConfig
    from matchgraph.ingest.runs.plan import plan_runs
    from matchgraph.training.measure.extractors import require_images
    from matchgraph.training.measure.scoring import PROBE, needed_extractors

    specs = extractor_specs(probe, options.pop("extractors"))
    # The order in which metrics are named does not make another question.
    options["metrics"] = tuple(sorted(options["metrics"]))
    needed = needed_extractors(options["metrics"])
    if PROBE in needed and PROBE not in specs:
        raise click.UsageError(NEEDS_PROBE)
    also = options.pop("also")
    selection = {name: options.pop(name) for name in ("models", "datasets", "pairs", "replicate")}
    config = RunConfig(**options)
    instruments = {
        name: require_images(found, name) for name, found in load_instruments(specs, needed, device).items()
    }
    located = {name: specs[name].located() for name in needed}
    weights = {name: f"{spec.kind}:{spec.weights}" for name, spec in located.items()}
    return plan_runs(graph, config, instruments, weights=weights, **selection), instruments, also


def proposed_runs(
    graph: MatchingGraph, ledger: Ledger, budget_hours: float, options: dict[str, Any]
) -> Proposal:
    """The pairs worth a budget, out of those that the options select and the ledger does not hold."""
    check_pairs_alone(options)
    from matchgraph.ingest.runs.config import RunConfig
    from matchgraph.ingest.runs.estimates import Estimator
    from matchgraph.ingest.runs.ledger import DONE
    from matchgraph.ingest.runs.plan import select_pairs
    from matchgraph.predictor.active import propose

    selection = {name: options.pop(name) for name in ("models", "datasets", "pairs")}
    for name in ("also", "replicate", "extractors"):
        options.pop(name, None)
    config = RunConfig(**options)
    snapshot = graph.snapshot(config.metrics[0])
    models = {model.id: model for model in snapshot.models}
    datasets = {dataset.id: dataset for dataset in snapshot.datasets}
    runs = ledger.runs()
    unfinished = {(run.model, run.dataset) for run in runs if run.status != DONE}
    candidates = set(select_pairs(models, datasets, **selection)) - unfinished
    estimator = Estimator(runs, models)
    seconds = {model: estimator.whole(model, config.asked()).seconds for model in models}
    known = [value for value in seconds.values() if value]
    # A model of which nothing is known may cost as much as any.
    usual = median(known) if known else SECONDS_PER_HOUR
    hours = {model: (value or usual) / SECONDS_PER_HOUR for model, value in seconds.items()}
    return propose(snapshot, hours, budget_hours, candidates=candidates, seed=config.seed)


def write_pairs(proposal: Proposal, file: Path) -> None:
    """Write a proposal as the table that `ingest run --pairs` reads."""
    try:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["model", "dataset", "hours", "why"])
            for pair in proposal.pairs:
                writer.writerow([pair.model, pair.dataset, f"{pair.hours:.4g}", pair.why])
    except OSError as error:
        raise IngestError(f"{file} cannot be written ({error.strerror}): check the path.") from error


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
    table.add_column("teaches", justify="right")
    table.add_column("why", overflow="fold")
    for place, pair in enumerate(proposal.pairs, start=1):
        cells = [place, pair.model, pair.dataset, duration(pair.hours * SECONDS_PER_HOUR)]
        table.add_row(*(Text(str(cell)) for cell in [*cells, f"{pair.gain:.1%}", pair.why]))
    stdout_console().print(table)
    price = "" if cost is None else f", {cost:,.2f} at {price_per_hour:,.2f} an hour"
    click.echo(
        f"{len(proposal.pairs)} of {count(proposal.missing, 'missing pair')} in about "
        f"{duration(proposal.hours * SECONDS_PER_HOUR)} on one device{price}. They take away "
        f"{1 - proposal.uncertainty_left:.0%} of the uncertainty about which model is good where (known so "
        f"far: {proposal.basis})."
    )
    if out is not None:
        click.echo(f"Written to {out}: `matchgraph ingest run --pairs` does them.")


def number_of_workers(asked: str, device: str) -> int:
    """How many workers are meant."""
    from matchgraph.ingest.runs.local import visible_gpus, worker_count

    if asked == "auto":
        return worker_count(None, visible_gpus(device))
    if not asked.isascii() or not asked.isdecimal() or int(asked) < 1:
        raise click.BadParameter(
            f"{asked!r} is no number of workers: give 1 or more, or auto.", param_hint="--workers"
        )
    return int(asked)


def work_here(
    graph: MatchingGraph,
    ledger: Ledger,
    ids: Sequence[str],
    settings: Any,
    options: WorkerOptions,
    instruments: Mapping[str, Extractor],
    stop: Any,
) -> WorkSummary:
    """Work the runs off in this process."""
    from matchgraph.ingest.instruments import FEATURES_FOLDER
    from matchgraph.ingest.runs.execution import LoraExecutor
    from matchgraph.ingest.runs.worker import CACHE_FOLDER, work
    from matchgraph.training.pipelines.cache import EncodingCache

    executor = LoraExecutor(
        options.device,
        options.checkpoint_steps,
        EncodingCache(settings.home / CACHE_FOLDER, options.cache_bytes),
        {extractor.hash: extractor for extractor in instruments.values()},
        settings.home / FEATURES_FOLDER,
    )
    with run_bar() as reporter:
        return work(graph, ledger, executor, settings.home, reporter, ids, stop=stop)


def work_beside(
    ledger: Ledger, planned: Plan, settings: Any, options: WorkerOptions, number: int, stop: Any
) -> WorkSummary:
    """Work the runs off in child processes."""
    from matchgraph.ingest.runs.estimates import Estimator
    from matchgraph.ingest.runs.ledger import DONE
    from matchgraph.ingest.runs.local import places, visible_gpus, work_locally
    from matchgraph.ingest.runs.worker import summarise

    ids = list(planned.requests)
    before = sum(run.status == DONE for run in ledger.runs(ids))
    shares = places(number, visible_gpus(options.device))
    with joint_display() as display:
        not_here = work_locally(
            settings,
            ledger,
            ids,
            options,
            shares,
            lambda runs: display.show(runs, Estimator(runs, planned.models)),
            stop,
        )
    runs = ledger.runs(ids)
    done = sum(run.status == DONE for run in runs)
    return summarise(runs, already_done=before, done=done - before, not_here=not_here)


def cluster_options(
    executor: str, address: str | None, workers: str | None, gpus: float | None, cpus: float | None
) -> ClusterOptions | None:
    """What is asked of a Ray cluster; None where none is to be used."""
    if executor != "ray":
        for name, value in (("--address", address), ("--gpus", gpus), ("--cpus", cpus)):
            if value is not None:
                raise click.UsageError(f"{name} is for --executor ray.")
        return None
    if address == "":
        raise click.BadParameter("It is empty: name a cluster.", param_hint="--address")
    from matchgraph.ingest.runs.ray_executor import ClusterOptions

    number = None if workers in (None, "auto") else number_of_workers(workers, "cpu")
    return ClusterOptions(address or "auto", number, gpus, cpus)


def work_on_cluster(
    ledger: Ledger,
    planned: Plan,
    settings: Any,
    options: WorkerOptions,
    cluster: ClusterOptions,
    stop: Any,
) -> WorkSummary:
    """Work the runs off on a Ray cluster."""
    from matchgraph.ingest.runs.estimates import Estimator
    from matchgraph.ingest.runs.ledger import DONE
    from matchgraph.ingest.runs.ray_executor import work_on_ray
    from matchgraph.ingest.runs.worker import summarise

    ids = list(planned.requests)
    before = sum(run.status == DONE for run in ledger.runs(ids))
    with joint_display() as display:
        not_here = work_on_ray(
            settings,
            ledger,
            ids,
            options,
            cluster,
            lambda runs: display.show(runs, Estimator(runs, planned.models)),
            stop,
            lambda sentence: click.echo(sentence, err=True),
        )
    runs = ledger.runs(ids)
    done = sum(run.status == DONE for run in runs)
    return summarise(runs, already_done=before, done=done - before, not_here=not_here)


def announce_stop() -> None:
    """Say that the wish to stop was heard."""
    click.echo("Stopping at the next step; Ctrl-C again stops at once.", err=True)


def watch_runs(ledger: Ledger, ids: Sequence[str], models: Any) -> None:
    """Show how runs get on until none is queued or running."""
    from matchgraph.ingest.runs.estimates import Estimator
    from matchgraph.ingest.runs.ledger import QUEUED, RUNNING

    with joint_display() as display:
        while True:
            runs = ledger.runs(list(ids) or None)
            display.show(runs, Estimator(runs, models))
            if not any(run.status in {QUEUED, RUNNING} for run in runs):
                return
            time.sleep(WATCH_S)


def chosen_runs(ledger: Ledger, ids: Sequence[str]) -> list[Run]:
    """The runs of these ids, each of which must be one."""
    return [ledger.run(run_id) for run_id in dict.fromkeys(ids)]


def check_selection(ids: Sequence[str], everything: bool) -> None:
    """Refuse a selection that is none, or two."""
    if bool(ids) == everything:
        raise click.UsageError(
            "Name runs by their ids, or give --all; `matchgraph ingest status` lists them."
        )


def show_plan(
    graph: MatchingGraph,
    ledger: Ledger,
    planned: Plan,
    home: Path,
    also: bool,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Print a plan: by model on stdout, or each run as JSON."""
    from matchgraph.ingest.runs.plan import check_replicates, check_unfinished, survey

    if not also:
        check_unfinished(ledger, planned)
    check_replicates(ledger, planned)
    runs = survey(graph, ledger, planned, home)
    to_do = [run for run in runs if run.state != "DONE"]
    known = [run.estimate.seconds for run in to_do if run.estimate.seconds is not None]
    hours, unknown = sum(known) / 3600, len(to_do) - len(known)
    cost = None if price_per_hour is None else hours * price_per_hour
    if as_json:
        facts = {
            "runs": [{**asdict(run), "estimate": asdict(run.estimate)} for run in runs],
            "to_do": len(to_do),
            "device_hours": hours,
            "not_estimated": unknown,
            "cost": cost,
        }
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    show_plan_table(runs)
    states = Counter(run.state.lower() for run in runs)
    click.echo(
        f"{count(len(runs), 'run')}: {', '.join(f'{n} {state}' for state, n in sorted(states.items()))}."
    )
    if not to_do:
        return
    line = f"About {duration(hours * 3600)} on one device"
    if cost is not None:
        line += f", {cost:,.2f} at {price_per_hour:,.2f} an hour"
    if unknown:
        line += f"; {count(unknown, 'run')} of models of which too little is known"
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
    for name in ("runs", "to do", "with a value", "time"):
        table.add_column(name, justify="right")
    table.add_column("reckoned from", overflow="fold")
    for model, own in by_model.items():
        to_do = [run for run in own if run.state != "DONE"]
        seconds = [run.estimate.seconds for run in to_do]
        known = None if None in seconds else sum(second or 0.0 for second in seconds)
        bases = ", ".join(dict.fromkeys(run.estimate.basis for run in to_do))
        recorded = sum(run.recorded for run in own)
        cells = [model, len(own), len(to_do), recorded, duration(known) if to_do else "", bases]
        table.add_row(*(Text(str(cell)) for cell in cells))
    stdout_console().print(table)


def show_queued(runs: Sequence[Run], as_json: bool) -> None:
    """Print what a plan has in the queue."""
    from matchgraph.ingest.runs.ledger import QUEUED

    queued = [run.id for run in runs if run.status == QUEUED]
    if as_json:
        click.echo(json.dumps({"total": len(runs), "queued": queued}))
    else:
        click.echo(f"{count(len(runs), 'run')}, {len(queued)} queued; `matchgraph ingest worker` does them.")


def show_changed(
    what: str, changed: Sequence[str], named: Sequence[Run], otherwise: str, as_json: bool
) -> None:
    """Print which runs were queued again or cancelled, and which of those named were not."""
    for run in named:
        if run.id not in changed:
            click.echo(f"{run.id} is {run.status.lower()}: {otherwise}.", err=True)
    if as_json:
        click.echo(json.dumps({what: list(changed)}))
    else:
        click.echo(f"{count(len(changed), 'run')} {what}.")


def show_details(run: Run) -> None:
    """Print what one line does not hold."""
    if run.status != "RUNNING" and (words := progress_words(run)):
        click.echo(f"  last at: {words}")
    for name in ("adapter", "machine", "note", "host"):
        if name in run.properties:
            click.echo(f"  {name}: {run.properties[name]}")
    click.echo(f"  asked: {json.dumps(dict(run.config), sort_keys=True, ensure_ascii=False)}")
    if run.error:
        click.echo(f"  error: {run.error}")
    if "traceback" in run.properties:
        click.echo(run.properties["traceback"])


def run_as_json(run: Run, estimator: Any) -> dict[str, Any]:
    """One run as JSON-ready values."""
    hidden = {"id", "status", "attempt", "max_attempts", "fence", "config", "owner", "token", "error", "lock"}
    hidden |= {"extractors", "stage", "stage_at", "stage_from", "step", "of", "loss"}
    return {
        "id": run.id,
        "model": run.model,
        "dataset": run.dataset,
        "status": run.status,
        "attempt": run.attempt,
        "max_attempts": run.max_attempts,
        "expired": run.expired,
        "error": run.error,
        "progress": None if run.progress is None else asdict(run.progress),
        "seconds_left": estimator.left(run).seconds if run.status == "RUNNING" else None,
        "config": dict(run.config),
        "extractors": dict(run.extractors),
        **{
            name: value
            for name, value in run.properties.items()
            if name not in hidden and name not in run.config
        },
    }


def show_summary(summary: WorkSummary, as_json: bool) -> None:
    """Print how the work went; failures go to stderr."""
    for run_id, error in summary.failed.items():
        click.echo(f"Failed: {run_id}: {error.splitlines()[0] if error else 'no reason given'}", err=True)
    for run_id, reason in summary.not_here.items():
        click.echo(f"Not possible here: {run_id}: {reason}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(summary), ensure_ascii=False))
        return
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
    click.echo(f"{count(summary.total, 'run')}: {', '.join(parts)}.")


COMMANDS = (plan, run, worker, status, retry, cancel)
