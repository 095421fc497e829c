"""How well would the method have chosen? Leave out each dataset in turn, and ask the others.

In each fold the held-out dataset keeps its features and similarities and loses all its results; weights,
embeddings, ranker and baselines are computed anew from what is left. All methods are compared on the same
folds and on the models measured there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.baselines import BASELINES, Baseline, average_loss
from predictor.errors import NoSimilarity, NotEnoughResults
from predictor.matching import Recipe, provenance, rank_models
from predictor.metrics import (
    O2B,
    O2O,
    OSR,
    SELECTION_METRICS,
    TAU,
    Interval,
    bootstrap_interval,
    optimal_selection,
    outscore_to_best,
    outscore_to_optimal,
    selected,
    weighted_tau,
)
from predictor.visibility import hide_results, initial_losses, loss_matrix, similarities_of

if TYPE_CHECKING:
    from graphdb.embedding import Embedder
    from graphdb.models import Snapshot
    from predictor.ranker import Ranker

METHOD = "method"
METHOD_TITLE = "Match & Choose"
REFERENCE = "average_rank"


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
    """

    dataset: str
    models: int
    best: tuple[str, ...]
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Summary:
    """A method over all folds.

    Attributes:
        key: the method's name in JSON.
        title: its name for people.
        figures: by key of the selection metric: mean and bootstrap interval over folds.
        gain: the same of the method's figure minus that of the average-rank baseline, fold by fold.
    """

    key: str
    title: str
    figures: Mapping[str, Interval]
    gain: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """The result of a leave-one-dataset-out evaluation.

    Attributes:
        summaries: the method first, then the baselines.
        folds: the details.
        skipped: why a dataset is no fold, by its id.
        provenance: what it was computed from and with.
    """

    summaries: tuple[Summary, ...]
    folds: tuple[Fold, ...]
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]


def evaluate(
    snapshot: Snapshot,
    embedder: Embedder,
    ranker: Ranker,
    recipe: Recipe | None = None,
    *,
    baselines: tuple[Baseline, ...] = BASELINES,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Leave out each dataset with at least two measured models, predict, and compare with the truth.

    Args:
        snapshot: the graph.
        embedder: called in each fold with what is visible there.
        ranker: trained anew in each fold.
        recipe: what goes into the rows.
        baselines: to compare with.
        seed: of baselines and bootstrap.
        progress: told the number of finished folds, of all folds, and the dataset now held out.

    Returns:
        Figures of the method and of all baselines, each fold's details, and the datasets that could be no
        fold.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: features ask for the graph, and no dataset has similarities.

    Source:
        Match & Choose, sections 5.1 and 5.2, Table 3.
    """
    recipe = recipe or Recipe()
    held_out, skipped = held_out_datasets(snapshot, recipe)
    folds = []
    for done, dataset in enumerate(held_out):
        if progress:
            progress(done, len(held_out), dataset)
        folds.append(
            evaluate_fold(snapshot, dataset, embedder, ranker, recipe, baselines=baselines, seed=seed)
        )
    titles = {METHOD: METHOD_TITLE, **{baseline.key: baseline.title for baseline in baselines}}
    details = provenance(snapshot, held_out[0], embedder, ranker, recipe)
    details.pop("extractor")
    return Evaluation(
        tuple(_summarised(key, title, folds, seed) for key, title in titles.items()),
        tuple(folds),
        skipped,
        {**details, "seed": seed},
    )


def evaluate_fold(
    snapshot: Snapshot,
    dataset: str,
    embedder: Embedder,
    ranker: Ranker,
    recipe: Recipe,
    *,
    baselines: tuple[Baseline, ...] = BASELINES,
    seed: int = 0,
) -> Fold:
    """Hold one dataset out and score the method and the baselines on it.

    Args:
        snapshot: the graph, with the truth.
        dataset: id of a dataset with at least two measured models.
        embedder: called with what is visible.
        ranker: trained anew.
        recipe: what goes into the rows.
        baselines: to compare with.
        seed: of the baselines.

    Returns:
        The fold's details.
    """
    visible = hide_results(snapshot, dataset)
    predicted = {METHOD: rank_models(visible, dataset, embedder, ranker, recipe).prediction.expected_rank}
    # Only Initial is given what was measured on the held-out dataset, and only from before any fine-tuning.
    initial = initial_losses(snapshot, dataset)
    for baseline in baselines:
        losses = baseline.predict(visible, dataset, initial, seed)
        if losses is not None:
            predicted[baseline.key] = losses
    matrix = loss_matrix(snapshot)
    truth = matrix.losses[:, matrix.datasets.index(dataset)]
    measured = ~np.isnan(truth)
    models = np.array(matrix.models)[measured]
    truth = truth[measured]
    average = average_loss(loss_matrix(visible))[measured]
    scores = {}
    for key, losses in predicted.items():
        own = losses[measured]
        if np.isnan(own).all():
            continue
        figures = {
            OSR.key: optimal_selection(own, truth),
            TAU.key: weighted_tau(own, truth),
            O2B.key: outscore_to_best(own, truth, average),
            O2O.key: outscore_to_optimal(own, truth),
        }
        scores[key] = Score(tuple(models[selected(own)].tolist()), figures)
    return Fold(dataset, len(models), tuple(models[truth == truth.min()].tolist()), scores)


def held_out_datasets(snapshot: Snapshot, recipe: Recipe) -> tuple[list[str], dict[str, str]]:
    """Which datasets can be held out, and why the others cannot, by id.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: features ask for the graph, and no dataset has similarities.
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
        elif recipe.features != "node" and not similarities_of(snapshot, dataset.id):
            skipped[dataset.id] = "no similarity to another dataset"
    held_out = [dataset for dataset in rankable if dataset not in skipped]
    if not held_out:
        raise NoSimilarity(
            "No dataset with measured models has a similarity to another dataset, so the graph cannot be "
            "evaluated. Record some with `matchgraph ingest similarities FILE.csv`, or use --features node."
        )
    return held_out, skipped


def _summarised(key: str, title: str, folds: list[Fold], seed: int) -> Summary:
    figures, gain = {}, {}
    for metric in SELECTION_METRICS:
        own = np.array([_figure(fold, key, metric.key) for fold in folds])
        reference = np.array([_figure(fold, REFERENCE, metric.key) for fold in folds])
        figures[metric.key] = bootstrap_interval(own, seed=seed)
        gain[metric.key] = bootstrap_interval(own - reference, seed=seed)
    return Summary(key, title, figures, gain)


def _figure(fold: Fold, method: str, metric: str) -> float:
    return fold.scores[method].figures[metric] if method in fold.scores else float("nan")
