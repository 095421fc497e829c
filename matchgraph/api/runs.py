"""Fine-tuning runs: planned, carried out and watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.repository import MatchingGraph

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.ingest.runs.config import RunConfig
    from matchgraph.ingest.runs.reporter import Reporter
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.ingest.runs.worker import WorkerOptions, WorkSummary
    from matchgraph.ingest.runs.workflow import ChangedRuns, PlanSummary


class Runs:
    """Fine-tuning runs. Made by `Graph.runs`."""

    def __init__(self, graph: MatchingGraph, settings: Settings, probe: str | None) -> None:
        self._graph, self._settings, self._probe = graph, settings, probe

    def plan(
        self,
        *,
        models: Sequence[str] = (),
        datasets: Sequence[str] = (),
        config: RunConfig | None = None,
        extractors: Sequence[str] = (),
    ) -> PlanSummary:
        """Show which runs are to do, and how long they take; writes nothing.

        Args:
            models: ids; all with a folder by default.
            datasets: ids; all with a folder by default.
            config: what each run does; the paper's settings by default.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.

        Returns:
            The runs, and the hours of those that are not done.

        Raises:
            Error: no pair is left, or a folder is gone or changed.

        Example:
            >>> config = matchgraph.RunConfig(
            ...     steps=2, batch_size=4, samples=4, sampling_steps=2, resolution_px=32
            ... )
            >>> graph.runs.plan(models=["tiny-sd15"], datasets=["icons"], config=config).to_do
            1
        """
        from matchgraph.ingest.runs.config import RunConfig
        from matchgraph.ingest.runs.workflow import plan_runs

        selection = self._selection(models, datasets, extractors)
        return plan_runs(self._graph, config or RunConfig(), selection, home=self._settings.home)

    def run(
        self,
        *,
        models: Sequence[str] = (),
        datasets: Sequence[str] = (),
        config: RunConfig | None = None,
        extractors: Sequence[str] = (),
        options: WorkerOptions | None = None,
        workers: int | None = 1,
        reporter: Reporter | None = None,
    ) -> WorkSummary:
        """Fine-tune, sample and measure; finished work is not repeated.

        Args:
            models: ids; all with a folder by default.
            datasets: ids; all with a folder by default.
            config: what each run does; the paper's settings by default.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
            options: how a worker works.
            workers: 1 for this process, more for child processes, None for one per GPU or per four cores.
            reporter: receives the progress.

        Returns:
            What was done, and what failed.

        Raises:
            Error: as `plan`; nothing was begun.

        Example:
            >>> config = matchgraph.RunConfig(
            ...     steps=2, batch_size=4, samples=4, sampling_steps=2, resolution_px=32
            ... )
            >>> graph.runs.run(models=["tiny-sd15"], datasets=["icons"], config=config).done
            1
        """
        from matchgraph.ingest.runs.config import RunConfig
        from matchgraph.ingest.runs.workflow import run_pairs

        return run_pairs(
            self._graph,
            self._settings,
            config or RunConfig(),
            self._selection(models, datasets, extractors),
            options=options,
            workers=workers,
            reporter=reporter,
        )

    def status(self, *ids: str) -> RunsStatus:
        """Say how runs stand.

        Args:
            ids: of runs; all by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.status().counts.get("RUNNING", 0)
            0
        """
        from matchgraph.ingest.runs.workflow import runs_status

        return runs_status(self._graph, ids)

    def retry(self, *ids: str) -> ChangedRuns:
        """Queue failed or cancelled runs again.

        Args:
            ids: of runs; all that have failed by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.retry().changed
            ()
        """
        from matchgraph.ingest.runs.workflow import retry_runs

        return retry_runs(self._graph, ids)

    def cancel(self, *ids: str) -> ChangedRuns:
        """Cancel queued and running runs.

        Args:
            ids: of runs; all by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.cancel().changed
            ()
        """
        from matchgraph.ingest.runs.workflow import cancel_runs

        return cancel_runs(self._graph, ids, home=self._settings.home)

    def _selection(self, models: Sequence[str], datasets: Sequence[str], extractors: Sequence[str]) -> Any:
        from matchgraph.ingest.runs.config import Selection

        return Selection(
            models=tuple(models),
            datasets=tuple(datasets),
            probe=self._probe,
            extractors=tuple(extractors),
        )
