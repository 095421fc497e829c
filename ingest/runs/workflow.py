"""Fine-tuning runs as services: plan, queue, carry out, watch, cancel and retry them.

The command line and the Python API call these functions, which print nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.runs import local
from matchgraph.ingest.runs.artefacts import remove_run
from matchgraph.ingest.runs.choices import check_replicates, check_unfinished
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Run, select_runs
from matchgraph.ingest.runs.ledger import MAX_ATTEMPTS, Ledger
from matchgraph.ingest.runs.memory import ModelMemory, memory_of_models
from matchgraph.ingest.runs.plan import Plan, PlannedRun, queue_plan, survey
from matchgraph.ingest.runs.planning import Families, on_gpu, planned
from matchgraph.ingest.runs.repeats import write_means
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.status import RunsStatus, recorded_adapters
from matchgraph.ingest.runs.worker import WorkerOptions, WorkSummary, local_executor, summarise, work
from matchgraph.words import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.ingest.runs.ray_executor import ClusterOptions
    from matchgraph.training.measure.extractors import Extractor

WATCH_S = 2.0


@dataclass(frozen=True)
class PlanSummary:
    """What a plan has to do.

    Args:
        runs: all its runs, in the order of work.
        device_hours: how long those that are not done take on one device, as far as that is known.
        not_estimated: how many of them no time is known of.
        notes: what a user should know before the work begins.
        memory: by model, what its runs take of the GPU; empty where nobody knows how much that has.
    """

    runs: tuple[PlannedRun, ...]
    device_hours: float
    not_estimated: int
    notes: tuple[str, ...] = ()
    memory: Mapping[str, ModelMemory] = field(default_factory=dict)

    @property
    def to_do(self) -> int:
        """How many runs are not done."""
        return sum(run.state != DONE for run in self.runs)

    @property
    def time_unknown(self) -> bool:
        """Whether there is something to do and no time is known of any of it."""
        return self.not_estimated == self.to_do > 0

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "to_do": self.to_do}


@dataclass(frozen=True)
class QueuedRuns:
    """A plan whose runs are in the ledger.

    Args:
        plan: the plan.
        runs: its runs as they stand.
        instruments: the extractors that were loaded to plan, by name.
    """

    plan: Plan
    runs: tuple[Run, ...]
    instruments: Mapping[str, Extractor]

    @property
    def queued(self) -> list[str]:
        """Ids of the runs that wait for a worker."""
        return [run.id for run in self.runs if run.status == QUEUED]


@dataclass(frozen=True)
class ChangedRuns:
    """Runs that were queued again or cancelled.

    Args:
        changed: ids of those.
        unchanged: runs that were named and stayed as they are.
    """

    changed: tuple[str, ...]
    unchanged: tuple[Run, ...]


def plan_runs(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    *,
    home: Path,
    execution: Execution | None = None,
    families: Families | None = None,
) -> PlanSummary:
    """Say which runs there are to do and how long they take; writes nothing.

    Args:
        graph: the graph.
        config: what each run does.
        selection: which pairs, and what they are measured with.
        home: the data folder, in which weights of earlier runs lie.
        execution: how they would be carried out. Where the GPU's memory is known or given, the summary says
            what each model takes of it.
        families: settings that differ for models of some families, by name.

    Raises:
        NothingToDo: no pair is left, or a replicate would repeat a measurement under the same seed.
        ConfigChanged: a run of one of the pairs is unfinished with other settings.
        SourceChanged: a folder is gone or changed since it was ingested.
        ExtractorMismatch: a dataset was ingested with another probe.
        BadInput: the file of pairs has problems.
        IngestError: an extractor was not given.
    """
    ledger = Ledger(graph.runner)
    execution = execution or Execution()
    plan, _ = planned(graph, config, selection, "cpu", execution, home, families)
    everything = ledger.runs()
    if not selection.also:
        check_unfinished(everything, plan.requests.values())
    check_replicates(everything, plan.requests.values())
    runs = survey(graph, ledger, everything, plan, home, gpu=on_gpu(execution))
    seconds = [run.estimate.seconds for run in runs if run.state != DONE]
    known = [value for value in seconds if value is not None]
    hours = sum(known) / SECONDS_PER_HOUR
    models = {run.model: plan.models[run.model] for run in runs if run.state != DONE}
    memory = memory_of_models(plan.sources, models, plan.configs, execution, home)
    return PlanSummary(tuple(runs), hours, len(seconds) - len(known), plan.notes, memory)


def queue_runs(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    *,
    home: Path,
    device: str = "cpu",
    execution: Execution | None = None,
    families: Families | None = None,
    retry_failed: bool = False,
    max_attempts: int = MAX_ATTEMPTS,
) -> QueuedRuns:
    """Bring a plan's runs into the ledger, for workers to take.

    Args:
        graph: the graph.
        config: what each run does.
        selection: which pairs, and what they are measured with.
        home: the data folder, in which weights of earlier runs lie.
        device: where extractors are loaded, for a worker in this process to use them.
        execution: how they will be carried out: a model that fits its GPU in no other way is quantised.
        families: see `plan_runs`.
        retry_failed: whether failed runs are queued again.
        max_attempts: how often a run is begun before it counts as failed.

    Raises:
        IngestError: as `plan_runs`; nothing was queued.
    """
    execution = execution or Execution()
    plan, instruments = planned(
        graph, config, selection, device, execution, home, families, retry_failed=retry_failed
    )
    ledger = Ledger(graph.runner)
    runs = queue_plan(
        ledger,
        plan,
        home,
        retry_failed=retry_failed,
        also=selection.also,
        max_attempts=max_attempts,
    )
    if selection.repeats > 1:
        write_means(graph, ledger, runs)
    return QueuedRuns(plan, tuple(runs), instruments)


def run_pairs(
    graph: MatchingGraph,
    settings: Settings,
    config: RunConfig,
    selection: Selection,
    *,
    options: WorkerOptions | None = None,
    workers: int | None = 1,
    cluster: ClusterOptions | None = None,
    families: Families | None = None,
    retry_failed: bool = False,
    max_attempts: int = MAX_ATTEMPTS,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
) -> WorkSummary:
    """Queue runs and carry them out, on this machine or on a Ray cluster.

    Args:
        graph: the graph, which a cluster's nodes must reach.
        settings: how other processes reach it, and the data folder, which a cluster's nodes should share.
        config: what each run does.
        selection: which pairs, and what they are measured with.
        options: how each worker works.
        workers: on this machine: 1 for this process, more for as many child processes, None for one on each
            GPU or every four cores.
        cluster: which cluster, and how much of it; None for this machine.
        families: see `plan_runs`.
        retry_failed: whether failed runs are queued again.
        max_attempts: how often a run is begun before it counts as failed.
        reporter: hears how it goes.
        stop: set it to end the work at the next step.

    Returns:
        How it went.

    Raises:
        IngestError: as `plan_runs`; nothing was queued.
        RayMissing: Ray is not installed.
        ClusterUnusable: there is no such cluster, or its nodes cannot reach the graph.
        WorkerFailed: workers were lost one after another.
        KeyboardInterrupt: it was stopped; runs that were begun go on from their checkpoints another time.
    """
    if cluster is not None:
        from matchgraph.ingest.runs.ray_executor import work_on_ray

    options, reporter, stop = options or WorkerOptions(), reporter or Reporter(), stop or threading.Event()
    if workers is None:
        workers = local.worker_count(None, local.visible_gpus(options.device))
    alone = cluster is None and workers == 1
    queued = queue_runs(
        graph,
        config,
        selection,
        home=settings.home,
        device=options.device if alone else "cpu",
        execution=options,
        families=families,
        retry_failed=retry_failed,
        max_attempts=max_attempts,
    )
    for note in queued.plan.notes:
        reporter.notice(note)
    ledger, ids = Ledger(graph.runner), list(queued.plan.requests)
    if alone:
        executor = local_executor(settings.home, options, queued.instruments, reporter.notice)
        return work(
            graph, ledger, executor, settings.home, reporter, ids, sources=queued.plan.sources, stop=stop
        )

    gpu = on_gpu(options) if cluster is None else None

    def watch(runs: Sequence[Run]) -> None:
        reporter.standing(RunsStatus.of(runs, queued.plan.models, gpu=gpu))

    already = sum(run.status == DONE for run in queued.runs)
    if cluster is None:
        shares = local.shares_of(workers, options.device)
        not_here = local.work_locally(settings, ledger, ids, options, shares, watch, stop)
    else:
        not_here = work_on_ray(settings, ledger, ids, options, cluster, watch, stop, reporter.notice)
    runs = ledger.runs(ids)
    done = sum(run.status == DONE for run in runs)
    return summarise(runs, already_done=already, done=done - already, not_here=not_here)


def runs_status(
    graph: MatchingGraph,
    ids: Sequence[str] = (),
    *,
    running: bool = False,
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> RunsStatus:
    """Say how runs stand, and without ids which adapters trained elsewhere the edges have.

    Args:
        graph: the graph.
        ids: the runs; all by default.
        running: keep only those that are running.
        models: keep only those of these models; empty for all.
        datasets: keep only those on these datasets; empty for all.

    Raises:
        UnknownRun: the ledger has no such run.
        NodeNotFound: a model or dataset is not in the graph.
    """
    for model in models:
        graph.require("model", model)
    for dataset in datasets:
        graph.require("dataset", dataset)
    everything = Ledger(graph.runner).runs()
    chosen = [
        run
        for run in (select_runs(everything, ids) if ids else everything)
        if (run.status == RUNNING or not running)
        and (run.model in models or not models)
        and (run.dataset in datasets or not datasets)
    ]
    found = RunsStatus.of(chosen, {model.id: model for model in graph.models()}, measured=everything)
    if ids or running:
        return found
    return replace(found, adapters=recorded_adapters(graph, models, datasets))


def watch_runs(graph: MatchingGraph, ids: Sequence[str] = (), *, reporter: Reporter) -> None:
    """Report how runs stand again and again, until none is queued or running.

    Args:
        graph: the graph.
        ids: the runs; all by default.
        reporter: hears it.
    """
    while True:
        status = runs_status(graph, ids)
        reporter.standing(status)
        if not any(run.status in {QUEUED, RUNNING} for run in status.runs):
            return
        time.sleep(WATCH_S)


def retry_runs(graph: MatchingGraph, ids: Sequence[str] = ()) -> ChangedRuns:
    """Queue failed or cancelled runs again, with all their attempts.

    Args:
        graph: the graph.
        ids: the runs; all that have failed by default.

    Raises:
        UnknownRun: the ledger has no such run.
    """
    ledger = Ledger(graph.runner)
    everything = ledger.runs()
    chosen = select_runs(everything, ids) if ids else everything
    statuses = [FAILED, CANCELLED] if ids else [FAILED]
    return _changed(ids, chosen, ledger.requeue([run.id for run in chosen], statuses=statuses))


def cancel_runs(graph: MatchingGraph, ids: Sequence[str] = (), *, home: Path) -> ChangedRuns:
    """Cancel queued and running runs; a worker that is at one stops at its next heartbeat.

    Args:
        graph: the graph.
        ids: the runs; all by default.
        home: the data folder; what earlier attempts at queued runs left there is removed.

    Raises:
        UnknownRun: the ledger has no such run.
    """
    ledger = Ledger(graph.runner)
    everything = ledger.runs()
    chosen = select_runs(everything, ids) if ids else everything
    cancelled = ledger.cancel([run.id for run in chosen])
    for run in chosen:
        # What a running one leaves is removed by its worker.
        if run.id in cancelled and run.status == QUEUED:
            remove_run(home, run.id)
    return _changed(ids, chosen, cancelled)


def _changed(named: Sequence[str], chosen: Sequence[Run], changed: Sequence[str]) -> ChangedRuns:
    unchanged = tuple(run for run in chosen if run.id not in changed) if named else ()
    return ChangedRuns(tuple(changed), unchanged)
