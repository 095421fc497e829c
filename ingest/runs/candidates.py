"""What could be measured, and how long each would take; nothing is written."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.entries import DONE, finished
from matchgraph.ingest.runs.estimates import ASSUMED, UNMEASURED, Estimate, Estimator
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.memory import narrowed
from matchgraph.ingest.runs.plan import select_pairs
from matchgraph.ingest.runs.planning import Families, on_gpu
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.repository import MatchingGraph


@dataclass(frozen=True)
class Candidates:
    """Pairs that could be measured, and what each costs.

    Args:
        snapshot: the graph with its results by the first metric asked for.
        pairs: those selected that no run of the ledger is at.
        hours: of one device for a pair under all its seeds, by model.
        note: why a budget in hours cannot be kept to; empty where it can.
    """

    snapshot: Snapshot
    pairs: frozenset[tuple[str, str]]
    hours: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Measurable:
    """A model that can be fine-tuned on a dataset.

    Args:
        config: as the newest run of the model was done or, where there is none, the newest run of all.
        estimate: how long it takes on one device, and what that is estimated from.
    """

    config: RunConfig
    estimate: Estimate

    @property
    def hours(self) -> float | None:
        """How long it takes on one device; None where nothing is known of it."""
        return self.estimate.hours


def missing_runs(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    execution: Execution | None = None,
    families: Families | None = None,
) -> Candidates:
    """Find the pairs that a proposal may choose from; writes nothing and looks into no folder.

    Args:
        graph: the graph.
        config: what each run would do; results are those by its first metric.
        selection: which pairs.
        execution: how they would be carried out.
        families: see `plan_runs`.

    Raises:
        NothingToDo: a model or dataset is unknown, or none has a folder.
        BadInput: the file of pairs has problems.
    """
    snapshot = graph.snapshot(config.metrics[0])
    models = {model.id: model for model in snapshot.models}
    datasets = {dataset.id: dataset for dataset in snapshot.datasets}
    runs = Ledger(graph.runner).runs()
    unfinished = {(run.model, run.dataset) for run in runs if run.status != DONE}
    pairs = frozenset(select_pairs(models, datasets, selection)) - unfinished
    execution = execution or Execution()
    configs = {
        name: narrowed(
            replace(config, **(families or {}).get(str(model.properties.get("family")), {})), execution
        ).asked()
        for name, model in models.items()
    }

    def estimated(gpu: bool) -> dict[str, float | None]:
        estimator = Estimator(runs, models, gpu=gpu, host=platform.node())
        return {name: _hours(estimator, name, asked, selection.repeats) for name, asked in configs.items()}

    hours, because = estimated(on_gpu(execution)), ""
    if not any(hours.values()):
        # Which model takes longer than which is known all the same.
        hours, because = estimated(gpu=True), f"{UNMEASURED}; times are those of {ASSUMED}"
    known = [each for each in hours.values() if each]
    # A model of which nothing is known may cost as much as any.
    usual = median(known) if known else 1.0
    costs = {model: each or usual for model, each in hours.items()}
    if unknown := sorted({model for model, _ in pairs if not hours[model]}):
        because = f"the time of {some(unknown)} is not known, and counts as {costs[unknown[0]]:.3g} h"
    note = f"The budget cannot be kept to: {because}." if because else ""
    return Candidates(snapshot, pairs, costs, note)


def measurable_models(graph: MatchingGraph, dataset: str | None, metric: str) -> dict[str, Measurable]:
    """Find the models that can be measured on a dataset as the graph's results were; writes nothing.

    Args:
        graph: the graph.
        dataset: id of one of its datasets; None for one that it does not have yet.
        metric: what is measured.

    Returns:
        By id, those that have a folder.

    Raises:
        NodeNotFound: the dataset is not in the graph.
    """
    if dataset is not None:
        graph.require("dataset", dataset)
    models = {model.id: model for model in graph.models()}
    runs = Ledger(graph.runner).runs()
    done = [run for run in finished(runs) if metric in run.config["metrics"]]
    newest = {run.model: run for run in done}
    estimator = Estimator(runs, models, gpu=on_gpu(Execution()), host=platform.node())
    found = {}
    for model in sorted(name for name, node in models.items() if node.properties.get("source")):
        like = newest.get(model, done[-1] if done else None)
        config = RunConfig() if like is None else RunConfig.as_recorded(like.config)
        config = replace(config, metrics=(metric,), initial=True)
        found[model] = Measurable(config, estimator.whole(model, config.asked()))
    return found


def _hours(estimator: Estimator, model: str, asked: Mapping[str, Any], repeats: int) -> float | None:
    """Under all seeds, see `choices.repeated`."""
    first = estimator.whole(model, asked).hours
    further = estimator.whole(model, {**asked, "initial": False}).hours if repeats > 1 else 0.0
    return None if first is None or further is None else first + (repeats - 1) * further
