"""Baselines: rankings that use no matching graph, or less of it.

Each baseline is a function of the *visible* graph (without the held-out dataset's results) and returns one
predicted loss per model of the zoo: only their order matters, and NaN says that it does not rank a model.
Equal losses are ties, settled by expectation in `predictor.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.features import dataset_features
from matchgraph.predictor.ranks import MAX_CLASSES, RankClasses
from matchgraph.predictor.visibility import LossMatrix, loss_matrix, similarities_of, similarity_weights
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

FOREST_TREES = 100


@dataclass(frozen=True)
class Baseline:
    """A baseline and how to compute it.

    Attributes:
        key: its name in JSON.
        title: its readable name.
        predict: from the visible graph, the id of the dataset to predict for, the initial losses of the zoo
            on that dataset
            (NaN where not measured), and a seed, to the predicted losses (n_models,), or None where it has
            nothing to go by.
    """

    key: str
    title: str
    predict: Callable[[Snapshot, str, np.ndarray, int], np.ndarray | None]


def average_rank(matrix: LossMatrix) -> np.ndarray:
    """Each model's mean rank over the datasets where it was measured.

    Ranks are scaled to fractions first, so missing results do not make a rank of 2 among 3 look like one of 2
    among 30.

    Args:
        matrix: results of the other datasets.

    Returns:
        float64, (n_models,); NaN for a model that was never measured.

    Source:
        Match & Choose, section 5.1 (Overall): "the ranking over every datasets on average".
    """
    return _mean_of_known(matrix.scaled_ranks())


def average_loss(matrix: LossMatrix) -> np.ndarray:
    """Each model's mean loss, as if every model had been measured on every dataset.

    Where results are missing, plain means would favour models measured on easy datasets. So this fits
    loss(m, d) = a(m) + b(d) by least squares and returns a; on a complete matrix that is the plain mean, up
    to a constant.

    Args:
        matrix: results of the other datasets.

    Returns:
        float64, (n_models,); NaN for a model that was never measured.

    Source:
        Match & Choose, section 5.1: "the ranking of the models on their average performance", whose first
        model is the reference of O2B.
    """
    measured = ~np.isnan(matrix.losses)
    known = np.flatnonzero(measured.any(axis=1))
    effects = np.full(len(matrix.models), np.nan)
    if not len(known):
        return effects
    values = matrix.losses[measured]
    links = measured[known].astype(np.float64)
    centred = np.where(measured, matrix.losses - values.mean(), 0.0)[known]
    # The models' effects follow from the datasets', so that equations are solved for these alone: of either
    # there may be thousands, and of results millions.
    per_model = links.sum(axis=1)
    mean = centred.sum(axis=1) / per_model
    reduced = np.diag(links.sum(axis=0)) - links.T @ (links / per_model[:, None])
    easy = np.linalg.pinv(reduced, hermitian=True) @ (centred.sum(axis=0) - links.T @ mean)
    solution = mean - links @ easy / per_model
    # Groups of models that share no dataset are each known but for a constant: of all solutions the smallest
    # is taken, where a constant moved from the models of a group to its datasets makes neither larger.
    group = groups(links)
    for each in np.unique(group):
        mine, theirs = group[: len(known)] == each, group[len(known) :] == each
        solution[mine] += (easy[theirs].sum() - solution[mine].sum()) / (mine.sum() + theirs.sum())
    # Models with equal results must tie, which the last bits would prevent.
    effects[known] = np.round(solution, 10 - _magnitude(values))
    return effects


def groups_note(snapshot: Snapshot, dataset: str) -> str | None:
    """That some models were never measured where others were, so that nothing orders the one by the other.

    Args:
        snapshot: the graph.
        dataset: whose results are not used.
    """
    others = snapshot.performs[snapshot.performs["dataset"] != dataset]
    matrix = loss_matrix(replace(snapshot, performs=others))
    measured = ~np.isnan(matrix.losses)
    known = np.flatnonzero(measured.any(axis=1))
    of_model = groups(measured[known].astype(np.float64))[: len(known)]
    found = [[matrix.models[row] for row in known[of_model == each]] for each in np.unique(of_model)]
    if len(found) < 2:
        return None
    shown = "; ".join(some(models) for models in sorted(found, key=len, reverse=True)[:3])
    return (
        f"The models are in {len(found)} groups that no results of theirs join ({shown}): how those of one "
        "compare with those of another is not known. Measure one of each on the same dataset."
    )


def groups(links: np.ndarray) -> np.ndarray:
    """Which models and datasets are joined by results, directly or through others.

    Args:
        links: (n_models, n_datasets), not 0 where there is a result.

    Returns:
        int, (n_models + n_datasets,): equal for what is joined.
    """
    from scipy.sparse import bmat, csr_matrix
    from scipy.sparse.csgraph import connected_components

    sparse = csr_matrix(links)
    return connected_components(bmat([[None, sparse], [sparse.T, None]]), directed=False)[1]


def neighbour_rank(snapshot: Snapshot, dataset: str) -> np.ndarray | None:
    """Each model's mean rank over the other datasets, weighted by how similar they are: the graph without any
    learning.

    Args:
        snapshot: the visible graph.
        dataset: id of the dataset to predict for.

    Returns:
        float64, (n_models,); NaN for a model not measured on any similar dataset. None without similarities.
    """
    near = similarities_of(snapshot, dataset)
    if not near:
        return None
    matrix = loss_matrix(snapshot)
    pairs = zip(snapshot.similar["dataset"], snapshot.similar["other"], strict=True)
    weight_of = {frozenset(pair): w for pair, w in zip(pairs, similarity_weights(snapshot), strict=True)}
    weights = np.array([weight_of.get(frozenset((dataset, other)), 0.0) for other in matrix.datasets])
    return _mean_of_known(matrix.scaled_ranks(), weights)


def direct_classifier(snapshot: Snapshot, dataset: str, seed: int) -> np.ndarray | None:
    """Ranks by a multi-output random forest that sees the dataset features only, one output for each model.

    Ranks are the classes, or quantile bins of them in a large zoo, as for the method itself. A rank that was
    not measured is filled with the model's mean rank, since one forest for all outputs takes no gaps. The
    predicted loss is the expected class: the single most likely class would tie most models, which makes a
    weaker baseline.

    Args:
        snapshot: the visible graph.
        dataset: id of the dataset to predict for.
        seed: of the forest.

    Returns:
        float64, (n_models,); NaN for a model that was never measured. None where no feature tells datasets
        apart.

    Source:
        Match & Choose, section 5.1 (Direct Classifier).
    """
    from sklearn.ensemble import RandomForestClassifier

    matrix, table = loss_matrix(snapshot), dataset_features(snapshot.datasets)
    if not matrix.datasets or not table.columns:
        return None
    ranks = matrix.scaled_ranks()
    means = _mean_of_known(ranks)
    known = ~np.isnan(means)
    filled = np.where(np.isnan(ranks), means[:, None], ranks)[known]
    n_classes = RankClasses(len(matrix.models), MAX_CLASSES).n_classes
    classes = np.clip((filled * n_classes).astype(int), 0, n_classes - 1).T
    forest = RandomForestClassifier(FOREST_TREES, random_state=seed, n_jobs=1)
    # A single output comes back without its list.
    outputs = classes if classes.shape[1] > 1 else classes[:, 0]
    forest.fit(table.rows(matrix.datasets), outputs)
    row = table.rows([dataset])
    chances = forest.predict_proba(row) if classes.shape[1] > 1 else [forest.predict_proba(row)]
    labels = forest.classes_ if classes.shape[1] > 1 else [forest.classes_]
    predicted = np.full(len(matrix.models), np.nan)
    predicted[known] = [float(p[0] @ own) for p, own in zip(chances, labels, strict=True)]
    return predicted


def _initial(_: Snapshot, __: str, initial: np.ndarray, ___: int) -> np.ndarray | None:
    return None if np.isnan(initial).all() else initial


BASELINES: tuple[Baseline, ...] = (
    Baseline(
        "average_rank", "Overall (average rank)", lambda graph, _, __, ___: average_rank(loss_matrix(graph))
    ),
    Baseline(
        "average_value", "Overall (average value)", lambda graph, _, __, ___: average_loss(loss_matrix(graph))
    ),
    Baseline(
        "neighbours",
        "Neighbours (weighted rank)",
        lambda graph, dataset, _, __: neighbour_rank(graph, dataset),
    ),
    Baseline(
        "direct", "Direct Classifier", lambda graph, dataset, _, seed: direct_classifier(graph, dataset, seed)
    ),
    Baseline("initial", "Initial", _initial),
    Baseline("random", "Random (expected)", lambda graph, _, __, ___: np.zeros(len(graph.models))),
)


def _mean_of_known(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The weighted mean over the columns of each row, gaps left out; NaN for a row of gaps."""
    known = ~np.isnan(values)
    shares = known * (np.ones(values.shape[1]) if weights is None else weights)
    total = shares.sum(axis=1)
    sums = (np.where(known, values, 0.0) * shares).sum(axis=1)
    # Rounded, so that models whose means are equal on paper tie.
    return np.where(total > 0, np.round(sums / np.where(total > 0, total, 1.0), 12), np.nan)


def _magnitude(values: np.ndarray) -> int:
    """The power of ten of the largest value."""
    largest = np.abs(values).max()
    return int(np.floor(np.log10(largest))) if largest > 0 else 0
