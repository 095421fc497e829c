"""Fine-tuning runs as services: plan, queue, carry out, watch, cancel and retry them.

The command line and the Python API call these functions, which print nothing.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from matchgraph.errors import Error
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.instruments import extractor_specs, load_instruments
from matchgraph.ingest.runs import local
from matchgraph.ingest.runs.artefacts import remove_run
from matchgraph.ingest.runs.choices import check_replicates, check_unfinished
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.estimates import ASSUMED, UNMEASURED, Estimate, Estimator
from matchgraph.ingest.runs.ledger import (
    CANCELLED,
    DONE,
    FAILED,
    MAX_ATTEMPTS,
    QUEUED,
    RUNNING,
    Ledger,
    Run,
    finished,
    select_runs,
)
from matchgraph.ingest.runs.memory import (
    FOOTPRINTS_FOLDER,
    ModelMemory,
    memory_of_models,
    narrowed,
    quantised_to_fit,
)
from matchgraph.ingest.runs.plan import (
    Plan,
    PlannedRun,
    make_plan,
    queue_plan,
    select_pairs,
    survey,
)
from matchgraph.ingest.runs.repeats import write_means
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.status import RunsStatus, recorded_adapters
from matchgraph.ingest.runs.worker import WorkerOptions, WorkSummary, local_executor, summarise, work
from matchgraph.training.files import folder_name
from matchgraph.training.measure.extractors import require_images
from matchgraph.training.measure.scoring import needed_extractors
from matchgraph.words import SECONDS_PER_HOUR, some

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.ingest.runs.ray_executor import ClusterOptions
    from matchgraph.training.measure.extractors import Extractor

WATCH_S = 2.0
# Settings of runs that differ for models of some families: by the family's name, by theirs.
Families: TypeAlias = Mapping[str, Mapping[str, Any]]


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


@dataclass(frozen=True)
class Candidates:
    """Pairs that could be measured, and what each costs.

    Args:
        snapshot: the graph with its results by the first metric asked for.
        pairs: those selected that no run of the ledger is at.
        hours: of one device for a pair under all its seeds, by model.
        note: why a budget in hours cannot be kept to; empty where it can.
    """

    snapshot: Snapshot
    pairs: frozenset[tuple[str, str]]
    hours: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Measurable:
    """A model that can be fine-tuned on a dataset.

    Args:
        config: as the newest run of the model was done or, where there is none, the newest run of all.
        estimate: how long it takes on one device, and what that is estimated from.
    """

    config: RunConfig
    estimate: Estimate

    @property
    def hours(self) -> float | None:
        """How long it takes on one device; None where nothing is known of it."""
        return self.estimate.hours


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


def missing_runs(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    execution: Execution | None = None,
    families: Families | None = None,
) -> Candidates:
    """Find the pairs that a proposal may choose from; writes nothing and looks into no folder.

    Args:
        graph: the graph.
        config: what each run would do; results are those by its first metric.
        selection: which pairs.
        execution: how they would be carried out.
        families: see `plan_runs`.

    Raises:
        NothingToDo: a model or dataset is unknown, or none has a folder.
        BadInput: the file of pairs has problems.
    """
    snapshot = graph.snapshot(config.metrics[0])
    models = {model.id: model for model in snapshot.models}
    datasets = {dataset.id: dataset for dataset in snapshot.datasets}
    runs = Ledger(graph.runner).runs()
    unfinished = {(run.model, run.dataset) for run in runs if run.status != DONE}
    pairs = frozenset(select_pairs(models, datasets, selection)) - unfinished
    execution = execution or Execution()
    configs = {
        name: narrowed(
            replace(config, **(families or {}).get(str(model.properties.get("family")), {})), execution
        ).asked()
        for name, model in models.items()
    }

    def estimated(gpu: bool) -> dict[str, float | None]:
        estimator = Estimator(runs, models, gpu=gpu, host=platform.node())
        return {name: estimator.whole(name, asked).hours for name, asked in configs.items()}

    hours, because = estimated(on_gpu(execution)), ""
    if not any(hours.values()):
        # Which model takes longer than which is known all the same.
        hours, because = estimated(gpu=True), f"{UNMEASURED}; times are those of {ASSUMED}"
    known = [each for each in hours.values() if each]
    # A model of which nothing is known may cost as much as any.
    usual = median(known) if known else 1.0
    costs = {model: (each or usual) * selection.repeats for model, each in hours.items()}
    if unknown := sorted({model for model, _ in pairs if not hours[model]}):
        because = f"the time of {some(unknown)} is not known, and counts as {costs[unknown[0]]:.3g} h"
    note = f"The budget cannot be kept to: {because}." if because else ""
    return Candidates(snapshot, pairs, costs, note)


def measurable_models(graph: MatchingGraph, dataset: str | None, metric: str) -> dict[str, Measurable]:
    """Find the models that can be measured on a dataset as the graph's results were; writes nothing.

    Args:
        graph: the graph.
        dataset: id of one of its datasets; None for one that it does not have yet.
        metric: what is measured.

    Returns:
        By id, those that have a folder.

    Raises:
        NodeNotFound: the dataset is not in the graph.
    """
    if dataset is not None:
        graph.require("dataset", dataset)
    models = {model.id: model for model in graph.models()}
    runs = Ledger(graph.runner).runs()
    done = [run for run in finished(runs) if metric in run.config["metrics"]]
    newest = {run.model: run for run in done}
    estimator = Estimator(runs, models, gpu=on_gpu(Execution()), host=platform.node())
    found = {}
    for model in sorted(name for name, node in models.items() if node.properties.get("source")):
        like = newest.get(model, done[-1] if done else None)
        config = RunConfig() if like is None else RunConfig.as_recorded(like.config)
        config = replace(config, metrics=(metric,), initial=True)
        found[model] = Measurable(config, estimator.whole(model, config.asked()))
    return found


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


def planned(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    device: str,
    execution: Execution,
    home: Path,
    families: Families | None = None,
    *,
    retry_failed: bool = False,
) -> tuple[Plan, dict[str, Extractor]]:
    """The plan, and the extractors that it was made with, by name."""
    specs = extractor_specs(selection.probe, selection.extractors)
    needed = needed_extractors(config.metrics)
    loaded = load_instruments(specs, needed, device)
    instruments = {name: require_images(found, name) for name, found in loaded.items()}
    located = {name: specs[name].located() for name in needed}
    weights = {name: f"{spec.kind}:{spec.weights}" for name, spec in located.items()}
    kept = home / FOOTPRINTS_FOLDER
    plan = make_plan(
        graph,
        config,
        instruments,
        selection,
        weights=weights,
        own=lambda folder, asked: of_family(folder, asked, families or {}),
        fitted=lambda folder, asked: quantised_to_fit(folder, narrowed(asked, execution), execution, kept),
        runs=Ledger(graph.runner).runs(),
        retry_failed=retry_failed,
    )
    return plan, instruments


def of_family(folder: Path, config: RunConfig, families: Families) -> RunConfig:
    """The configuration with what differs for the family of a model's folder.

    Raises:
        IngestError: the settings do not go together, the family has no min-SNR weights, or the model no
            positions for aspect buckets.
    """
    from matchgraph.training.errors import UnknownFamily
    from matchgraph.training.pipelines.families import family_of
    from matchgraph.training.pipelines.loading import read_model_index

    if not families and config.snr_gamma is None and not config.aspect_buckets:
        return config
    try:
        own = family_of(read_model_index(folder))
    except UnknownFamily:
        return config
    settings = families.get(own.name, {})
    try:
        found = replace(config, **settings)
        # What fine-tuning refuses.
        found.fine_tuning(Execution())
        if found.aspect_buckets:
            own.check_buckets(folder, found.resolution_px)
    except Error as error:
        raise IngestError(f"{own.name}: {error}") from error
    if found.snr_gamma is not None and not own.has_min_snr(folder):
        raise IngestError(
            f"{folder_name(folder)} is of the family {own.name}, which has no min-SNR weights: leave "
            "--snr-gamma out, or set it in a --run-file for other families only."
        )
    return found


def on_gpu(execution: Execution) -> bool:
    """Whether runs are for a GPU: one that is here, or one whose memory the user names."""
    return execution.gpu_memory is not None or bool(local.visible_gpus(execution.device))


def _changed(named: Sequence[str], chosen: Sequence[Run], changed: Sequence[str]) -> ChangedRuns:
    unchanged = tuple(run for run in chosen if run.id not in changed) if named else ()
    return ChangedRuns(tuple(changed), unchanged)
