"""The ledger's entries: runs as they are asked for, and as they stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matchgraph.ingest.errors import UnknownRun
from matchgraph.ingest.runs.owner import Owner

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "QUEUED", "RUNNING", "DONE", "FAILED", "CANCELLED"
STATUSES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
# A lost worker, or a lost connection to it, says nothing of the run; this many in a row do, of which none
# came further than those before.
MOST_LOST = 10
# The stages of a run that take long, in their order.
BEFORE, TRAINING, AFTER = LONG_STAGES = ("sampling before", "fine-tuning", "sampling after")
# More than any stage has steps.
STAGE_LENGTH = 10**12


@dataclass(frozen=True)
class RunRequest:
    """One question to the ledger.

    Args:
        model: the model's id.
        dataset: the dataset's id.
        config: everything that decides the answer, as JSON-ready values.
        model_fingerprint: hash of the model's files.
        dataset_fingerprint: hash of the dataset's images and captions.
        replicate: whether it repeats a measurement under another seed to tell its noise, so that its figures
            stay on the run and leave the edge alone.
        extractors: where each extractor's weights are, by its name; no part of the question, which names the
            weights by their hash.
        repeat: whether the edge is to be the mean over it and the repeats that differ from it in the seed
            and in whether the pretrained model is scored; no part of the question, so that a run that is done
            already joins them.
    """

    model: str
    dataset: str
    config: Mapping[str, Any]
    model_fingerprint: str
    dataset_fingerprint: str
    replicate: bool = False
    extractors: Mapping[str, str] = field(default_factory=dict)
    repeat: bool = False

    @property
    def id(self) -> str:
        """16 hex digits that are the same for the same question."""
        return self._hash(self.config, "replicate" if self.replicate else None)

    @property
    def average(self) -> str | None:
        """16 hex digits that are the same for a question under any seed, with the pretrained model scored or
        without; None for what is in no mean.
        """
        if not self.repeat:
            return None
        common = {name: value for name, value in self.config.items() if name not in {"seed", "initial"}}
        return self._hash(common, "average")

    def _hash(self, config: Mapping[str, Any], kind: str | None) -> str:
        parts = [self.model, self.dataset, config, self.model_fingerprint, self.dataset_fingerprint]
        if kind is not None:
            parts.append(kind)
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, as its worker tells it with each heartbeat.

    Args:
        stage: what it is at.
        step: how much of the stage is done.
        of: of how much.
        loss: the last training loss, if there is one.
    """

    stage: str
    step: int = 0
    of: int = 0
    loss: float | None = None

    @property
    def position(self) -> int:
        """A number that grows with the run's progress over all its long stages; 0 outside of them."""
        if self.stage not in LONG_STAGES:
            return 0
        return (LONG_STAGES.index(self.stage) + 1) * STAGE_LENGTH + self.step


@dataclass(frozen=True)
class Pace:
    """When a running run's progress was written; times in milliseconds by the server's clock.

    Args:
        began: when the stage was first heard of.
        first: its step then.
        heard: when the worker was last heard of.
        now: when this was read.
    """

    began: int
    first: int
    heard: int
    now: int


@dataclass(frozen=True)
class Run:
    """A run as the ledger has it.

    Args:
        id: its id.
        model: the model's id.
        dataset: the dataset's id.
        status: one of STATUSES.
        attempt: how many times it was begun.
        max_attempts: how many times it may be begun; workers that were lost do not count.
        fence: grows with every claim.
        expired: whether it is RUNNING under a lease that has run out.
        owner: who holds it, if anybody does.
        config: the configuration asked for.
        extractors: where each extractor's weights are, by its name.
        replicate: whether its figures leave the edge alone.
        average: what the runs of its mean have in common, see `RunRequest.average`; None where it is in none.
        progress: how far it is, or was when it was last worked on.
        pace: when that was, if a worker has reported it.
        error: why the last attempt failed.
        properties: all properties of the node.
    """

    id: str
    model: str
    dataset: str
    status: str
    attempt: int
    max_attempts: int
    fence: int
    expired: bool
    owner: Owner | None
    config: Mapping[str, Any]
    extractors: Mapping[str, str]
    replicate: bool
    average: str | None
    progress: RunProgress | None
    pace: Pace | None
    error: str | None
    properties: Mapping[str, Any]

    @property
    def is_waiting(self) -> bool:
        """Whether a worker may take it."""
        return self.status == QUEUED or (self.expired and self.properties.get("lost", 0) + 1 < MOST_LOST)


def finished(runs: Sequence[Run]) -> list[Run]:
    """The runs that are done, the newest last: no replicates, and of a mean that under the first seed."""
    done = [run for run in runs if run.status == DONE and not run.replicate]
    seeds: dict[str, int] = {}
    for run in done:
        if run.average is not None:
            seeds[run.average] = min(run.config["seed"], seeds.get(run.average, run.config["seed"]))
    firsts = [run for run in done if run.average is None or run.config["seed"] == seeds[run.average]]
    return sorted(firsts, key=lambda run: (run.properties.get("ended_at") or 0, run.id))


def select_runs(runs: Sequence[Run], ids: Sequence[str]) -> list[Run]:
    """Return the runs of these ids, each once and in this order.

    Raises:
        UnknownRun: one is not among them.
    """
    known = {run.id: run for run in runs}
    for run_id in ids:
        if run_id not in known:
            raise UnknownRun(f"There is no run {run_id!r}; `matchgraph ingest status` lists them.")
    return [known[run_id] for run_id in dict.fromkeys(ids)]


def run_of(row: Mapping[str, Any]) -> Run:
    """A run from a row of the query `ledger/runs`."""
    properties = row["run"]
    return Run(
        id=properties["id"],
        model=row["model"],
        dataset=row["dataset"],
        status=properties["status"],
        attempt=properties["attempt"],
        max_attempts=properties["max_attempts"],
        fence=properties["fence"],
        expired=bool(row["expired"]),
        owner=Owner.from_json(properties.get("owner")),
        config=json.loads(properties["config"]),
        extractors=json.loads(properties["extractors"]),
        replicate=properties["replicate"],
        average=properties.get("average"),
        progress=_progress(properties),
        pace=_pace(properties, row["now"]),
        error=properties.get("error"),
        properties=properties,
    )


def _progress(properties: Mapping[str, Any]) -> RunProgress | None:
    if "stage" not in properties:
        return None
    values = (properties.get("step", 0), properties.get("of", 0), properties.get("loss"))
    return RunProgress(properties["stage"], *values)


def _pace(properties: Mapping[str, Any], now: int) -> Pace | None:
    if "stage_at" not in properties:
        return None
    return Pace(properties["stage_at"], properties["stage_from"], properties["updated_at"], now)
