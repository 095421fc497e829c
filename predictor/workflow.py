"""Predicting and evaluating on a graph, as services: the command line and the Python API call these."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import GraphChanged, UnknownMetric
from matchgraph.graphdb.metrics import DEFAULT_METRIC, KNOWN_METRICS
from matchgraph.graphdb.queries import did_you_mean
from matchgraph.graphdb.snapshot import NOT_RECORDED
from matchgraph.predictor import evaluation, matching, new_models, replay, samples
from matchgraph.predictor.active import pair_hours
from matchgraph.predictor.answer import Answer
from matchgraph.predictor.baselines import groups_note
from matchgraph.predictor.confidence import cluster_folds, confidence_of, other_folds
from matchgraph.predictor.config import ReplayConfig
from matchgraph.predictor.costs import load_costs
from matchgraph.predictor.errors import (
    ExtractorMismatch,
    InvalidRows,
    NotEnoughResults,
    UnknownMetricName,
    UnknownTarget,
)
from matchgraph.predictor.folds import rehearsed_folds
from matchgraph.predictor.nearby import nearby
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.remembered import FOLDER, Remembering
from matchgraph.predictor.starting import StartingPoint, starting_point
from matchgraph.predictor.verdict import verdict
from matchgraph.predictor.visibility import part_of
from matchgraph.progress import Progress, no_progress

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, MeasuredDataset, Snapshot, Statistics
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.new_models import NewModels
    from matchgraph.predictor.replay import BudgetCurve


class NewDataset(Protocol):
    """A dataset that the graph need not have, such as `ingest.tables.new_dataset.NewFolder`."""

    @property
    def metric(self) -> str:
        """The metric of its distances to other datasets."""
        ...

    def measured(
        self, graph: MatchingGraph, known: Sequence[Dataset], on_progress: Progress, *, save: bool = False
    ) -> MeasuredDataset:
        """Measure it, and its distances to the datasets of the graph; writes nothing.

        Args:
            graph: the graph.
            known: its datasets.
            on_progress: called with the step, and how much of it is done.
            save: whether it is to be saved, which other content under its id in the graph rules out.
        """
        ...


def predict(
    graph: MatchingGraph,
    target: str | NewDataset,
    *,
    method: Method | None = None,
    save: bool = False,
    confidence: float | None = None,
    home: Path | None = None,
    on_progress: Progress = no_progress,
) -> Answer:
    """Rank the models for a dataset, without fine-tuning any.

    Args:
        graph: the graph.
        target: the id of one of its datasets, whose own results are not used; or a new dataset.
        method: how to predict; the default recipe by default.
        save: keep a new dataset in the graph.
        confidence: also find the smallest set that contains the best model with this confidence, in
            (0, 1). The method is first tried on each of the graph's other datasets.
        home: the data folder, where rankings are kept for the next time, see `predictor.remembered`; None to
            keep none.
        on_progress: called with the step, and how much of it is done.

    Returns:
        The ranking, with the results measured on the dataset.

    Raises:
        UnknownTarget: the graph has no such dataset, or `save` is asked for one that it has.
        InvalidRows: a confidence out of range, or a new dataset is compared by another metric than asked for.
        ExtractorMismatch: the graph's datasets were compared by another extractor than a new one.
        UnknownMetricName: no result is in the metric.
        NotEnoughResults: too few results to learn from.
        NoSimilarity: the recipe needs similarities, and the dataset has none.
    """
    started = time.perf_counter()
    method = method or Method()
    if confidence is not None and not 0 < confidence < 1:
        raise InvalidRows(f"a confidence must be above 0 and below 1, got {confidence}")
    if isinstance(target, str):
        if save:
            raise UnknownTarget(
                f"--save adds a folder of images to the graph, and {target!r} is already a dataset of it."
            )
        snapshot = _visible(graph, method, method.similarity)
        _check_known(snapshot, target)
        dataset: str | Dataset = target
        name, distances, compared = target, {}, set()
        statistics = _few_of_graph(graph, snapshot, target)
        folder_notes: tuple[str, ...] = ()
        own = snapshot.performs[(snapshot.performs["dataset"] == name) & snapshot.performs["value"].notna()]
        measured = dict(zip(own["model"], map(float, own["value"]), strict=True))
    else:
        if method.similarity not in (None, target.metric):
            raise InvalidRows(f"A new dataset is compared by {target.metric}, not by {method.similarity}.")
        snapshot = _visible(graph, method, target.metric)
        new = target.measured(graph, snapshot.datasets, on_progress, save=save)
        _check_compared_with(snapshot, new)
        if save:
            new = _saved(graph, target, new, snapshot.datasets, on_progress)
        dataset, name, measured, statistics = new.dataset, new.dataset.id, {}, new.statistics[0]
        folder_notes = new.notes
        distances = {(set(pair.pair) - {name}).pop(): pair.value for pair in new.similar}
        # Those that are too far to count were compared as well.
        compared = distances.keys() | (new.compared or {}).get(statistics.extractor, ())
    matcher = method.build(graph.runner)
    if home is not None:
        matcher = Remembering(matcher, home / FOLDER)
    costs = load_costs(graph, snapshot, without=name)
    on_progress("ranking models", 0, 0)
    apart = groups_note(snapshot, name)
    snapshot, part = nearby(snapshot, dataset, distances)
    left = {known.id for known in snapshot.datasets}
    distances = {other: value for other, value in distances.items() if other in left}
    reliability, notes = 1.0, (*matcher.notes, *folder_notes, *filter(None, (part, apart)))
    if statistics is not None:
        reliability = samples.reliability(statistics, snapshot.datasets)
        note = samples.few_images_note(name, statistics.n, statistics.mean.size)
        notes = notes if note is None else (*notes, note)
    if missing := missing_pairs_note(snapshot, name, compared - {name}):
        notes = (*notes, missing)
    prediction = matching.predict(
        snapshot, dataset, matcher, distances=distances, costs=costs, reliability=reliability
    )
    sure, folds = None, rehearsed_folds(snapshot, prediction.rehearsed)
    if confidence is not None:
        folds = folds or other_folds(
            snapshot,
            name,
            matcher,
            lambda done, of, held_out: on_progress(f"calibrating without {held_out}", done, of),
        )
        on_progress("calibrating without whole clusters", 0, 0)
        sure = confidence_of(prediction, folds, confidence, cluster_folds(snapshot, name, matcher))
    judged = verdict(prediction.ranking, folds, prediction.familiarity)
    return Answer(prediction, judged, measured, sure, time.perf_counter() - started, notes)


def predict_or_start(
    graph: MatchingGraph,
    target: str | NewDataset,
    *,
    method: Method | None = None,
    save: bool = False,
    confidence: float | None = None,
    home: Path | None = None,
    on_progress: Progress = no_progress,
) -> Answer | StartingPoint:
    """Predict, or say what is published of the models while the graph has no results; see `predict`."""
    try:
        return predict(
            graph,
            target,
            method=method,
            save=save,
            confidence=confidence,
            home=home,
            on_progress=on_progress,
        )
    except UnknownMetricName:
        wanted = method.models if method else ()
        models = [model for model in graph.models() if not wanted or model.id in wanted]
        start = None if _measured_metrics(graph) else starting_point(models)
        if start is None:
            raise
        return start


def save_dataset(graph: MatchingGraph, target: NewDataset, on_progress: Progress = no_progress) -> str:
    """Keep a new dataset in the graph, compared with those it has.

    Args:
        graph: the graph.
        target: the dataset; one that the graph has with the same content stays as it is.
        on_progress: called with the step, and how much of it is done.

    Returns:
        Its id.
    """
    known = graph.datasets()
    new = target.measured(graph, known, on_progress, save=True)
    return _saved(graph, target, new, known, on_progress).dataset.id


def evaluate(
    graph: MatchingGraph,
    *,
    method: Method | None = None,
    removed: float = 0.0,
    hold_out: str | None = None,
    measure: int = 0,
    on_progress: Progress = no_progress,
) -> Evaluation:
    """Leave-one-dataset-out accuracy of a method on the graph, against baselines.

    Args:
        graph: the graph.
        method: how to predict; the default recipe by default.
        removed: share of the visible results that is taken away at random in each fold.
        hold_out: kind of datasets that are held out together, "style", "category" or "cluster", see
            `predictor.groups`; None for one dataset at a time.
        measure: also what comes of measuring that many models in each order and taking the best.
        on_progress: called with the step, and how much of it is done.

    Returns:
        Figures of the method and of all baselines.

    Raises:
        UnknownMetricName: no result is in the metric.
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: the method needs similarities, and no dataset has any.
        InvalidRows: a share to remove outside [0, 1), or datasets that make no groups of that kind.
    """
    method = method or Method()
    snapshot = _visible(graph, method, method.similarity)
    return evaluation.evaluate(
        snapshot,
        method.build(graph.runner),
        seed=method.seed,
        removed=removed,
        hold_out=hold_out,
        measure=measure,
        progress=lambda done, of, dataset: on_progress(f"without {dataset}", done, of),
    )


def evaluate_new_models(
    graph: MatchingGraph, *, method: Method | None = None, on_progress: Progress = no_progress
) -> NewModels:
    """How well models that were never measured are placed among the others, see `predictor.new_models`.

    Args:
        graph: the graph.
        method: how to predict; the default recipe by default.
        on_progress: called with the step, and how much of it is done.

    Raises:
        UnknownMetricName: no result is in the metric.
        NotEnoughResults: fewer than two datasets have two measured models, or fewer than three models
            results.
        NoSimilarity: the method needs similarities, and no dataset has any.
    """
    method = method or Method()
    snapshot = _visible(graph, method, method.similarity)
    return new_models.evaluate_new_models(
        snapshot,
        method.build(graph.runner),
        seed=method.seed,
        progress=lambda done, of, model: on_progress(f"without {model}", done, of),
    )


def evaluate_by_budget(
    graph: MatchingGraph,
    *,
    method: Method | None = None,
    config: ReplayConfig | None = None,
    on_progress: Progress = no_progress,
) -> BudgetCurve:
    """Accuracy against budget: hide the recorded results and reveal them in several orders.

    Args:
        graph: the graph.
        method: how to predict; the default recipe by default.
        config: how the results are replayed.
        on_progress: called with the step, and how much of it is done.

    Returns:
        A curve per order, the one of active measurement first.

    Raises:
        UnknownMetricName: no result is in the metric.
        NotEnoughResults: fewer datasets with two measured models than folds.
        NoSimilarity: the method needs similarities, and no dataset has any.
    """
    method = method or Method()
    snapshot = _visible(graph, method, method.similarity)
    # Times are no results, so those of all datasets count.
    hours, basis = pair_hours(snapshot, load_costs(graph, snapshot))
    return replay.budget_curve(
        snapshot,
        hours,
        method.build(graph.runner),
        config or ReplayConfig(seed=method.seed),
        hours_from=basis,
        progress=lambda done, of, what: on_progress(what, done, of),
    )


def _visible(graph: MatchingGraph, method: Method, similarity: str | None) -> Snapshot:
    """What a method sees of the graph."""
    snapshot = load_snapshot(graph, method.metric, similarity, method.measured_with)
    if len(method.models) == 1:
        raise NotEnoughResults(f"{method.models[0]} alone is left to choose from: there is nothing to rank.")
    return part_of(snapshot, models=method.models) if method.models else snapshot


def load_snapshot(
    graph: MatchingGraph,
    metric: str = DEFAULT_METRIC,
    similarity: str | None = None,
    measured_with: Sequence[str] = (),
) -> Snapshot:
    """The graph by the metric asked for; see `MatchingGraph.snapshot`.

    Raises:
        UnknownMetricName: no result is in that metric; the message lists those there are.
    """
    try:
        snapshot = graph.snapshot(metric, similarity, measured_with)
        if snapshot.performs["value"].notna().any():
            return snapshot
    except UnknownMetric:
        if similarity is not None:
            graph.metric(metric)
            raise
    measured = _measured_metrics(graph)
    present = ", ".join(f"{name} ({results} results)" for name, results in measured.items())
    advice = (
        f"Measured here: {present}; choose with --metric."
        if present
        else "The graph has no results yet: add some with `matchgraph ingest results FILE.csv`."
    )
    raise UnknownMetricName(f"No fine-tuned model was measured by {metric!r}. {advice}")


def _measured_metrics(graph: MatchingGraph) -> dict[str, int]:
    """How many results there are by each metric that has any."""
    defined = [row["name"] for row in graph.runner.read(queries.load("read/metrics"))]
    names = sorted({*KNOWN_METRICS, *defined})
    rows = graph.runner.read(queries.load("predict/metrics"), names=names)
    return {row["name"]: row["results"] for row in rows}


def _few_of_graph(graph: MatchingGraph, snapshot: Snapshot, target: str) -> Statistics | None:
    """Statistics of a dataset of the graph that has no more images than dimensions; None of one with more."""
    known = next(dataset for dataset in snapshot.datasets if dataset.id == target)
    n = known.properties.get("n_real")
    if known.embedding is None or not isinstance(n, int) or n > len(known.embedding):
        return None
    return graph.statistics_of(target)


def _check_known(snapshot: Snapshot, target: str) -> None:
    ids = [known.id for known in snapshot.datasets]
    if target not in ids:
        near = did_you_mean(target, ids) or ". Give a folder of images, or the id of a dataset in the graph."
        raise UnknownTarget(
            f"{target!r} is neither a folder nor one of the graph's {len(ids)} datasets{near}"
        )


def _saved(
    graph: MatchingGraph,
    target: NewDataset,
    new: MeasuredDataset,
    known: Sequence[Dataset],
    on_progress: Progress,
) -> MeasuredDataset:
    """Save a new dataset that was compared with the known ones.

    Where another writer adds a dataset in the meantime, it is compared with that first; where that one has
    its id and other images, measuring it again refuses it.
    """
    while True:
        read = {dataset.id: dataset for dataset in known}
        try:
            graph.save_datasets([new.dataset], new.statistics, new.similar, compared=new.compared, read=read)
        except GraphChanged:
            known = graph.datasets()
            new = target.measured(graph, known, on_progress, save=True)
        else:
            return new


def _check_compared_with(snapshot: Snapshot, new: MeasuredDataset) -> None:
    extractor = new.statistics[0].extractor
    if snapshot.compared_with not in (None, NOT_RECORDED, extractor):
        raise ExtractorMismatch(
            f"{new.dataset.id} was compared with the graph's datasets by the extractor {extractor}, but they "
            f"were compared with each other by {snapshot.compared_with}: give that probe, or use only the "
            f"former with --measured-with {extractor}."
        )
