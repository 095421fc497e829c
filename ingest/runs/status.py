"""How runs stand, with the time that is left of those that are worked on, and which adapters were scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.queries import load
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING, STATUSES, Run
from matchgraph.ingest.runs.estimates import Estimator

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Model
    from matchgraph.graphdb.repository import MatchingGraph

# Properties of a run's node that `RunsStatus.to_dict` gives under other names, or that only the ledger needs.
NOT_LISTED = frozenset(
    {
        *("id", "status", "attempt", "max_attempts", "fence", "config", "owner", "token", "error", "lock"),
        *("extractors", "stage", "stage_at", "stage_from", "step", "of", "loss"),
    }
)


@dataclass(frozen=True)
class RecordedAdapter:
    """What an edge has of an adapter that was trained elsewhere.

    Attributes:
        model: id of the model.
        dataset: id of the dataset.
        adapter: name of its file.
        values: by metric.
        facts: how it was trained, see `training.pipelines.trainers.training_facts`, and its hash.
    """

    model: str
    dataset: str
    adapter: str
    values: dict[str, float]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RunsStatus:
    """Runs as they stand.

    Args:
        runs: by model and dataset.
        seconds_left: id of a running run to the seconds until it is done; None where that is not known.
        adapters: those that were trained elsewhere and are on an edge.
    """

    runs: tuple[Run, ...]
    seconds_left: Mapping[str, float | None]
    adapters: tuple[RecordedAdapter, ...] = ()

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        models: Mapping[str, Model],
        *,
        measured: Sequence[Run] | None = None,
        gpu: bool | None = None,
    ) -> RunsStatus:
        """Estimate what is left of running runs.

        Args:
            runs: the runs.
            models: the models by id.
            measured: runs that estimates are made from, where they are done; `runs` by default.
            gpu: whether they run on a GPU; None where that is not known, see `Estimator`.
        """
        known = runs if measured is None else measured
        left, estimators = {}, {}
        for run in runs:
            if run.status == RUNNING:
                host = run.properties.get("host")
                if host not in estimators:
                    estimators[host] = Estimator(known, models, gpu=gpu, host=host)
                left[run.id] = estimators[host].left(run).seconds
        return cls(tuple(runs), left)

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
        """The counts, all runs and adapters, ready for JSON."""
        return {
            "counts": self.counts,
            "runs": [self._run(run) for run in self.runs],
            "adapters": [asdict(one) for one in self.adapters],
        }

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


def attempt_words(run: Run) -> str:
    """How often a run was begun, as far as that matters: a worker that was stopped gives its attempt back."""
    if run.status == QUEUED:
        return f"{run.attempt} of {run.max_attempts} attempts failed" if run.attempt else ""
    if run.status in (RUNNING, FAILED) or run.attempt > 1:
        return f"attempt {run.attempt} of {run.max_attempts}"
    return ""


def recorded_adapters(
    graph: MatchingGraph, models: Collection[str] = (), datasets: Collection[str] = ()
) -> tuple[RecordedAdapter, ...]:
    """The adapters trained elsewhere that the graph's edges have.

    Args:
        graph: the graph.
        models: ids of models; all by default.
        datasets: ids of datasets; all by default.

    Returns:
        By model and dataset.
    """
    found: dict[tuple[str, str, str], RecordedAdapter] = {}
    for row in graph.runner.read(load("read/adapters")):
        model, dataset, properties = row["model"], row["dataset"], row["properties"]
        if (models and model not in models) or (datasets and dataset not in datasets):
            continue
        for name, adapter in properties.items():
            metric, _, fact = name.partition("__")
            if fact != "adapter":
                continue
            facts = {
                key.removeprefix(f"{metric}__"): value
                for key, value in properties.items()
                if key.startswith((f"{metric}__trained_", f"{metric}__adapter_", f"{metric}__best_of"))
            }
            known = found.setdefault(
                (model, dataset, adapter), RecordedAdapter(model, dataset, adapter, {}, facts)
            )
            known.values[metric] = properties[metric]
    return tuple(found[key] for key in sorted(found))


def _changed_at(run: Run) -> int:
    """When a run last changed, in milliseconds; 0 where its records do not say."""
    return max(run.properties.get(name) or 0 for name in ("queued_at", "stage_at", "ended_at"))
