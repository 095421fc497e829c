"""One fine-tuning run from its claim to its record.

What is done with a run is an executor's business (`ingest.runs.execution`); this module holds the lease
meanwhile, and tells the ledger how the attempt ended.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.errors import Error
from matchgraph.graphdb.errors import GraphError
from matchgraph.ingest.errors import (
    ConfigChanged,
    ExtractorMismatch,
    SourceChanged,
    StaleFence,
    TrackerUnavailable,
)
from matchgraph.ingest.runs.artefacts import claim_folder, keep_checkpoint, remove_all_but, remove_run
from matchgraph.ingest.runs.entries import CANCELLED, DONE, Run, RunProgress
from matchgraph.ingest.runs.jobs import Executor, Job
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.recording import DATABASE_FAULTS, record
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.training.errors import (
    BadAdapter,
    ExtractorUnavailable,
    InsufficientMemory,
    OutOfMemory,
    first_line,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

# What ended an attempt; an error's own words otherwise.
DONE_OUTCOME = "done"
LOST, GIVEN_UP = "taken by another worker", "cancelled"
# What is wrong with this machine or this program, and not with the run.
LOCAL_FAULTS = (
    SourceChanged,
    ExtractorMismatch,
    ExtractorUnavailable,
    ConfigChanged,
    InsufficientMemory,
    TrackerUnavailable,
)
# What another attempt may well get past, although it has a message for the user.
PASSING_FAULTS = (BadAdapter, OutOfMemory)
FULL = (errno.ENOSPC, errno.EDQUOT)


class Unforeseen(Exception):
    """An attempt failed by an error that should not be; the ledger has it. Its cause is the error itself."""


class NotHere(Exception):
    """This machine, or this version of the program, cannot carry the run out; it was given back."""


class Pulse:
    """Extends a claim's lease from a thread of its own, and tells the ledger how far the run is.

    Args:
        ledger: the ledger.
        held: the run as it was claimed.
        interval_s: seconds between two heartbeats; the first of each stage comes at once.
    """

    def __init__(self, ledger: Ledger, held: Run, interval_s: float) -> None:
        self.lost = threading.Event()
        self._ledger = ledger
        self._held = held
        self._interval_s = interval_s
        self._progress = RunProgress("loading")
        self._wake = threading.Event()
        self._over = False

    def note(self, progress: RunProgress) -> None:
        """Note how far the run is, for the next heartbeat."""
        entered = progress.stage != self._progress.stage
        self._progress = progress
        if entered:
            self._wake.set()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Keep the lease while the block runs."""
        thread = threading.Thread(target=self._beat, name=f"heartbeat-{self._held.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over = True
            self._wake.set()
            thread.join()

    def _beat(self) -> None:
        while not self._over:
            try:
                self._ledger.heartbeat(self._held, self._progress)
            except StaleFence:
                self.lost.set()
                return
            except GraphError:
                pass  # the lease outlasts several lost beats; the final write tells whether it held
            self._wake.wait(self._interval_s)
            self._wake.clear()


def carry_out(
    graph: MatchingGraph,
    ledger: Ledger,
    held: Run,
    prepare: Callable[[Run, Path], Job],
    executor: Executor,
    home: Path,
    reporter: Reporter,
    *,
    stop: threading.Event,
    heartbeat_s: float,
) -> tuple[str, Run]:
    """Carry out one claimed run and record it.

    Args:
        graph: where results go.
        ledger: the ledger.
        held: the run as this worker claimed it.
        prepare: makes the job from the run and the folder of this claim.
        executor: does the work.
        home: the data folder.
        reporter: hears how it goes.
        stop: set when the user wants it to end; the run is then given back at its next step.
        heartbeat_s: seconds between two extensions of the lease.

    Returns:
        "done", or why the attempt ended otherwise, and the run as it was last read.

    Raises:
        KeyboardInterrupt: the user stopped it; the run was given back and its checkpoint is kept.
        NotHere: the run was given back, as another machine may be able to carry it out.
        Unforeseen: the attempt failed by an error that should not be.
        GraphError: the graph is gone. The run is taken up again once its lease has expired.
        OSError: the disk is full; the run was given back.
    """
    out = claim_folder(home, held.id, held.fence)
    pulse = Pulse(ledger, held, heartbeat_s)

    def on_step(stage: str, done: int, of: int, loss: float | None = None) -> None:
        pulse.note(RunProgress(stage, done, of, loss))
        if pulse.lost.is_set():
            raise StaleFence(f"Run {held.id} was taken from this worker.")
        if stop.is_set():
            raise KeyboardInterrupt
        reporter.step(stage, done, of, loss)

    try:
        with pulse.beating():
            job = prepare(held, out)
            outcome = executor.execute(job, on_step)
            pulse.note(RunProgress("writing"))
            done = record(graph, ledger, held, job, outcome, home)
    except BaseException as error:
        return _after_error(ledger, held, error, out, home)
    remove_all_but(out)
    return DONE_OUTCOME, done


def _after_error(ledger: Ledger, held: Run, error: BaseException, out: Path, home: Path) -> tuple[str, Run]:
    """Tell the ledger how an attempt ended, and keep of its files what a later one can use."""
    if isinstance(error, DATABASE_FAULTS):
        # All files stay, since the run may be done.
        raise error
    run = ledger.run(held.id)
    if run.status == DONE and run.fence == held.fence:
        # What came between was too late: the run is recorded.
        remove_all_but(out)
        if isinstance(error, Exception):
            return DONE_OUTCOME, run
        raise error
    try:
        return _end_attempt(ledger, held, error, out, home), run
    except StaleFence:
        run = ledger.run(held.id)
        if run.status == CANCELLED:
            remove_run(home, held.id)
            return GIVEN_UP, run
        if run.status == DONE:
            shutil.rmtree(out, ignore_errors=True)
        else:
            keep_checkpoint(out)
        return LOST, run


def _end_attempt(ledger: Ledger, held: Run, error: BaseException, out: Path, home: Path) -> str:
    if isinstance(error, StaleFence):
        raise error
    if _is_full(error):
        keep_checkpoint(out)
        ledger.release(held, str(error))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
    if not isinstance(error, Exception):
        keep_checkpoint(out)
        ledger.release(held)
        raise error
    if isinstance(error, LOCAL_FAULTS):
        keep_checkpoint(out)
        ledger.release(held, str(error))
        raise NotHere(str(error)) from error
    lacking = is_out_of_memory(error)
    if isinstance(error, Error) and not isinstance(error, PASSING_FAULTS) and not lacking:
        # The seed is part of the question, so another attempt would fail in the same way.
        remove_run(home, held.id)
        ledger.fail(held, str(error), final=True)
        return str(error)
    keep_checkpoint(out)
    if isinstance(error, PASSING_FAULTS) or lacking:
        known = isinstance(error, PASSING_FAULTS)
        why = first_line(error) if known else f"out of memory: {first_line(error)}"
        ledger.fail(held, why)
        return why
    ledger.fail(
        held, f"{type(error).__name__}: {error}", traceback="".join(traceback.format_exception(error))
    )
    raise Unforeseen(str(error)) from error


def _is_full(error: BaseException | None) -> bool:
    # Libraries that are not written in Python hand on the words of the system instead of its number.
    while error is not None:
        if getattr(error, "errno", None) in FULL or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
