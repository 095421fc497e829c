"""One fine-tuning run from its claim to its record.

What is done with a run is an executor's business (`ingest.runs.execution`); this module holds the lease
meanwhile,
and records the run once and wholly, or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from matchgraph.errors import Error
from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.errors import (
    AuthenticationFailed,
    DatabaseFailed,
    GraphChanged,
    GraphError,
    ServerUnreachable,
)
from matchgraph.graphdb.models import Result, Stage, Statistics
from matchgraph.ingest.errors import (
    ConfigChanged,
    ExtractorMismatch,
    SourceChanged,
    StaleFence,
    TrackerUnavailable,
)
from matchgraph.ingest.runs.artefacts import (
    CHECKPOINT_FOLDER,
    RECORD_FILE,
    carry_checkpoint,
    claim_folder,
    keep_checkpoint,
    remove_all_but,
    remove_run,
)
from matchgraph.ingest.runs.cards import write_model_card
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.ingest.runs.entries import CANCELLED, DONE, Run, RunProgress
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import machine_id
from matchgraph.ingest.runs.pages import write_run_page
from matchgraph.ingest.runs.repeats import COST, averaged, results_of_run
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.training.errors import (
    BadAdapter,
    ExtractorUnavailable,
    InsufficientMemory,
    OutOfMemory,
    first_line,
    is_out_of_memory,
)
from matchgraph.training.files import file_hash, write_json

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.images import CaptionedImage, DatasetFolder
    from matchgraph.training.measure.scoring import Score

# What ended an attempt; an error's own words otherwise.
DONE_OUTCOME = "done"
LOST, GIVEN_UP = "taken by another worker", "cancelled"
# How long a finished run waits for a database that went away, say to be started again.
PATIENCE_S = 600.0
RETRY_S = 2.0
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
# The database is gone; the last write may have been committed or not.
DATABASE_FAULTS = (ServerUnreachable, DatabaseFailed, AuthenticationFailed)
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """One run, ready to be executed.

    Args:
        run: the run's id.
        model: the model's id.
        model_folder: its pipeline folder.
        model_hash: hash of its files.
        dataset: the dataset's id.
        dataset_folder: its image folder.
        dataset_hash: hash of the dataset's images and captions.
        images: the dataset's images with their captions.
        reference: statistics of the dataset's images by the probe; None where no metric needs it.
        config: what to do.
        asked: the same as the ledger has it, hashes of the extractors included.
        extractors: where each extractor's weights are, by its name: `WEIGHTS` or `KIND:WEIGHTS`.
        out: an empty folder for the artefacts.
        checkpoint: the folder in it for what lets a later claim go on; removed when the run is done.
        resume_from: the same folder where it holds an earlier claim's checkpoint, else None.
        adapter: what was trained elsewhere and is to be scored; None to fine-tune.
    """

    run: str
    model: str
    model_folder: Path
    model_hash: str
    dataset: str
    dataset_folder: Path | DatasetFolder
    dataset_hash: str
    images: Sequence[CaptionedImage]
    reference: Statistics | None
    config: RunConfig
    asked: Mapping[str, Any]
    extractors: Mapping[str, str]
    out: Path
    checkpoint: Path
    resume_from: Path | None
    adapter: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What an executor hands back.

    Args:
        finetuned: the scores after fine-tuning, one for each metric asked for.
        initial: the scores before it; empty where they were not asked for.
        adapter: the trained weights, in the job's folder.
        training_seconds: how long fine-tuning took; None where it was done elsewhere.
        seconds_per_image: how long sampling one image took.
        details: further JSON-ready facts for the record (losses, versions...).
    """

    finetuned: tuple[Score, ...]
    initial: tuple[Score, ...]
    adapter: Path
    training_seconds: float | None
    seconds_per_image: float
    details: Mapping[str, Any]


class OnStep(Protocol):
    """Receives the progress of a run; raises to stop it when another worker took it or the user asks."""

    def __call__(self, stage: str, done: int, of: int, loss: float | None = None) -> None:
        """Take note.

        Args:
            stage: what the run is at, see `ingest.runs.entries.LONG_STAGES` for those that take long.
            done: how much of the stage is done.
            of: of how much.
            loss: the training loss, if there is one.
        """
        ...


class Executor(Protocol):
    """Carries out runs."""

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score, fine-tune, sample and score.

        Args:
            job: the run.
            on_step: to be called often.

        Raises:
            TrainingError: the run cannot be carried out; another attempt would end in the same way.
        """
        ...

    def close(self) -> None:
        """Free what is held from run to run."""
        ...


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
            done = _record(graph, ledger, held, job, outcome, home)
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


def make_job(
    run: Run,
    model_folder: Path,
    dataset_folder: Path | DatasetFolder,
    images: Sequence[CaptionedImage],
    reference: Statistics | None,
    out: Path,
) -> Job:
    """Make a run's job and its folder.

    Args:
        run: the run.
        model_folder: where the model is here.
        dataset_folder: where the dataset is here.
        images: its images with their captions.
        reference: statistics of the dataset's images by the probe; None where no metric needs it.
        out: the folder of this claim.

    Raises:
        ConfigChanged: this version of the program would do something else than was asked for.
    """
    config = RunConfig.from_asked(run.config)
    for name, value in config.drawn_by_default(model_folder).items():
        if run.config.get(name) != value:
            raise ConfigChanged(
                f"The run was queued by another version of matchgraph, which sampled {run.model} "
                f"differently: {name} is {value:g} here. Cancel the run and queue it again."
            )
    resume_from = carry_checkpoint(out)
    return Job(
        run=run.id,
        model=run.model,
        model_folder=model_folder,
        model_hash=run.properties["model_fingerprint"],
        dataset=run.dataset,
        dataset_folder=dataset_folder,
        dataset_hash=run.properties["dataset_fingerprint"],
        images=images,
        reference=reference,
        config=config,
        asked=run.config,
        extractors=run.extractors,
        out=out,
        checkpoint=out / CHECKPOINT_FOLDER,
        resume_from=resume_from,
    )


def _record(graph: MatchingGraph, ledger: Ledger, held: Run, job: Job, outcome: Outcome, home: Path) -> Run:
    adapter_hash = file_hash(outcome.adapter)
    record = {
        "run": job.run,
        "asked": {
            "model": job.model,
            "model_folder": str(job.model_folder),
            "dataset": job.dataset,
            "dataset_folder": str(job.dataset_folder),
            **job.asked,
        },
        "measured": {
            "finetuned": [score.to_dict() for score in outcome.finetuned],
            "initial": [score.to_dict() for score in outcome.initial],
            "training_seconds": outcome.training_seconds,
            "seconds_per_image": outcome.seconds_per_image,
        },
        "with": {"adapter_sha256": adapter_hash, "attempt": held.attempt, **outcome.details},
    }
    note = present(job.out, record)
    write_json(job.out / RECORD_FILE, record if note is None else {**record, "note": note})
    results = results_of(job, outcome)
    values = {
        "adapter": outcome.adapter.relative_to(home).as_posix(),
        "adapter_sha256": adapter_hash,
        "machine": machine_id(),
        # A property that is None is none.
        "note": note,
        "training_seconds": outcome.training_seconds,
        "seconds_per_image": outcome.seconds_per_image,
        "device": outcome.details.get("device"),
        **_figures(outcome.finetuned, ""),
        **_figures(outcome.initial, INITIAL),
    }

    def write() -> Run:
        # A run can be asked for as a repeat while it is carried out.
        average, others = ledger.averaged_with(held.id)
        means = results
        if average is not None:
            means = averaged([*map(results_of_run, others), results])
        return ledger.complete(held, graph, [] if held.replicate else means, values, average, others)

    while True:
        try:
            return _patiently(write)
        except GraphChanged:
            continue


def _figures(scores: Sequence[Score], prefix: str) -> dict[str, Any]:
    """Values as a run keeps them, and as an edge does: each with what it was measured with."""
    return {
        f"{prefix}{score.metric}{'' if name == 'value' else f'__{name}'}": value
        for score in scores
        for name, value in score.to_dict().items()
        if name != "metric"
    }


def _patiently(write: Callable[[], Run]) -> Run:
    """Write, also where the database goes away and comes back; the fence tells whether it is still right."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return write()
        except DATABASE_FAULTS:
            if time.monotonic() > give_up:
                raise
            time.sleep(RETRY_S)


def present(out: Path, record: Mapping[str, Any]) -> str | None:
    """Write a run's page and model card, neither of which is worth a run.

    Args:
        out: the run's folder.
        record: what `record.json` will hold.

    Returns:
        Why one of them is missing; None where both are there.
    """
    notes = []
    for what, write in (("page", write_run_page), ("model card", write_model_card)):
        try:
            write(out, record)
        except Exception as error:
            notes.append(f"no {what}: {type(error).__name__}: {error}".splitlines()[0])
    return "; ".join(notes) or None


def results_of(job: Job, outcome: Outcome) -> list[Result]:
    """Return what a run measured as the graph keeps it, each value with what it was measured with."""
    cost = {name: value for name in COST if (value := getattr(outcome, name)) is not None}
    stages: Sequence[tuple[Stage, Sequence[Score], Mapping[str, float]]] = (
        ("finetuned", outcome.finetuned, cost),
        ("initial", outcome.initial, {}),
    )
    return [
        Result(job.model, job.dataset, score.metric, score.value, stage, {**_provenance(job, score), **extra})
        for stage, scores, extra in stages
        for score in scores
    ]


def _provenance(job: Job, score: Score) -> dict[str, Any]:
    return {
        "run": job.run,
        "n_real": score.n_real,
        "n_gen": score.n_gen,
        "extractor": score.extractor,
        "extractor_name": score.extractor_name,
        "resize": score.resize,
        "version": score.version,
        "seeds": [job.config.seed],
        **{
            name: value
            for name in ("std", "standard_error", "bias")
            if (value := getattr(score, name)) is not None
        },
    }
