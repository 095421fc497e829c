"""The ledger of fine-tuning runs, kept in the graph.

A run is one question: this model, this dataset, this configuration. A worker holds it under a lease, which
the server's clock measures and a heartbeat extends, and writes under a fence, a number that grows with each
claim. A worker that comes back after its run was given to another finds a higher fence and is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from graphdb.errors import GuardFailed
from graphdb.queries import load
from ingest.errors import IngestError, StaleFence, UnknownRun

if TYPE_CHECKING:
    from graphdb.models import Result
    from graphdb.repository import MatchingGraph
    from graphdb.runner import Runner

QUEUED, RUNNING, DONE, FAILED = "QUEUED", "RUNNING", "DONE", "FAILED"
STATUSES = (QUEUED, RUNNING, DONE, FAILED)
# Short, so that a dead worker on another machine is noticed soon; the heartbeat has six tries within it.
LEASE_MS = 60_000
HEARTBEAT_S = 10.0
MAX_ATTEMPTS = 3
ERROR_LIMIT = 2_000
# Clock ticks make a process' start time differ a little between two readings.
START_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class RunRequest:
    """One question to the ledger.

    Args:
        model: the model's id.
        dataset: the dataset's id.
        config: everything that decides the answer, as JSON-ready values.
        model_fingerprint: hash of the model's files.
        dataset_fingerprint: hash of the dataset's images and captions.
    """

    model: str
    dataset: str
    config: Mapping[str, Any]
    model_fingerprint: str
    dataset_fingerprint: str

    @property
    def id(self) -> str:
        """16 hex digits that are the same for the same question."""
        parts = [self.model, self.dataset, self.config, self.model_fingerprint, self.dataset_fingerprint]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """A run as the ledger has it.

    Args:
        id: its id.
        model: the model's id.
        dataset: the dataset's id.
        status: QUEUED, RUNNING, DONE or FAILED.
        attempt: how many times it was begun.
        max_attempts: how many times it may be begun.
        fence: grows with every claim.
        expired: whether it is RUNNING under a lease that has run out.
        owner: who holds it, if anybody does.
        config: the configuration asked for.
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
    error: str | None
    properties: Mapping[str, Any]


@dataclass(frozen=True)
class Owner:
    """The process that holds a run, in a way that tells whether it still lives.

    Args:
        host: names one boot of one machine, or of one container on it.
        pid: process id there.
        started: when the process started, seconds since the epoch.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Owner:
        """Return this process as an owner."""
        return cls(host_id(), os.getpid(), psutil.Process().create_time())

    def to_json(self) -> str:
        """Return the owner as it is stored."""
        return json.dumps({"host": self.host, "pid": self.pid, "started": self.started})

    @classmethod
    def from_json(cls, text: str | None) -> Owner | None:
        """Return the stored owner, or None where there is none."""
        if not text:
            return None
        value = json.loads(text)
        return cls(value["host"], value["pid"], value["started"])

    def is_dead_here(self) -> bool:
        """Say whether this is a process of this host that no longer lives; False where nobody can tell."""
        if self.host != host_id():
            return False
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return not alive or abs(process.create_time() - self.started) > START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


@dataclass(frozen=True)
class Claim:
    """A run that this worker holds.

    Args:
        run: the run's id.
        attempt: which attempt this is, from 1.
        fence: what writes for it must show.
    """

    run: str
    attempt: int
    fence: int


def machine_id() -> str:
    """Return a name for this machine, the same after a restart."""
    return _short_hash([platform.node(), str(uuid.getnode())])


def host_id() -> str:
    """Return a name for this boot of this machine, and of this container where process ids are its own."""
    parts = [machine_id()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        try:
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text())
        except OSError:
            continue
    return _short_hash(parts)


def _short_hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class Ledger:
    """Reads and writes the runs. Every change of a run takes its write lock first and reads only then.

    Args:
        runner: the graph's connection; may be shared by threads.
        lease_ms: how long a claim holds without a heartbeat, by the server's clock.
    """

    def __init__(self, runner: Runner, *, lease_ms: int = LEASE_MS) -> None:
        self._runner = runner
        self._lease_ms = lease_ms

    def enqueue(self, requests: Sequence[RunRequest], *, max_attempts: int = MAX_ATTEMPTS) -> list[str]:
        """Queue runs. One that the ledger has already stays as it is.

        Args:
            requests: what to run.
            max_attempts: how many times each may be begun.

        Returns:
            The run ids in the order of `requests`.

        Raises:
            IngestError: a model or dataset is not in the graph; nothing was queued for it.
        """
        rows = [
            {
                "id": request.id,
                "model": request.model,
                "dataset": request.dataset,
                "config": json.dumps(request.config, sort_keys=True),
                "settings": {
                    key: value
                    for key, value in request.config.items()
                    if isinstance(value, bool | int | float | str) or key == "metrics"
                },
                "model_fingerprint": request.model_fingerprint,
                "dataset_fingerprint": request.dataset_fingerprint,
                "max_attempts": max_attempts,
            }
            for request in requests
        ]
        queued = {row["id"] for row in self._runner.write(load("ledger/enqueue"), rows=rows)}
        for request in requests:
            if request.id not in queued:
                raise IngestError(
                    f"Model {request.model!r} or dataset {request.dataset!r} is not in the graph; add it "
                    "with `matchgraph ingest models` or `matchgraph ingest datasets`."
                )
        return [row["id"] for row in rows]

    def runs(self, ids: Sequence[str] | None = None) -> list[Run]:
        """Return all runs, or those of `ids`, sorted by model and dataset."""
        return [
            _run(row)
            for row in self._runner.read(load("ledger/runs"), ids=None if ids is None else list(ids))
        ]

    def run(self, run: str) -> Run:
        """Return one run.

        Raises:
            UnknownRun: the ledger has no such run.
        """
        found = self.runs([run])
        if not found:
            raise UnknownRun(f"There is no run {run!r}; `matchgraph ingest status` lists them.")
        return found[0]

    def measured(self, ids: Sequence[str]) -> set[str]:
        """Return those of the runs whose edge is in the graph."""
        return {row["id"] for row in self._runner.read(load("ledger/measured"), ids=list(ids))}

    def claim(self, run: str, owner: Owner) -> Claim | None:
        """Take a run that is queued or whose lease has expired.

        Args:
            run: its id.
            owner: who takes it.

        Returns:
            The claim, or None where somebody else holds the run or it is finished.
        """
        values = {"token": uuid.uuid4().hex, "owner": owner.to_json(), "lease_ms": self._lease_ms}
        rows = self._locked(run, "ledger/claim", values)
        return Claim(run, rows[0]["attempt"], rows[0]["fence"]) if rows else None

    def claim_next(self, ids: Sequence[str], owner: Owner) -> Claim | None:
        """Take the first of the runs that can be taken.

        Args:
            ids: run ids in the order of preference.
            owner: who takes it.

        Returns:
            The claim, or None where none of them can be taken.
        """
        while rows := self._runner.read(load("ledger/claimable"), ids=list(ids)):
            claim = self.claim(rows[0]["id"], owner)
            if claim is not None:
                return claim
        return None

    def heartbeat(self, claim: Claim) -> None:
        """Extend the lease.

        Raises:
            StaleFence: the run was taken from this worker.
        """
        self._held(claim, "ledger/heartbeat", {"lease_ms": self._lease_ms})

    def complete(
        self, claim: Claim, graph: MatchingGraph, results: Sequence[Result], outcome: Mapping[str, Any]
    ) -> None:
        """Write the measured results and mark the run as done, in one transaction.

        Args:
            claim: the worker's claim.
            graph: knows how results are written.
            results: what to write on the edge from model to dataset.
            outcome: properties for the run (seconds, adapter, hashes).

        Raises:
            StaleFence: the run was taken from this worker; nothing was written.
        """
        statements = [
            (load("ledger/lock"), {"id": claim.run}),
            (load("ledger/complete"), {"id": claim.run, "fence": claim.fence, "outcome": dict(outcome)}),
            *graph.result_statements(results),
        ]
        try:
            self._runner.write_many(statements, guards=[1])
        except GuardFailed as error:
            raise _stale(claim) from error

    def fail(self, claim: Claim, error: str, *, final: bool = False) -> str:
        """End an attempt that failed.

        Args:
            claim: the worker's claim.
            error: why it failed.
            final: whether a further attempt would fail in the same way.

        Returns:
            QUEUED where attempts are left, else FAILED.

        Raises:
            StaleFence: the run was taken from this worker.
        """
        rows = self._held(claim, "ledger/fail", {"error": error[:ERROR_LIMIT], "final": final})
        return rows[0]["status"]

    def release(self, claim: Claim) -> None:
        """Give a run back unfinished; the attempt does not count.

        Raises:
            StaleFence: the run was taken from this worker.
        """
        self._held(claim, "ledger/release", {})

    def recover(self, ids: Sequence[str] | None = None) -> list[str]:
        """End the attempts of workers that are gone: leases that ran out, processes of this host that died.

        Args:
            ids: the runs to look at; None for all.

        Returns:
            Ids of the runs that were taken back.
        """
        taken: list[str] = []
        for run in self.runs(ids):
            dead = run.status == RUNNING and run.owner is not None and run.owner.is_dead_here()
            if not dead and not run.expired:
                continue
            why = "the worker's process died" if dead else "the worker's lease ran out"
            try:
                self.fail(Claim(run.id, run.attempt, run.fence), why)
            except StaleFence:
                continue  # another worker was quicker
            taken.append(run.id)
        return taken

    def requeue(self, ids: Sequence[str], *, statuses: Sequence[str]) -> list[str]:
        """Queue finished runs anew, with all their attempts.

        Args:
            ids: the runs.
            statuses: which of them are meant, of DONE and FAILED.

        Returns:
            Ids of the runs that are queued now.
        """
        rows = self._runner.write(load("ledger/requeue"), ids=list(ids), **{"from": list(statuses)})
        return [row["id"] for row in rows]

    def _held(self, claim: Claim, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = self._locked(claim.run, statement, {"fence": claim.fence, **values})
        if not rows:
            raise _stale(claim)
        return rows

    def _locked(self, run: str, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        statements = [(load("ledger/lock"), {"id": run}), (load(statement), {"id": run, **values})]
        return self._runner.write_many(statements)[1]


def _stale(claim: Claim) -> StaleFence:
    return StaleFence(
        f"Run {claim.run} was taken from this worker (its fence {claim.fence} is out of date); nothing was "
        "written. `matchgraph ingest status` shows how it stands."
    )


def _run(row: Mapping[str, Any]) -> Run:
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
        error=properties.get("error"),
        properties=properties,
    )
