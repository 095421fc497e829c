"""The ledger of fine-tuning runs, kept in the graph.

A run is one question: this model, this dataset, this configuration. A worker holds it under a lease, which
the server's clock measures and a heartbeat extends, and writes under a fence, a number that grows with each
claim. A worker that comes back after its run was given to another finds a higher fence and is refused.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import GraphChanged, GuardFailed
from matchgraph.graphdb.queries import load
from matchgraph.ingest.errors import IngestError, RunOutdated, StaleFence
from matchgraph.ingest.runs.entries import (
    DONE,
    MOST_LOST,
    RUNNING,
    Run,
    RunProgress,
    RunRequest,
    run_of,
    select_runs,
)
from matchgraph.ingest.runs.owner import Owner

if TYPE_CHECKING:
    from matchgraph.graphdb.edges import Statement
    from matchgraph.graphdb.models import Result
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner


# Short, so that a dead worker on another machine is noticed soon; the heartbeat has six tries within it.
LEASE_MS = 60_000
HEARTBEAT_S = 10.0
MAX_ATTEMPTS = 3
ERROR_LIMIT = 2_000
TRACEBACK_LIMIT = 8_000


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
                "extractors": json.dumps(request.extractors, sort_keys=True),
                "replicate": request.replicate,
                "average": request.average,
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
        return [str(row["id"]) for row in rows]

    def runs(self, ids: Sequence[str] | None = None) -> list[Run]:
        """Return all runs, or those of `ids`, sorted by model and dataset."""
        return self._read(ids=None if ids is None else list(ids))

    def runs_of(self, models: Collection[str], datasets: Collection[str]) -> list[Run]:
        """Return the runs of any of these models on any of these datasets, sorted by both."""
        return self._read(models=sorted(models), datasets=sorted(datasets))

    def run(self, run: str) -> Run:
        """Return one run.

        Raises:
            UnknownRun: the ledger has no such run.
        """
        return select_runs(self.runs([run]), [run])[0]

    def measured(self, runs: Sequence[Run]) -> set[str]:
        """Return the ids of those runs whose every metric has a value: on the edge from model to dataset, or
        on the run itself where it is a replicate, or in a mean that can be written again.
        """
        alone = {run.id: run.properties for run in runs if run.replicate or run.average is not None}
        ids = [run.id for run in runs if run.id not in alone]
        found = {row["id"]: row["names"] for row in self._runner.read(load("ledger/measured"), ids=ids)}
        found |= alone
        return {run.id for run in runs if set(run.config["metrics"]) <= set(found.get(run.id) or ())}

    def claim(self, run: str, owner: Owner) -> Run | None:
        """Take a run that is queued or whose lease has expired.

        Args:
            run: its id.
            owner: who takes it.

        Returns:
            The run as its new owner holds it, to be shown with every write for it; None where somebody else
            holds it or it is finished.
        """
        values = {
            "token": uuid.uuid4().hex,
            "owner": owner.to_json(),
            "host": platform.node(),
            "lease_ms": self._lease_ms,
            "most_lost": MOST_LOST,
        }
        rows = self._locked(run, "ledger/claim", values)
        return run_of(rows[0]) if rows else None

    def claim_next(
        self,
        ids: Sequence[str] | None,
        owner: Owner,
        *,
        without: Collection[str] = (),
        last: Collection[str] = (),
        model: str | None = None,
    ) -> Run | None:
        """Take the run that suits a worker best: of the model it has loaded, else of one that few are at.

        Args:
            ids: run ids in the order of preference; None for the whole ledger in the order of queueing.
            owner: who takes it.
            without: runs to leave alone.
            last: runs to take when there is no other.
            model: id of the model that is loaded.

        Returns:
            The run as `claim` gives it, or None where none of them can be taken.
        """
        wanted = None if ids is None else {run: place for place, run in enumerate(ids)}
        values = {
            "wanted": wanted,
            "without": list(without),
            "last": list(last),
            "model": model,
            "most_lost": MOST_LOST,
        }
        while rows := self._runner.read(load("ledger/claimable"), **values):
            held = self.claim(rows[0]["id"], owner)
            if held is not None:
                return held
        return None

    def heartbeat(self, held: Run, progress: RunProgress) -> None:
        """Extend the lease and tell how far the run is.

        Raises:
            StaleFence: the run was taken from this worker, or cancelled.
        """
        self._fenced(
            held,
            "ledger/heartbeat",
            {"lease_ms": self._lease_ms, "position": progress.position, **asdict(progress)},
        )

    def complete(
        self,
        held: Run,
        graph: MatchingGraph,
        results: Sequence[Result],
        outcome: Mapping[str, Any],
        average: str | None = None,
        others: Sequence[Run] = (),
    ) -> Run:
        """Write the measured results and mark the run as done, in one transaction.

        Args:
            held: the run as the worker claimed it.
            graph: knows how results are written.
            results: what to write on the edge from model to dataset; empty for a replicate.
            outcome: properties for the run (seconds, adapter, hashes).
            average: the mean that the results are, see `Run.average`.
            others: the other runs that they are means over.

        Returns:
            The run, done.

        Raises:
            GraphChanged: the run is in another mean, or that over other runs, by now; nothing was written.
            StaleFence: the run was taken from this worker; nothing was written.
            RunOutdated: the model or dataset has other content by now; nothing was written.
        """
        statements: list[Statement] = [
            (load("ledger/lock"), {"ids": [held.id]}),
            (load("ledger/same-content"), {"id": held.id}),
            (load("ledger/complete"), {"id": held.id, "fence": held.fence, "outcome": dict(outcome)}),
            *_same_average(held.id, average, [held, *others]),
            *graph.result_statements(results),
        ]
        try:
            return run_of(self._runner.write_many(statements, guards=[1, 2, 4])[2][0])
        except GuardFailed as error:
            if error.position == 4:
                raise GraphChanged(f"Run {held.id} is in another mean by now.") from error
            if self._runner.read(load("ledger/outdated"), id=held.id):
                raise RunOutdated(
                    f"The model or dataset of run {held.id} was ingested again with different content during "
                    "the run, so its results are out of date; queue a new one with `matchgraph ingest run`."
                ) from error
            raise _stale(held) from error

    def write_mean(self, graph: MatchingGraph, results: Sequence[Result], runs: Sequence[Run]) -> None:
        """Write the mean over runs that are done.

        Args:
            graph: knows how results are written.
            results: the means.
            runs: all that are in it.

        Raises:
            GraphChanged: other runs are in it by now; nothing was written.
        """
        guarded = _same_average(runs[0].id, runs[0].average, runs)
        try:
            self._runner.write_many([*guarded, *graph.result_statements(results)], guards=[1])
        except GuardFailed as error:
            raise GraphChanged(f"Other runs are in the mean {runs[0].average} by now.") from error

    def averaged_with(self, run: str) -> tuple[str | None, list[Run]]:
        """Return the mean that a run is in, see `Run.average`, and the other runs in it that are done."""
        own = self.run(run)
        if own.average is None:
            return None, []
        runs = self.runs_of([own.model], [own.dataset])
        return own.average, [r for r in runs if r.average == own.average and r.status == DONE and r.id != run]

    def fail(self, held: Run, error: str, *, traceback: str | None = None, final: bool = False) -> str:
        """End an attempt that failed.

        Args:
            held: the run as the worker claimed it.
            error: why it failed.
            traceback: where, for an error that should not be.
            final: whether a further attempt would fail in the same way.

        Returns:
            QUEUED where attempts are left, else FAILED.

        Raises:
            StaleFence: the run was taken from this worker.
        """
        values = {
            "error": error[:ERROR_LIMIT],
            "traceback": traceback and traceback[-TRACEBACK_LIMIT:],
            "final": final,
        }
        return self._fenced(held, "ledger/fail", values)[0]["status"]

    def release(self, held: Run, note: str | None = None) -> None:
        """Give a run back unfinished; the attempt does not count.

        Args:
            held: the run as the worker claimed it.
            note: why, where the user should know.

        Raises:
            StaleFence: the run was taken from this worker.
        """
        self._fenced(held, "ledger/release", {"note": note and note[:ERROR_LIMIT]})

    def recover(self, runs: Sequence[Run]) -> list[str]:
        """Take runs back from workers that are gone: leases that ran out, processes of this host that died.

        The attempt does not count as failed, unless `MOST_LOST` workers in a row were lost at the run.

        Args:
            runs: as they were read just now.

        Returns:
            Ids of the runs that were taken back.
        """
        taken: list[str] = []
        for run in runs:
            dead = run.status == RUNNING and run.owner is not None and run.owner.is_dead_here()
            if not dead and not run.expired:
                continue
            why = "the worker's process died" if dead else "the worker's lease ran out"
            try:
                self._fenced(run, "ledger/lose", {"error": why, "most_lost": MOST_LOST})
            except StaleFence:
                continue  # another worker was quicker
            taken.append(run.id)
        return taken

    def requeue(self, ids: Sequence[str], *, statuses: Sequence[str]) -> list[str]:
        """Queue ended runs again, with all their attempts.

        Args:
            ids: the runs.
            statuses: which of them are meant, of DONE, FAILED and CANCELLED.

        Returns:
            Ids of the runs that are queued now.
        """
        return self._changed(ids, "ledger/requeue", {"from": list(statuses)})

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """Cancel runs that are queued or running; a worker that is at one notices at its next heartbeat.

        Args:
            ids: the runs.

        Returns:
            Ids of the runs that were cancelled.
        """
        return self._changed(ids, "ledger/cancel", {})

    def _changed(self, ids: Sequence[str], statement: str, values: Mapping[str, Any]) -> list[str]:
        if not ids:
            return []
        chosen = {"ids": sorted(ids)}
        statements = [(load("ledger/lock"), chosen), (load(statement), {**chosen, **values})]
        return [row["id"] for row in self._runner.write_many(statements)[1]]

    def _read(self, **chosen: Any) -> list[Run]:
        filters = {"ids": None, "models": None, "datasets": None, **chosen}
        return [run_of(row) for row in self._runner.read(load("ledger/runs"), **filters)]

    def _fenced(self, held: Run, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = self._locked(held.id, statement, {"fence": held.fence, **values})
        if not rows:
            raise _stale(held)
        return rows

    def _locked(self, run: str, statement: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        statements = [(load("ledger/lock"), {"ids": [run]}), (load(statement), {"id": run, **values})]
        return self._runner.write_many(statements)[1]


def _same_average(run: str, average: str | None, runs: Sequence[Run]) -> list[Statement]:
    """What guards a mean, in its last statement: the run is in it, and these are all that are done."""
    # With the lock that every writer of edges takes, no other run of the mean is completed meanwhile.
    same = {"id": run, "average": average, "ids": sorted(other.id for other in runs if other.id != run)}
    return [lock(), (load("ledger/same-average"), same)]


def _stale(held: Run) -> StaleFence:
    return StaleFence(
        f"Run {held.id} was taken from this worker or cancelled (its fence {held.fence} is out of date); "
        "nothing was written. `matchgraph ingest status` shows how it stands."
    )
