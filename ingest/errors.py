"""Errors of ingestion. Each says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matchgraph.errors import Error


class IngestError(Error):
    """Base of every error that a user of `ingest` can cause."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with an input.

    Args:
        file: the file or folder it is in, as the user named it.
        line: line in that file, counted from 1; 0 where the whole file is meant.
        reason: what is wrong, with the value.
        remedy: what the user can do about it.
    """

    file: str
    line: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}; {self.remedy}"

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the problem as JSON-ready values; `line` is None where the whole file is meant."""
        return {"file": self.file, "line": self.line or None, "reason": self.reason, "remedy": self.remedy}


class BadInput(IngestError):
    """An input with problems, of which nothing was written.

    Args:
        problems: all problems found, in file order.
        skippable: whether `--skip-bad` would get past them.
    """

    def __init__(self, problems: Sequence[Problem], *, skippable: bool = True) -> None:
        self.problems = tuple(problems)
        head = [str(problem) for problem in self.problems]
        if len(head) > 1:
            head.insert(0, f"{len(head)} problems, nothing was written:")
        if skippable:
            head.append("--skip-bad writes the rest and lists what it left out.")
        super().__init__("\n".join(head))


class NothingToDo(IngestError):
    """A selection of models or datasets that leaves no pair to run."""


class ExtractorMismatch(IngestError):
    """A dataset's statistics were taken with another feature extractor than the one in use."""


class NothingToCompare(IngestError):
    """The graph has no statistics that a new dataset could be compared with."""


class SourceChanged(IngestError):
    """A model's or dataset's folder no longer holds what was ingested from it."""


class ConfigChanged(IngestError):
    """A run of the same model, dataset and seed is unfinished, or was queued, with another configuration."""


class RunOutdated(IngestError):
    """The model or dataset was ingested again, with other content, after the run had been queued."""


class WorkerFailed(IngestError):
    """Local worker processes died one after another without getting anything done."""


class RayMissing(IngestError, ImportError):
    """Ray was asked for and is not installed."""


class ClusterUnusable(IngestError):
    """A Ray cluster does not answer, or its nodes cannot do what is asked."""


class StaleFence(IngestError):
    """A worker wrote for a run that was taken from it in the meantime; its write was refused."""


class UnknownRun(IngestError):
    """A run id that the graph does not hold."""


class TrackerUnavailable(IngestError):
    """What a run was to be followed with is not installed."""
