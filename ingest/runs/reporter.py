"""Receivers of the progress of runs: a terminal, a notebook, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matchgraph.ingest.runs.entries import Run
    from matchgraph.ingest.runs.status import RunsStatus


class Reporter:
    """Receives the progress of runs and ignores it; subclasses show it.

    A worker in this process calls `planned`, `began`, `step` and `ended`. Code that watches workers in other
    processes calls `standing` repeatedly instead.
    """

    def planned(self, total: int, done: int) -> None:
        """There are `total` runs, of which `done` were done before."""

    def began(self, run: Run) -> None:
        """A run is worked on now."""

    def step(self, stage: str, done: int, of: int, loss: float | None) -> None:
        """Progress of the current run within a stage; `loss` is the training loss, if there is one."""

    def ended(self, run: Run, outcome: str) -> None:
        """A run, as the ledger has it now, ended: "done", or why it did not get done."""

    def standing(self, status: RunsStatus) -> None:
        """All runs, as they stand now."""

    def notice(self, sentence: str) -> None:
        """Something that a user should know."""
