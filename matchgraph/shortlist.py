"""Rank the models for a dataset, measure the likeliest, and decide.

The measurements are runs of the ledger: finished ones are not repeated, an interrupted one goes on from its
checkpoint, and every result stays in the graph.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from matchgraph.errors import Error
from matchgraph.ingest.runs.candidates import Measurable, measurable_models
from matchgraph.ingest.runs.config import Selection
from matchgraph.ingest.runs.entries import DONE, Run
from matchgraph.ingest.runs.estimates import bases
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.workflow import queue_runs, run_pairs
from matchgraph.predictor.decision import Decision, decide, outcomes
from matchgraph.predictor.errors import NotEnoughResults, UnknownMetricName
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.seeds import read_replicates, seed_noise
from matchgraph.predictor.starting import RANK
from matchgraph.predictor.visibility import part_of
from matchgraph.predictor.workflow import predict, save_dataset
from matchgraph.progress import Progress, no_progress
from matchgraph.words import SECONDS_PER_HOUR, duration

if TYPE_CHECKING:
    from pathlib import Path

    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.ingest.runs.worker import WorkerOptions
    from matchgraph.ingest.tables.new_dataset import NewFolder
    from matchgraph.predictor.answer import Answer

# A chance of the leader from which on further measurements are not worth their time.
ENOUGH = 0.95


class NothingMeasured(Error):
    """No model of the shortlist could be measured."""


@dataclass(frozen=True)
class Shortlisted:
    """A decision and where it comes from.

    Attributes:
        dataset: id of the dataset, which is in the graph now.
        answer: the ranking before; None where the graph has no results to learn from.
        order: models in the order in which they are measured, as ranked.
        decision: by what was measured.
        adapter: weights of the model to take, in the data folder; None where it is not to be tuned, or where
            it was measured elsewhere.
        failed: model id to the reason why it could not be measured.
        stopped: why no more models were measured.
        hours: how long the measurements took now.
        notes: what limits how far the decision can be trusted, one sentence each.
    """

    dataset: str
    answer: Answer | None
    order: tuple[str, ...]
    decision: Decision
    adapter: Path | None
    failed: Mapping[str, str]
    stopped: str
    hours: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            **vars(self),
            "answer": self.answer and self.answer.to_dict(),
            "decision": self.decision.to_dict(),
            "adapter": self.adapter and str(self.adapter),
        }


def measure_and_decide(
    graph: MatchingGraph,
    settings: Settings,
    target: str | NewFolder,
    *,
    measure: int | None = 3,
    budget_hours: float | None = None,
    method: Method | None = None,
    probe: str | None = None,
    extractors: tuple[str, ...] = (),
    options: WorkerOptions | None = None,
    on_progress: Progress = no_progress,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
) -> Shortlisted:
    """Rank the models for a dataset, fine-tune and measure the first ones in turn, and decide.

    Each is measured as the graph's results were. It ends when enough models are measured, when the next one
    does not fit the budget, or when the leader is the best with a chance of 95 %. What the graph has of the
    dataset counts as measured, so the same call goes on where it was stopped. Without results to learn from,
    all models are equally likely: they come by their published average rank, and those without one cheapest
    first.

    Args:
        graph: the graph.
        settings: how workers reach it, and the data folder.
        target: id of a dataset, or a folder of images, which becomes one.
        measure: how many models to measure at most; None for as many as the budget pays for.
        budget_hours: of one device; None for no limit.
        method: how to predict; the default recipe by default.
        probe: the CLIP model that the datasets were ingested with.
        extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
        options: how a worker works.
        on_progress: called with the step of the prediction, and how much of it is done.
        reporter: hears how the runs go.
        stop: set it to end the work at the next step.

    Raises:
        NothingMeasured: each model failed; the message has the reasons.
        IngestError: as `ingest.runs.workflow.plan_runs`.
        KeyboardInterrupt: it was stopped.
    """
    method, reporter = method or Method(), reporter or Reporter()
    dataset = target if isinstance(target, str) else save_dataset(graph, target, on_progress)
    able = measurable_models(graph, dataset, method.metric)
    if method.models:
        able = {model: found for model, found in able.items() if model in method.models}
    answer, chances = _predicted(graph, dataset, method, on_progress)
    hours = {model: found.hours for model, found in able.items()}
    ranks = {model.id: model.properties.get(RANK, math.inf) for model in graph.models()}
    places = {} if answer is None else {own.model: place for place, own in enumerate(answer.ranking)}
    order = tuple(
        sorted(able, key=lambda model: (places.get(model, 0), ranks[model], hours[model] or 0.0, model))
    )
    failed: dict[str, str] = {}
    model = None
    started = time.monotonic()
    while True:
        snapshot = graph.snapshot(method.metric, None, method.measured_with)
        if method.models:
            snapshot = part_of(snapshot, models=method.models)
        noise = seed_noise(snapshot, read_replicates(graph.runner, snapshot))
        known = outcomes(snapshot, dataset, noise)
        if model is not None and all(outcome.model != model for outcome in known):
            failed.setdefault(model, "its result was not measured by the extractor asked for")
        decision = None
        if known:
            decision = decide(chances, known, larger_is_better=snapshot.metric.larger_is_better)
        spent = (time.monotonic() - started) / SECONDS_PER_HOUR
        done = {*failed, *(outcome.model for outcome in known)}
        left = [model for model in order if model not in done]
        stopped = _reason(decision, len(known), left, hours, measure, budget_hours, spent)
        if stopped:
            break
        if model is None:
            room = len(left) if measure is None else measure - len(known)
            planned = _affordable(left[:room], hours, budget_hours)
            reporter.notice(_announcement(dataset, planned, able, chances, budget_hours))
        else:
            reporter.notice(f"Next is {left[0]}, {_about(hours[left[0]])}.")
        model = left[0]
        summary = run_pairs(
            graph,
            settings,
            able[model].config,
            Selection((model,), (dataset,), probe=probe, extractors=extractors),
            options=options,
            retry_failed=True,
            reporter=reporter,
            stop=stop,
        )
        # By the runs that this machine has done by now.
        hours = {name: own.hours for name, own in measurable_models(graph, dataset, method.metric).items()}
        reasons = [*summary.failed.values(), *summary.not_here.values()]
        if reasons or not (summary.done or summary.already_done or summary.done_elsewhere):
            failed[model] = "; ".join(reasons) or "another worker has its run"
    if decision is None:
        because = "; ".join(f"{model}: {reason}" for model, reason in failed.items())
        raise NothingMeasured(f"No model is measured on {dataset!r}. {because or stopped}")
    adapter = _adapter(graph, settings, decision, dataset)
    return Shortlisted(dataset, answer, order, decision, adapter, failed, stopped, spent)


def queue_models(
    graph: MatchingGraph,
    settings: Settings,
    target: str | NewFolder,
    models: Sequence[str],
    *,
    metric: str,
    probe: str | None = None,
    extractors: tuple[str, ...] = (),
    on_progress: Progress = no_progress,
) -> list[Run]:
    """Queue the runs that `measure_and_decide` would do for some models; workers carry them out.

    Args:
        graph: the graph.
        settings: the data folder.
        target: id of a dataset, or a folder of images, which becomes one.
        models: ids.
        metric: what is measured.
        probe: the CLIP model that the datasets were ingested with.
        extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
        on_progress: called with the step, and how much of it is done.

    Returns:
        The runs as they stand.

    Raises:
        NothingMeasured: a model has no folder; nothing was queued.
        IngestError: as `ingest.runs.workflow.plan_runs`.
    """
    able = measurable_models(graph, None, metric)
    if missing := [model for model in models if model not in able]:
        raise NothingMeasured(
            f"No folder is known of {', '.join(missing)}: add it with `matchgraph ingest models FOLDER`."
        )
    dataset = target if isinstance(target, str) else save_dataset(graph, target, on_progress)
    runs: list[Run] = []
    for model in models:
        selection = Selection((model,), (dataset,), probe=probe, extractors=extractors)
        queued = queue_runs(graph, able[model].config, selection, home=settings.home, retry_failed=True)
        runs += queued.runs
    return runs


def _predicted(
    graph: MatchingGraph, dataset: str, method: Method, on_progress: Progress
) -> tuple[Answer | None, dict[str, float]]:
    """The ranking, and each model's chance to be the best; the same for all where there are no results."""
    try:
        answer = predict(graph, dataset, method=method, on_progress=on_progress)
    except (NotEnoughResults, UnknownMetricName):
        models = [model.id for model in graph.models() if not method.models or model.id in method.models]
        return None, dict.fromkeys(models, 1 / max(len(models), 1))
    return answer, {model.model: model.p_best for model in answer.ranking}


def _reason(
    decision: Decision | None,
    known: int,
    left: list[str],
    hours: Mapping[str, float | None],
    measure: int | None,
    budget_hours: float | None,
    spent: float,
) -> str:
    """Why to stop, as a sentence; empty to go on."""
    if measure is not None and known >= measure:
        more = f"To go on, ask for more, such as --measure {2 * known}."
        return f"{known} measured, as many as asked for. {more}"
    if decision is not None and (decision.chance or 0.0) >= ENOUGH:
        return f"{decision.measured[0].model} is the best with a probability of {100 * ENOUGH:.0f} % or more."
    if not left:
        return "No other model has a folder here: `matchgraph ingest models FOLDER` adds them."
    if budget_hours is not None and spent + (hours[left[0]] or 0.0) > budget_hours:
        return f"The next one, {left[0]}, does not fit the budget of {budget_hours:g} h."
    return ""


def _affordable(
    models: Sequence[str], hours: Mapping[str, float | None], budget_hours: float | None
) -> list[str]:
    """The first models, as many as the budget pays for by what is known of their times; at least one."""
    spent = list(accumulate(hours[model] or 0.0 for model in models))
    return [
        model
        for number, model in enumerate(models)
        if number == 0 or budget_hours is None or spent[number] <= budget_hours
    ]


def _announcement(
    dataset: str,
    models: Sequence[str],
    able: Mapping[str, Measurable],
    chances: Mapping[str, float],
    budget_hours: float | None,
) -> str:
    """What will be measured, at which size of images, and how long that takes by which runs."""
    sides = sorted({able[model].config.resolution_px for model in models})
    named = ", ".join(
        f"{model} (P(best) {100 * chances[model]:.0f} %, {_about(able[model].hours)})" for model in models
    )
    plan = f"To measure on {dataset}, with images of {' and '.join(map(str, sides))} px: {named}."
    estimates = [able[model].estimate for model in models]
    unknown = list(dict.fromkeys(one.basis for one in estimates if one.hours is None))
    if unknown and budget_hours is not None:
        return (
            f"{plan}\nThe budget of {budget_hours:g} h cannot be kept to ({'; '.join(unknown)}): no model is "
            "begun once it is spent."
        )
    if unknown:
        return plan
    together = _about(sum(one.hours or 0.0 for one in estimates))
    return f"{plan}\nTogether {together}, estimated from {bases(estimates)}."


def _about(hours: float | None) -> str:
    return "a time that is not known" if hours is None else f"about {duration(SECONDS_PER_HOUR * hours)}"


def _adapter(graph: MatchingGraph, settings: Settings, decision: Decision, dataset: str) -> Path | None:
    if not decision.tuned:
        return None
    runs = Ledger(graph.runner).runs_of([decision.model], [dataset])
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        if run.status == DONE and not run.replicate:
            file = settings.home / str(run.properties.get("adapter"))
            if file.is_file():
                return file
    return None
