"""How runs stand, with the time that is left of those that are worked on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.runs.estimates import Estimator
from matchgraph.ingest.runs.ledger import CANCELLED, DONE, FAILED, QUEUED, RUNNING, STATUSES, Run

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Model

# Properties of a run's node that `RunsStatus.to_dict` gives under other names, or that only the ledger needs.
NOT_LISTED = frozenset(
    {
        *("id", "status", "attempt", "max_attempts", "fence", "config", "owner", "token", "error", "lock"),
        *("extractors", "stage", "stage_at", "stage_from", "step", "of", "loss"),
    }
)


@dataclass(frozen=True)
class RunsStatus:
    """Runs as they stand.

    Args:
        runs: by model and dataset.
        seconds_left: id of a running run to the seconds until it is done; None where that is not known.
    """

    runs: tuple[Run, ...]
    seconds_left: Mapping[str, float | None]

    @classmethod
    def of(
        cls, runs: Sequence[Run], models: Mapping[str, Model], *, measured: Sequence[Run] | None = None
    ) -> RunsStatus:
        """Estimate what is left of running runs.

        Args:
            runs: the runs.
            models: the models by id.
            measured: runs that estimates are made from, where they are done; `runs` by default.
        """
        estimator = Estimator(runs if measured is None else measured, models)
        return cls(
            tuple(runs), {run.id: estimator.left(run).seconds for run in runs if run.status == RUNNING}
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many runs there are of each status."""
        found = Counter(run.status for run in self.runs)
        return {name: found[name] for name in STATUSES}

    def newest_first(self) -> list[Run]:
        """Running runs, then queued, failed, cancelled and done ones, those that last changed first."""
        order = (RUNNING, QUEUED, FAILED, CANCELLED, DONE)
        return sorted(self.runs, key=lambda run: (order.index(run.status), -_changed_at(run)))

    def to_dict(self) -> dict[str, Any]:
        """The counts and all runs, ready for JSON."""
        return {"counts": self.counts, "runs": [self._run(run) for run in self.runs]}

    def _run(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.id,
            "model": run.model,
            "dataset": run.dataset,
            "status": run.status,
            "attempt": run.attempt,
            "max_attempts": run.max_attempts,
            "expired": run.expired,
            "error": run.error,
            "progress": None if run.progress is None else asdict(run.progress),
            "seconds_left": self.seconds_left.get(run.id),
            "config": dict(run.config),
            "extractors": dict(run.extractors),
            **{
                name: value
                for name, value in run.properties.items()
                if name not in NOT_LISTED and name not in run.config
            },
        }


def _changed_at(run: Run) -> int:
    """When a run last changed, in milliseconds; 0 where its records do not say."""
    return max(run.properties.get(name) or 0 for name in ("queued_at", "stage_at", "ended_at"))
