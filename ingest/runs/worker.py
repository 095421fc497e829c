"""A worker: takes runs from the ledger one after another and carries them out.

All that a worker needs is in the graph and in the folders that the graph names, so one may run on any machine
that reaches both: a child process of `ingest run`, a job of a batch system, an actor of a cluster.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.models import Statistics
from matchgraph.ingest.errors import ExtractorMismatch, RunOutdated
from matchgraph.ingest.instruments import FEATURES_FOLDER
from matchgraph.ingest.runs.artefacts import sweep
from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Run, select_runs
from matchgraph.ingest.runs.execution import CHECKPOINT_STEPS, LoraExecutor
from matchgraph.ingest.runs.jobs import Executor, Job, make_job
from matchgraph.ingest.runs.ledger import HEARTBEAT_S, LEASE_MS, Ledger
from matchgraph.ingest.runs.memory import FOOTPRINTS_FOLDER
from matchgraph.ingest.runs.owner import Owner
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.run import DONE_OUTCOME, NotHere, Unforeseen, carry_out
from matchgraph.ingest.runs.sources import Sources
from matchgraph.ingest.runs.tracking import TRACKING_FOLDER
from matchgraph.ingest.tables.comparison import define_metric
from matchgraph.ingest.tables.image_folders import source_of
from matchgraph.settings import setting
from matchgraph.training.measure.names import PROBE, parse_metric

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.extractors import Extractor

CACHE_FOLDER = "encodings"
# In the data folder: features of pretrained models' samples, for all runs that differ only in training.
PRETRAINED_FOLDER = "pretrained"
GIB = 2**30
# A step is short; what takes longer is cut off. Batch systems allow half a minute between the two signals.
GRACE_S = 10.0
# A process that waits for workers to stop leaves them time to return their runs to the queue.
PATIENCE_S = GRACE_S + 20.0
POLL_S = 30.0
# This many different runs failing in a row with unexpected errors point to a broken machine.
TOO_MANY_IN_A_ROW = 5


@dataclass(frozen=True)
class WorkerOptions(Execution):
    """How a worker works; none of it changes what comes out. Its first settings are those of `Execution`.

    Args:
        checkpoint_steps: training steps between two checkpoints.
        cache_gib: the most that cached encodings may take on disk, in GiB.
        max_runs: how many runs to take; None for no limit.
        poll_s: seconds between two looks for new runs when none is left; None to exit then.
        lease_ms: how long a claim holds without a heartbeat.
        heartbeat_s: seconds between two heartbeats.
    """

    checkpoint_steps: int = setting(
        CHECKPOINT_STEPS,
        "Training steps between two checkpoints; Ctrl-C loses none.",
        at_least=1,
    )
    cache_gib: float = setting(
        20.0, "Disk space for cached encodings of images and captions, in GiB.", above=0, option="--cache-gb"
    )
    max_runs: int | None = setting(None, "Run at most N runs, then exit.", at_least=1, metavar="N")
    poll_s: float | None = None
    lease_ms: int = LEASE_MS
    heartbeat_s: float = HEARTBEAT_S


@dataclass(frozen=True)
class WorkSummary:
    """How the work went.

    Args:
        total: runs asked for; those that were worked on or are still to be done, where all were.
        already_done: done before.
        done: done now.
        done_elsewhere: done by other workers meanwhile.
        failed: run id to error, of those that failed now or before.
        not_here: run id to reason, of those that this machine cannot carry out; they are queued.
        elsewhere: ids of runs that other workers hold.
        queued: ids of runs that are still to be done.
        cancelled: ids of runs that were cancelled.
    """

    total: int
    already_done: int
    done: int
    done_elsewhere: int
    failed: Mapping[str, str]
    not_here: Mapping[str, str]
    elsewhere: tuple[str, ...]
    queued: tuple[str, ...]
    cancelled: tuple[str, ...]


class Preparation:
    """Makes jobs from runs: finds their folders, and checks that these hold what was asked about.

    Args:
        graph: the graph.
        sources: checks the folders.
    """

    def __init__(self, graph: MatchingGraph, sources: Sources) -> None:
        self._graph, self._sources = graph, sources
        self._references: dict[tuple[str, str], Statistics] = {}

    def __call__(self, run: Run, out: Path) -> Job:
        """Return the job of a run.

        Raises:
            SourceChanged: a folder is not here, or holds something else here.
            ExtractorMismatch: there are no statistics of the dataset.
            RunOutdated: the model or dataset was ingested again with other content.
        """
        model = next(node for node in self._graph.models() if node.id == run.model)
        dataset = next(node for node in self._graph.datasets() if node.id == run.dataset)
        for kind, node in (("model", model), ("dataset", dataset)):
            if node.properties.get("content_hash") != run.properties[f"{kind}_fingerprint"]:
                raise RunOutdated(
                    f"The {kind} {node.id!r} was ingested again with different content, so run {run.id} "
                    "is out of date; queue a new one with `matchgraph ingest run`."
                )
        folder, images = self._sources.model(model), self._sources.images(dataset)
        # Before the work rather than after it: a result by a metric that is not known could not be written.
        for metric in run.config["metrics"]:
            define_metric(self._graph, parse_metric(metric))
        return make_job(run, folder, source_of(dataset), images, self._reference(run), out)

    def _reference(self, run: Run) -> Statistics | None:
        extractor = run.config["extractors"].get(PROBE)
        if extractor is None:
            return None
        if (extractor, run.dataset) not in self._references:
            own = self._graph.statistics(extractor, [run.dataset])
            self._references.update({(extractor, found.dataset): found for found in own})
        if (extractor, run.dataset) not in self._references:
            raise ExtractorMismatch(
                f"The graph has no statistics of {run.dataset!r} by the extractor {extractor}; ingest the "
                "dataset again with the probe that the run was planned with."
            )
        return self._references[extractor, run.dataset]


def work(
    graph: MatchingGraph,
    ledger: Ledger,
    executor: Executor,
    home: Path,
    reporter: Reporter,
    ids: Sequence[str] | None = None,
    *,
    without: Sequence[str] = (),
    sources: Sources | None = None,
    stop: threading.Event | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    max_runs: int | None = None,
    poll_s: float | None = None,
) -> WorkSummary:
    """Work off queued runs in this process until none is left that it can take.

    Args:
        graph: where results go.
        ledger: the ledger.
        executor: carries the runs out; closed at the end.
        home: the data folder; artefacts go to `runs/<run id>/` in it.
        reporter: hears how it goes.
        ids: the runs in the order of preference; None for all that are queued.
        without: runs to leave alone.
        sources: checks the folders of models and datasets; a planner's knows what it has listed.
        stop: set when the user wants it to end.
        heartbeat_s: seconds between two extensions of the lease.
        max_runs: how many runs to take; None for no limit.
        poll_s: seconds between two looks for new runs when none is left; None to exit then.

    Returns:
        How it went.

    Raises:
        UnknownRun: the ledger has no run of one of the ids.
        KeyboardInterrupt: the user stopped it; the current run was given back.
        GraphError: the graph is gone.
        OSError: the disk is full; the current run was given back.
    """
    stop = stop or threading.Event()
    before = ledger.runs(ids)
    select_runs(before, ids or ())
    sweep(home, before)
    already_done = sum(run.status == DONE for run in before) if ids is not None else 0
    if ids is not None:
        reporter.planned(len(before), already_done)
    prepare = Preparation(graph, sources or Sources())
    owner = Owner.here()
    ledger.recover(before)
    tried: list[str] = []
    not_here: dict[str, str] = {}
    broken: set[str] = set()
    model: str | None = None
    after: list[Run] | None = None
    done = 0
    try:
        while not stop.is_set() and (max_runs is None or len(tried) < max_runs):
            held = ledger.claim_next(ids, owner, without=[*without, *not_here], last=tried, model=model)
            if held is None:
                # Somebody may have died in the meantime, here or, by their lease, elsewhere.
                after = ledger.runs(ids)
                if ledger.recover(after):
                    continue
                if poll_s is None:
                    break
                stop.wait(poll_s)
                continue
            tried.append(held.id)
            model, after = held.model, None
            reporter.began(held)
            try:
                outcome, run = carry_out(
                    graph,
                    ledger,
                    held,
                    prepare,
                    executor,
                    home,
                    reporter,
                    stop=stop,
                    heartbeat_s=heartbeat_s,
                )
            except NotHere as reason:
                run, outcome = held, str(reason)
                not_here[held.id] = outcome
            except Unforeseen as failure:
                run, outcome = held, f"{type(failure.__cause__).__name__}: {failure}"
                broken.add(held.id)
                if len(broken) >= TOO_MANY_IN_A_ROW and failure.__cause__ is not None:
                    raise failure.__cause__ from None
            if outcome == DONE_OUTCOME:
                done += 1
                broken.clear()
            reporter.ended(run, outcome)
    finally:
        executor.close()
    if stop.is_set():
        raise KeyboardInterrupt
    after = ledger.runs(ids) if after is None else after
    worked_on = [run for run in after if ids is not None or run.id in tried or run.status == QUEUED]
    return summarise(worked_on, already_done=already_done, done=done, not_here=not_here)


def summarise(
    runs: Sequence[Run], *, already_done: int, done: int, not_here: Mapping[str, str] | None = None
) -> WorkSummary:
    """Return the summary of work on these runs, as they stand now."""

    def ids(status: str) -> tuple[str, ...]:
        return tuple(run.id for run in runs if run.status == status)

    return WorkSummary(
        total=len(runs),
        already_done=already_done,
        done=done,
        done_elsewhere=max(0, len(ids(DONE)) - already_done - done),
        failed={run.id: run.error or "" for run in runs if run.status == FAILED},
        not_here={run.id: not_here[run.id] for run in runs if not_here and run.id in not_here},
        elsewhere=ids(RUNNING),
        queued=ids(QUEUED),
        cancelled=ids(CANCELLED),
    )


def local_executor(
    home: Path,
    options: WorkerOptions,
    instruments: Mapping[str, Extractor] | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> LoraExecutor:
    """Return an executor that keeps encodings and features in the data folder.

    Args:
        home: the data folder.
        options: how to work.
        instruments: extractors that are loaded already, by name.
        notice: told of what a user should know.
    """
    from matchgraph.training.pipelines.cache import EncodingCache

    return LoraExecutor(
        options,
        options.checkpoint_steps,
        EncodingCache(home / CACHE_FOLDER, int(options.cache_gib * GIB)),
        {extractor.hash: extractor for extractor in (instruments or {}).values()},
        home / FEATURES_FOLDER,
        home / PRETRAINED_FOLDER,
        home / FOOTPRINTS_FOLDER,
        home / TRACKING_FOLDER,
        notice,
    )


def work_queue(
    settings: Settings,
    ids: Sequence[str] | None = None,
    options: WorkerOptions | None = None,
    *,
    without: Sequence[str] = (),
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
) -> WorkSummary:
    """Work off queued runs in this process, with everything set up from the graph.

    A plain function of picklable arguments, where reporter and stop are left out, so that a cluster can call
    it.

    Args:
        settings: which graph, and the data folder.
        ids: the runs in the order of preference; None for all that are queued.
        options: how to work.
        without: runs to leave alone.
        reporter: hears how it goes.
        stop: set when the user wants it to end.

    Returns:
        How it went.

    Raises:
        UnknownRun: the ledger has no run of one of the ids.
        KeyboardInterrupt: the user stopped it; the current run was given back.
        GraphError: the graph cannot be reached.
    """
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.repository import MatchingGraph

    options = options or WorkerOptions()
    with connect(settings) as runner:
        return work(
            MatchingGraph(runner),
            Ledger(runner, lease_ms=options.lease_ms),
            local_executor(settings.home, options, notice=(reporter or Reporter()).notice),
            settings.home,
            reporter or Reporter(),
            ids,
            without=without,
            stop=stop,
            heartbeat_s=options.heartbeat_s,
            max_runs=options.max_runs,
            poll_s=options.poll_s,
        )


@contextmanager
def stopped_by_signals(
    announce: Callable[[], None] = lambda: None, *, grace_s: float = GRACE_S
) -> Iterator[threading.Event]:
    """Take Ctrl-C, and the request to end that batch systems send, as a wish to stop at the next step.

    A second one, or `grace_s` seconds without a step, ends what is being done by KeyboardInterrupt.

    Args:
        announce: called at the first signal.
        grace_s: seconds from the first signal to the interrupt.

    Yields:
        Set at the first signal.
    """
    stop = threading.Event()
    main = threading.get_ident()
    # A real signal, to this very thread: it ends a call that waits as well.
    timer = threading.Timer(grace_s, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.daemon = True

    def ask(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        timer.start()
        announce()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
