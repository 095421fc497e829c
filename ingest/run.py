"""Working off fine-tuning runs in this process: score, fine-tune, sample, score again, record.

What is done with a run is an executor's business (`ingest.execution`); this module decides which runs there
are, holds their leases while they are worked on, and records each once and wholly, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graphdb.errors import GraphError
from graphdb.models import INITIAL, Dataset, Model, Result, Statistics, check_metric_name
from ingest.cards import write_model_card
from ingest.datasets import METRIC, MINIMUM_IMAGES, listed_hash
from ingest.errors import (
    BadInput,
    ExtractorMismatch,
    IngestError,
    NothingToDo,
    SourceChanged,
    StaleFence,
)
from ingest.ledger import (
    DONE,
    FAILED,
    HEARTBEAT_S,
    QUEUED,
    RUNNING,
    Claim,
    Ledger,
    Owner,
    Run,
    RunRequest,
    machine_id,
)
from ingest.models import pipeline_fingerprint
from ingest.pages import write_run_page
from ingest.results import check_known
from ingest.tables import check_ids, read_table

if TYPE_CHECKING:
    from graphdb.repository import MatchingGraph
    from training.extractors import Extractor
    from training.generate import SampleConfig
    from training.lora import FineTuneConfig
    from training.scoring import Score

RECORD_FILE = "record.json"


@dataclass(frozen=True)
class RunConfig:
    """What a fine-tuning run does; every field is part of the question that the run answers.

    Args:
        steps: optimiser steps.
        batch_size: images in a step.
        learning_rate: of AdamW.
        rank: LoRA rank.
        resolution_px: side of the images trained on and sampled.
        precision: "fp32" or "bf16".
        seed: of training and sampling.
        samples: images sampled for the score.
        sampling_steps: scheduler steps for an image; None for the family's default.
        guidance: classifier-free guidance scale; None for the family's default.
        initial: whether the pretrained model is scored too.
        metrics: what is measured, the metric of the edge's weight among them or not.

    Raises:
        IngestError: fewer than two samples, or no metric, or one that is named twice.
        InvalidConfig: another value is out of its range.

    Source:
        Match & Choose, section 5.1, "Setup": 10,000 steps, batch 8, learning rate 1e-5 with AdamW, LoRA,
        10,000 samples; rank and resolution are not given there.
    """

    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-5
    rank: int = 16
    resolution_px: int = 512
    precision: str = "fp32"
    seed: int = 42
    samples: int = 10_000
    sampling_steps: int | None = None
    guidance: float | None = None
    initial: bool = True
    metrics: tuple[str, ...] = (METRIC,)

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise IngestError(f"metrics is {list(self.metrics)}; name at least one, each once.")
        for metric in self.metrics:
            check_metric_name(metric)
        if self.samples < MINIMUM_IMAGES:
            raise IngestError(f"samples is {self.samples}; a score takes {MINIMUM_IMAGES} or more.")
        self.fine_tuning()
        self.sampling()

    def fine_tuning(self, device: str = "auto") -> FineTuneConfig:
        """Return the part that fine-tunes; LoRA alpha equals the rank, so the update is not scaled."""
        from training.lora import FineTuneConfig

        return FineTuneConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            rank=self.rank,
            alpha=self.rank,
            resolution_px=self.resolution_px,
            seed=self.seed,
            precision=self.precision,
            device=device,
        )

    def sampling(self, device: str = "auto") -> SampleConfig:
        """Return the part that samples."""
        from training.generate import SampleConfig

        return SampleConfig(
            n=self.samples,
            steps=self.sampling_steps,
            guidance=self.guidance,
            seed=self.seed,
            resolution_px=self.resolution_px,
            batch_size=self.batch_size,
            precision=self.precision,
            device=device,
        )

    def asked(self) -> dict[str, Any]:
        """Return everything that the answer depends on, defaults of the training package included."""
        whole = {**self.fine_tuning().to_dict(), **asdict(self), "metrics": list(self.metrics)}
        del whole["device"]
        return whole


@dataclass(frozen=True)
class Job:
    """One run, ready to be executed.

    Args:
        run: the run's id.
        model: the model's id.
        model_folder: its pipeline folder.
        dataset: the dataset's id.
        dataset_folder: its image folder.
        reference: statistics of the dataset's images.
        config: what to do.
        out: an empty folder for the artefacts.
    """

    run: str
    model: str
    model_folder: Path
    dataset: str
    dataset_folder: Path
    reference: Statistics
    config: RunConfig
    out: Path


@dataclass(frozen=True)
class Outcome:
    """What an executor hands back.

    Args:
        finetuned: the scores after fine-tuning, one for each metric asked for.
        initial: the scores before it; empty where they were not asked for.
        adapter: the trained weights, in the job's folder.
        training_seconds: how long fine-tuning took.
        seconds_per_image: how long sampling one image took.
        details: further JSON-ready facts for the record (losses, versions...).
    """

    finetuned: tuple[Score, ...]
    initial: tuple[Score, ...]
    adapter: Path
    training_seconds: float
    seconds_per_image: float
    details: Mapping[str, Any]


# Told the name of a step within a run, how much of it is done, and of how much.
OnStep = Callable[[str, int, int], None]


class Executor(Protocol):
    """Carries out a run."""

    extractor: Extractor

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score, fine-tune, sample and score.

        Args:
            job: the run.
            on_step: to be called often; it raises to stop a run that was taken from this worker.

        Raises:
            TrainingError: the run cannot be carried out; another attempt would end in the same way.
        """
        ...

    def close(self) -> None:
        """Free what is held from run to run."""
        ...


class Reporter(Protocol):
    """Told how the work goes, for progress bars and logs."""

    def planned(self, total: int, done: int) -> None:
        """Say how many runs there are and how many of them are done already."""
        ...

    def began(self, run: Run) -> None:
        """Say that a run is worked on."""
        ...

    def step(self, name: str, done: int, of: int) -> None:
        """Say how far the run is."""
        ...

    def ended(self, run: Run, outcome: str) -> None:
        """Say how a run, as the ledger now holds it, ended: "done", or why not."""
        ...


@dataclass(frozen=True)
class WorkSummary:
    """How the work went.

    Args:
        total: runs asked for.
        already_done: done before.
        done: done now.
        failed: run id to error, of those that failed now or before.
        elsewhere: ids of runs that other workers hold.
        queued: ids of runs that are still to be done.
    """

    total: int
    already_done: int
    done: int
    failed: Mapping[str, str]
    elsewhere: tuple[str, ...]
    queued: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The runs asked for, grouped by model.

    Args:
        requests: run id to request, in the order of work.
        models: the models by id.
        datasets: the datasets by id.
        references: statistics by dataset id.
        config: what each run does.
    """

    requests: Mapping[str, RunRequest]
    models: Mapping[str, Model]
    datasets: Mapping[str, Dataset]
    references: Mapping[str, Statistics]
    config: RunConfig


def read_pairs(path: Path, *, models: Collection[str], datasets: Collection[str]) -> list[tuple[str, str]]:
    """Read (model, dataset) pairs from a CSV file with these two columns.

    Args:
        path: the file.
        models: ids of the models in the graph.
        datasets: ids of the datasets in the graph.

    Returns:
        The pairs, each once.

    Raises:
        BadInput: the file has problems.
    """
    table = read_table(path, required=("model", "dataset"))
    check_ids(table, {"model": "model", "dataset": "dataset"})
    check_known(table, "model", "model", models)
    check_known(table, "dataset", "dataset", datasets)
    if table.problems:
        raise BadInput(sorted(set(table.problems)), skippable=False)
    return list(dict.fromkeys((row.cells["model"], row.cells["dataset"]) for row in table.rows))


def plan_runs(
    graph: MatchingGraph,
    config: RunConfig,
    extractor: Extractor,
    *,
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
    pairs: Path | None = None,
) -> Plan:
    """Decide which runs there are; reads the graph and the folders, writes nothing.

    Args:
        graph: the graph.
        config: what each run does.
        extractor: the probe model, which must be the one that the datasets were ingested with.
        models: ids of the models; none for all that have a folder.
        datasets: ids of the datasets; none for all that have a folder.
        pairs: a CSV file of pairs, instead of all models with all datasets.

    Returns:
        The plan, grouped by model.

    Raises:
        NothingToDo: no pair is left.
        SourceChanged: a folder is gone or holds something else than was ingested.
        ExtractorMismatch: a dataset was ingested with another probe.
        BadInput: the file of pairs has problems.
    """
    all_models = {model.id: model for model in graph.models()}
    all_datasets = {dataset.id: dataset for dataset in graph.datasets()}
    if pairs is not None:
        wanted = read_pairs(pairs, models=all_models, datasets=all_datasets)
    else:
        chosen_models = _chosen("model", models, all_models)
        chosen_datasets = _chosen("dataset", datasets, all_datasets)
        wanted = [(model, dataset) for model in chosen_models for dataset in chosen_datasets]
    wanted.sort()
    model_hashes = {model: _model_hash(all_models[model]) for model, _ in wanted}
    dataset_hashes = {dataset: _dataset_hash(all_datasets[dataset]) for _, dataset in wanted}
    references = _references(graph, extractor, [all_datasets[dataset] for dataset in dataset_hashes])
    asked = {**config.asked(), "extractor": extractor.hash}
    requests = [
        RunRequest(model, dataset, asked, model_hashes[model], dataset_hashes[dataset])
        for model, dataset in wanted
    ]
    return Plan({request.id: request for request in requests}, all_models, all_datasets, references, config)


def _chosen(kind: str, ids: Sequence[str], known: Mapping[str, Model] | Mapping[str, Dataset]) -> list[str]:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise NothingToDo(
            f"There is no {kind} {unknown[0]!r} in the graph; add it with `matchgraph ingest {kind}s`."
        )
    chosen = list(dict.fromkeys(ids)) or [
        name for name, node in known.items() if node.properties.get("source")
    ]
    if not chosen:
        raise NothingToDo(
            f"No {kind} in the graph has a folder; add one with `matchgraph ingest {kind}s FOLDER`."
        )
    return chosen


def _source(kind: str, node: Model | Dataset) -> Path:
    source = node.properties.get("source")
    if not isinstance(source, str):
        raise SourceChanged(
            f"The {kind} {node.id!r} has no folder, as it came from a table; add one with `matchgraph ingest "
            f"{kind}s FOLDER`."
        )
    folder = Path(source)
    if not folder.is_dir():
        raise SourceChanged(
            f"The folder of {kind} {node.id!r}, {folder}, is not here; bring it back, or ingest it from "
            "where it is now."
        )
    return folder


def _unchanged(kind: str, node: Model | Dataset, found: str) -> str:
    if node.properties.get("content_hash") != found:
        raise SourceChanged(
            f"The folder of {kind} {node.id!r} holds something else than when it was ingested; run "
            f"`matchgraph ingest {kind}s {node.properties['source']}` again."
        )
    return found


def _model_hash(model: Model) -> str:
    return _unchanged("model", model, pipeline_fingerprint(_source("model", model)))


def _dataset_hash(dataset: Dataset) -> str:
    return _unchanged("dataset", dataset, listed_hash(_source("dataset", dataset)))


def _references(
    graph: MatchingGraph, extractor: Extractor, datasets: Sequence[Dataset]
) -> dict[str, Statistics]:
    found = {statistics.dataset: statistics for statistics in graph.statistics(extractor.hash)}
    for dataset in datasets:
        if dataset.id not in found:
            known = dataset.properties.get("probe", "none")
            raise ExtractorMismatch(
                f"The dataset {dataset.id!r} was measured with the probe {known!r}, not with "
                f"{extractor.name!r} ({extractor.hash}): use that probe, or ingest the dataset with this one."
            )
    return found


def enqueue_plan(ledger: Ledger, plan: Plan, home: Path, *, retry_failed: bool = False) -> list[Run]:
    """Bring a plan's runs into the ledger and see which of them are really done.

    A run is done when its edge is in the graph and its adapter lies where it was written, unchanged; one that
    is marked so and is not is queued again. Runs of dead workers are taken back.

    Args:
        ledger: the ledger.
        plan: the runs.
        home: the data folder, in which artefacts lie.
        retry_failed: whether failed runs are queued again.

    Returns:
        The runs as they stand.
    """
    ids = ledger.enqueue(list(plan.requests.values()))
    ledger.recover(ids)
    measured = ledger.measured(ids)
    lost = [
        run.id
        for run in ledger.runs(ids)
        if run.status == DONE and not (run.id in measured and has_artefact(run, home))
    ]
    if lost:
        ledger.requeue(lost, statuses=[DONE])
    if retry_failed:
        ledger.requeue(ids, statuses=[FAILED])
    return ledger.runs(ids)


def has_artefact(run: Run, home: Path) -> bool:
    """Say whether a finished run's adapter is there, unchanged; on another machine it is taken on trust."""
    if run.properties.get("machine") != machine_id():
        return True
    adapter = home / str(run.properties.get("adapter"))
    return adapter.is_file() and file_sha256(adapter) == run.properties.get("adapter_sha256")


def work(
    graph: MatchingGraph,
    ledger: Ledger,
    plan: Plan,
    executor: Executor,
    home: Path,
    reporter: Reporter,
    *,
    retry_failed: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
) -> WorkSummary:
    """Work off a plan in this process; each run is tried once.

    Args:
        graph: where results go.
        ledger: the ledger.
        plan: the runs.
        executor: carries them out.
        home: the data folder; artefacts go to `runs/<run id>/` in it.
        reporter: told how it goes.
        retry_failed: whether runs that failed before are tried again.
        heartbeat_s: seconds between two extensions of the lease.

    Returns:
        How it went.

    Raises:
        KeyboardInterrupt: by Ctrl-C, after the run at hand was given back.
        GraphError: the graph is gone.
    """
    runs = enqueue_plan(ledger, plan, home, retry_failed=retry_failed)
    already_done = sum(run.status == DONE for run in runs)
    reporter.planned(len(runs), already_done)
    order = list(plan.requests)
    left = [
        run_id
        for run_id in order
        if any(run.id == run_id and run.status in {QUEUED, RUNNING} for run in runs)
    ]
    owner = Owner.here()
    done = 0
    try:
        while left and (claim := ledger.claim_next(left, owner)) is not None:
            left.remove(claim.run)
            run = ledger.run(claim.run)
            reporter.began(run)
            outcome = _work_one(graph, ledger, plan, executor, home, reporter, claim, heartbeat_s)
            done += outcome == "done"
            # Read anew: a finished run holds its figures.
            reporter.ended(ledger.run(claim.run), outcome)
    finally:
        executor.close()
    after = ledger.runs(order)
    return WorkSummary(
        total=len(after),
        already_done=already_done,
        done=done,
        failed={run.id: run.error or "" for run in after if run.status == FAILED},
        elsewhere=tuple(run.id for run in after if run.status == RUNNING),
        queued=tuple(run.id for run in after if run.status == QUEUED),
    )


def _work_one(
    graph: MatchingGraph,
    ledger: Ledger,
    plan: Plan,
    executor: Executor,
    home: Path,
    reporter: Reporter,
    claim: Claim,
    heartbeat_s: float,
) -> str:
    """Work on one claimed run and return "done" or why it is not."""
    job = _job(plan, claim, home)
    shutil.rmtree(job.out, ignore_errors=True)
    job.out.mkdir(parents=True)
    try:
        with _kept_alive(ledger, claim, heartbeat_s) as lost:

            def on_step(name: str, done: int, of: int) -> None:
                if lost.is_set():
                    raise StaleFence(f"Run {claim.run} was taken from this worker.")
                reporter.step(name, done, of)

            outcome = executor.execute(job, on_step)
        _record(graph, ledger, claim, job, outcome, home)
    except BaseException as error:
        shutil.rmtree(job.out, ignore_errors=True)
        return _after_error(ledger, claim, error)
    _remove_older(job.out)
    return "done"


def _after_error(ledger: Ledger, claim: Claim, error: BaseException) -> str:
    """Tell the ledger how an attempt ended; raises what must end the whole work."""
    if isinstance(error, GraphError):
        raise error
    try:
        if isinstance(error, StaleFence):
            return "taken by another worker"
        if not isinstance(error, Exception):
            ledger.release(claim)
        elif getattr(error, "matchgraph_user_error", False):
            # The seed is part of the question, so another attempt would fail in the same way.
            ledger.fail(claim, str(error), final=True)
            return str(error)
        elif _is_out_of_memory(error):
            why = f"out of memory: {error}".splitlines()[0]
            ledger.fail(claim, why)
            return why
        else:
            ledger.fail(claim, f"{type(error).__name__}: {error}")
    except StaleFence:
        return "taken by another worker"
    raise error


def _is_out_of_memory(error: Exception) -> bool:
    # torch's error is looked up by name: this module does not load torch.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _job(plan: Plan, claim: Claim, home: Path) -> Job:
    request = plan.requests[claim.run]
    return Job(
        run=claim.run,
        model=request.model,
        model_folder=_source("model", plan.models[request.model]),
        dataset=request.dataset,
        dataset_folder=_source("dataset", plan.datasets[request.dataset]),
        reference=plan.references[request.dataset],
        config=plan.config,
        # Each claim has a folder of its own, so a worker that lost its claim cannot overwrite another's.
        out=home / "runs" / claim.run / f"claim-{claim.fence}",
    )


@contextmanager
def _kept_alive(ledger: Ledger, claim: Claim, heartbeat_s: float) -> Iterator[threading.Event]:
    """Extend the lease in a thread; the event handed out is set when the run was taken from this worker."""
    lost = threading.Event()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(heartbeat_s):
            try:
                ledger.heartbeat(claim)
            except StaleFence:
                lost.set()
                return
            except GraphError:
                continue  # the lease outlasts several lost beats; the final write tells whether it held

    thread = threading.Thread(target=beat, name=f"heartbeat-{claim.run}", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()


def _record(
    graph: MatchingGraph,
    ledger: Ledger,
    claim: Claim,
    job: Job,
    outcome: Outcome,
    home: Path,
) -> None:
    adapter_hash = file_sha256(outcome.adapter)
    record = {
        "run": job.run,
        "asked": {
            "model": job.model,
            "model_folder": str(job.model_folder),
            "dataset": job.dataset,
            "dataset_folder": str(job.dataset_folder),
            **job.config.asked(),
        },
        "measured": {
            "finetuned": [score.to_dict() for score in outcome.finetuned],
            "initial": [score.to_dict() for score in outcome.initial],
            "training_seconds": outcome.training_seconds,
            "seconds_per_image": outcome.seconds_per_image,
        },
        "with": {"adapter_sha256": adapter_hash, "attempt": claim.attempt, **outcome.details},
    }
    note = present(job.out, record)
    write_json(job.out / RECORD_FILE, record if note is None else {**record, "note": note})
    ledger.complete(
        claim,
        graph,
        results_of(job, outcome),
        {
            "adapter": outcome.adapter.relative_to(home).as_posix(),
            "adapter_sha256": adapter_hash,
            "machine": machine_id(),
            # A property that is None is none.
            "note": note,
            "training_seconds": outcome.training_seconds,
            "seconds_per_image": outcome.seconds_per_image,
            **{score.metric: score.value for score in outcome.finetuned},
            **{f"{INITIAL}{score.metric}": score.value for score in outcome.initial},
        },
    )


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
    cost = {"training_seconds": outcome.training_seconds, "seconds_per_image": outcome.seconds_per_image}
    return [
        Result(job.model, job.dataset, score.metric, score.value, stage, {**_provenance(job, score), **extra})
        for stage, scores, extra in (
            ("finetuned", outcome.finetuned, cost),
            ("initial", outcome.initial, {}),
        )
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
        **({} if score.std is None else {"std": score.std}),
    }


def _remove_older(out: Path) -> None:
    """Remove what earlier claims of the same run left behind."""
    for folder in out.parent.iterdir():
        if folder != out and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is there whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
