"""Holding datasets out: what a method predicts for them from the rest, beside what was measured.

A held-out dataset keeps its features and similarities and loses all its results; weights, embeddings, ranker
and baselines are recomputed from the rest. All methods are compared on the models measured there.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.baselines import BASELINES, Baseline, average_loss
from matchgraph.predictor.errors import NoSimilarity, NotEnoughResults
from matchgraph.predictor.familiarity import Nearness
from matchgraph.predictor.metrics import (
    O2B,
    O2O,
    OSR,
    TAU,
    TAU_SCIPY,
    after_measuring,
    optimal_selection,
    outscore_to_best,
    outscore_to_optimal,
    scipy_tau,
    selected,
    weighted_tau,
)
from matchgraph.predictor.ranks import RankPrediction, no_preference
from matchgraph.predictor.visibility import (
    initial_losses,
    loss_matrix,
    remove_results,
    similarities_of,
    without_results,
)

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

METHOD = "method"
# Figures of measuring the first models, in a fold.
FOUND, REGRET = "osr_measured", "regret_measured"


@dataclass(frozen=True)
class Score:
    """A method's outcome in one fold.

    Attributes:
        selected: the models tied in first place.
        figures: by key of the selection metric; NaN where it is not defined.
    """

    selected: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Fold:
    """One held-out dataset.

    Attributes:
        dataset: its id.
        models: how many models were measured on it.
        best: the optimal models, several where they tie.
        scores: by method; a method that could not rank anything here is missing.
        losses: what was measured, by model; smaller is better.
        p_best: the method's chance of each model of the zoo, measured here or not, to be the best.
        expected_rank: the method's expected rank of each model of the zoo.
    """

    dataset: str
    models: int
    best: tuple[str, ...]
    scores: Mapping[str, Score]
    losses: Mapping[str, float]
    p_best: Mapping[str, float]
    expected_rank: Mapping[str, float]


def evaluate_fold(
    snapshot: Snapshot,
    dataset: str,
    matcher: Matcher,
    *,
    baselines: tuple[Baseline, ...] = BASELINES,
    seed: int = 0,
    removed: float = 0.0,
) -> Fold:
    """Hold one dataset out and score the method and the baselines on it.

    Args:
        snapshot: the graph, with the truth.
        dataset: id of a dataset with at least two measured models.
        matcher: the method; sees what is visible.
        baselines: to compare with.
        seed: of the baselines and of what is removed.
        removed: share of the visible results that is taken away. Where too few are left to learn from, the
            method prefers no model.

    Returns:
        The fold's details.
    """
    return hold_out_together(snapshot, [dataset], [dataset], matcher, baselines, seed, removed, 0)[0]


def hold_out_together(
    snapshot: Snapshot,
    datasets: Sequence[str],
    hidden: Sequence[str],
    matcher: Matcher,
    baselines: tuple[Baseline, ...],
    seed: int,
    removed: float,
    measure: int,
) -> list[Fold]:
    """Hold datasets out together, rank for all of them at once, and score each.

    Args:
        snapshot: the graph, with the truth.
        datasets: ids of datasets with at least two measured models.
        hidden: all datasets that are held out, these among them.
        matcher: the method; sees what is visible.
        baselines: to compare with.
        seed: of the baselines and of what is removed.
        removed: share of the visible results that is taken away.
        measure: how many models are measured, see `after_measuring`; 0 for none.
    """
    visible = without_results(snapshot, hidden)
    if removed:
        # Another draw for each group, so that a lucky one does not decide about all of them.
        visible = remove_results(visible, removed, zlib.crc32(f"{seed} {' '.join(datasets)}".encode()))
    predictions = _ranked(matcher, visible, datasets, may_be_too_few=removed > 0)
    matrix, average = loss_matrix(snapshot), average_loss(loss_matrix(visible))
    near = Nearness(visible)
    folds = []
    for dataset in datasets:
        predicted = {METHOD: predictions[dataset].expected_rank}
        # Only Initial is given what was measured on the held-out dataset, and only from before any
        # fine-tuning.
        initial = initial_losses(snapshot, dataset)
        for baseline in baselines:
            losses = baseline.predict(visible, dataset, initial, seed)
            if losses is not None:
                predicted[baseline.key] = losses
        column = matrix.losses[:, matrix.datasets.index(dataset)]
        measured = ~np.isnan(column)
        models, truth = np.array(matrix.models)[measured], column[measured]
        scores = {}
        for key, losses in predicted.items():
            own = losses[measured]
            if np.isnan(own).all():
                continue
            figures = {
                OSR.key: optimal_selection(own, truth),
                TAU.key: weighted_tau(own, truth),
                O2B.key: outscore_to_best(own, truth, average[measured]),
                O2O.key: outscore_to_optimal(own, truth),
                TAU_SCIPY.key: scipy_tau(own, truth),
            }
            if measure:
                figures[FOUND], figures[REGRET] = after_measuring(own, truth, measure)
            scores[key] = Score(tuple(models[selected(own)].tolist()), figures)
        told = near.told(dataset, predictions[dataset])
        folds.append(_fold(dataset, matrix.models, column, told, scores))
    return folds


def rehearsed_folds(
    snapshot: Snapshot, rehearsed: Mapping[str, RankPrediction], visible: Snapshot | None = None
) -> tuple[Fold, ...]:
    """Folds from what a method predicted on its way for other datasets, see `Ranked.rehearsed`; no figures.

    Args:
        snapshot: the graph, with the truth.
        rehearsed: predictions by dataset.
        visible: what the method saw; by default all but the results of the one dataset.
    """
    matrix, near = loss_matrix(snapshot), Nearness(snapshot if visible is None else visible)
    folds = []
    for dataset, prediction in rehearsed.items():
        truth = matrix.losses[:, matrix.datasets.index(dataset)]
        folds.append(_fold(dataset, matrix.models, truth, near.told(dataset, prediction), {}))
    return tuple(folds)


def _fold(
    dataset: str,
    models: Sequence[str],
    truth: np.ndarray,
    prediction: RankPrediction,
    scores: Mapping[str, Score],
) -> Fold:
    measured = {model: float(loss) for model, loss in zip(models, truth, strict=True) if not np.isnan(loss)}
    best = min(measured.values())
    return Fold(
        dataset,
        len(measured),
        tuple(model for model, loss in measured.items() if loss == best),
        scores,
        losses=measured,
        p_best=dict(zip(models, prediction.p_best.tolist(), strict=True)),
        expected_rank=dict(zip(models, prediction.expected_rank.tolist(), strict=True)),
    )


def _ranked(
    matcher: Matcher, visible: Snapshot, datasets: Sequence[str], *, may_be_too_few: bool
) -> dict[str, RankPrediction]:
    try:
        return {dataset: own.prediction for dataset, own in matcher.rank(visible, datasets).items()}
    except NotEnoughResults:
        if not may_be_too_few:
            raise
        return dict.fromkeys(datasets, no_preference(len(visible.models)))


def held_out_datasets(snapshot: Snapshot, needs_similarities: bool) -> tuple[list[str], dict[str, str]]:
    """Which datasets can be held out, and why the others cannot, by id.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: similarities are needed, and no dataset has any.
    """
    matrix = loss_matrix(snapshot)
    counts = dict(zip(matrix.datasets, (~np.isnan(matrix.losses)).sum(axis=0), strict=True))
    rankable = [dataset for dataset in matrix.datasets if counts[dataset] >= 2]
    if len(rankable) < 2:
        raise NotEnoughResults(
            "Leave-one-out needs at least 2 datasets with at least 2 models measured by "
            f"{snapshot.metric.name} after fine-tuning; the graph has {len(rankable)}. Record results with "
            "`matchgraph ingest results FILE.csv` or `matchgraph ingest run`."
        )
    skipped = {}
    for dataset in snapshot.datasets:
        if dataset.id not in rankable:
            count = counts.get(dataset.id, 0)
            skipped[dataset.id] = f"{count} measured model{'s' if count != 1 else ''}: nothing to rank"
        elif needs_similarities and not similarities_of(snapshot, dataset.id):
            skipped[dataset.id] = "no similarity to another dataset"
    held_out = [dataset for dataset in rankable if dataset not in skipped]
    if not held_out:
        raise NoSimilarity(
            "No dataset with measured models has a similarity to another dataset, so the graph cannot be "
            "evaluated. Add some with `matchgraph ingest similarities FILE.csv`, or use --features node."
        )
    return held_out, skipped
