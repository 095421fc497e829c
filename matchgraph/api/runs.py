"""Fine-tuning runs: planned, carried out and watched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.repository import MatchingGraph

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.ingest.runs.adapters import AdaptersReport
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

    def adapter(
        self,
        path: str | os.PathLike[str],
        *,
        model: str,
        dataset: str,
        extractors: Sequence[str] = (),
        changes: Mapping[str, Any] | None = None,
        replace_result: bool = False,
        options: WorkerOptions | None = None,
    ) -> AdaptersReport:
        """Score an adapter that was trained elsewhere, and record it as the model's result on the dataset.

        It is sampled as the graph's newest run was, of this dataset if there is one. Of a folder of adapters
        the edge gets the best.

        Args:
            path: a safetensors file (LoRA, LoHa, LoKr, DoRA), or a folder of them; of a model fine-tuned in
                full its pipeline's folder, or a checkpoint in a single file.
            model: id of the model that it was trained for.
            dataset: id of the dataset that it was trained on.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
            changes: settings of `RunConfig` to sample with instead.
            replace_result: whether a result that the edge has may be replaced.
            options: how it is sampled on this machine.

        Returns:
            What was scored, with what each file says of its training.

        Raises:
            Error: it cannot be read, does not fit the model, or the pair has a result.

        Example:
            >>> run = graph.runs.status().runs[0]
            >>> file = graph.settings.home / run.properties["adapter"]
            >>> scored = graph.runs.adapter(
            ...     file, model=run.model, dataset=run.dataset, replace_result=True
            ... )
            >>> scored.adapters[0].facts["trained_kind"]
            'LoRA'
        """
        from matchgraph.ingest.runs.adapters import score_adapters

        return score_adapters(
            self._graph,
            Path(path),
            model=model,
            dataset=dataset,
            home=self._settings.home,
            probe=self._probe,
            extractors=extractors,
            changes=changes,
            replace_result=replace_result,
            options=options,
        )

    def status(self, *ids: str) -> RunsStatus:
        """Say how runs stand, and which adapters trained elsewhere were scored.

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
