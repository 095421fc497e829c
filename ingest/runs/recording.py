"""What a finished run leaves: its record and page in its folder, its values in the graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.errors import AuthenticationFailed, DatabaseFailed, GraphChanged, ServerUnreachable
from matchgraph.graphdb.models import Result, Stage
from matchgraph.ingest.runs.artefacts import RECORD_FILE
from matchgraph.ingest.runs.cards import write_model_card
from matchgraph.ingest.runs.entries import Run
from matchgraph.ingest.runs.jobs import Job, Outcome
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import machine_id
from matchgraph.ingest.runs.pages import write_run_page
from matchgraph.ingest.runs.repeats import COST, averaged, results_of_run
from matchgraph.training.files import file_hash, write_json

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.scoring import Score

# How long a finished run waits for a database that went away, say to be started again.
PATIENCE_S = 600.0
RETRY_S = 2.0
# The database is gone; the last write may have been committed or not.
DATABASE_FAULTS = (ServerUnreachable, DatabaseFailed, AuthenticationFailed)


def record(graph: MatchingGraph, ledger: Ledger, held: Run, job: Job, outcome: Outcome, home: Path) -> Run:
    """Record a run that was carried out, once and wholly or not at all.

    Args:
        graph: where results go.
        ledger: the ledger.
        held: the run as it was claimed.
        job: the same, ready to be executed.
        outcome: what came of it.
        home: the data folder.

    Returns:
        The run as it then stands.

    Raises:
        StaleFence: another worker took it meanwhile.
        GraphError: the graph is gone, and has not come back in ten minutes.
    """
    adapter_hash = file_hash(outcome.adapter)
    facts = {
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
    note = present(job.out, facts)
    write_json(job.out / RECORD_FILE, facts if note is None else {**facts, "note": note})
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
