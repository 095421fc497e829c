"""The rankings that the default answer is a mixture of, each with what it predicts for known datasets.

A part scores the models for the datasets asked about, and for every known dataset as if that had no result.
From these left-out scores `predictor.mixture` learns how far the part can be trusted on this graph. For means
and processes they have a closed form; the paper's recipe is trained without a third of the known datasets
at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from matchgraph.graphdb.models import Snapshot
from matchgraph.predictor.baselines import average_loss, average_rank
from matchgraph.predictor.gaussian import GaussianMatcher, comparable, without_levels
from matchgraph.predictor.kernels import dataset_distances
from matchgraph.predictor.matching import Ranked
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.visibility import LossMatrix, loss_matrix

AVERAGE_RANK, AVERAGE_VALUE, PAPER = "average_rank", "average_value", "paper"
# What every other part has to beat.
SIMPLE = (AVERAGE_RANK, AVERAGE_VALUE)
# How fast a dataset's weight falls with its distance, in medians: 5 is that of the walks.
REACHES = {"similar": 5.0, "wider": 2.0}
LEAST_WEIGHT = 1e-12
# Known datasets are left out of the paper's recipe in that many groups.
GROUPS = 3
# Beyond that many results its training takes minutes, and it takes no part.
MOST_RESULTS = 20_000


@dataclass(frozen=True, eq=False)
class Scored:
    """What one part says; scores are smaller for the better and compare within a dataset only.

    Attributes:
        asked: by dataset asked about, float64, (n_models,); NaN where the part says nothing of a model.
        left_out: float64, (n_models, n_known): for each known dataset, without its results; NaN where the
            part says nothing.
        spread: by dataset asked about, how uncertain each model is compared with the others, (n_models,).
        lifts: by dataset asked about and part of the input, what the score is the sum of, but for a constant;
            empty where that is not known.
    """

    asked: Mapping[str, np.ndarray]
    left_out: np.ndarray
    spread: Mapping[str, np.ndarray] = field(default_factory=dict)
    lifts: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


def averages(visible: Snapshot, matrix: LossMatrix, asked: Sequence[str]) -> dict[str, Scored]:
    """Average rank and average value: the same for every dataset.

    Args:
        visible: the graph without results of the datasets asked about.
        matrix: its datasets with two measured models, the known ones.
        asked: ids of datasets.
    """
    every = loss_matrix(visible)
    tables = {
        AVERAGE_RANK: (average_rank(every), matrix.scaled_ranks()),
        AVERAGE_VALUE: (average_loss(every), without_levels(matrix.losses)[0]),
    }
    found = {}
    for name, (everywhere, values) in tables.items():
        others = _weighted_means(values, 1.0 - np.eye(values.shape[1]))
        lifts = {dataset: {"general": everywhere} for dataset in asked}
        found[name] = Scored(dict.fromkeys(asked, everywhere), others, lifts=lifts)
    return found


def neighbours(visible: Snapshot, matrix: LossMatrix, asked: Sequence[str]) -> dict[str, Scored]:
    """Mean ranks weighed by how similar the datasets are, see `REACHES`."""
    place = {dataset.id: index for index, dataset in enumerate(visible.datasets)}
    known = [place[dataset] for dataset in matrix.datasets]
    targets = [place[dataset] for dataset in asked]
    distances, ranks = dataset_distances(visible), matrix.scaled_ranks()
    found = {}
    for name, reach in REACHES.items():
        weights = np.maximum(np.exp(-reach * distances), LEAST_WEIGHT)
        np.fill_diagonal(weights, 0.0)
        means = _weighted_means(ranks, weights[np.ix_(known, targets)])
        rows = dict(zip(asked, means.T, strict=True))
        others = _weighted_means(ranks, weights[np.ix_(known, known)])
        found[name] = Scored(rows, others, lifts={key: {"graph": row} for key, row in rows.items()})
    return found


def process(visible: Snapshot, asked: Sequence[str], matcher: GaussianMatcher) -> Scored:
    """A Gaussian process, see `predictor.gaussian`."""
    place = {dataset.id: index for index, dataset in enumerate(visible.datasets)}
    learned = matcher.learn(visible)
    predicted = dict(zip(asked, learned.predict([place[dataset] for dataset in asked]), strict=True))
    return Scored(
        {dataset: mean for dataset, (mean, _, _) in predicted.items()},
        learned.left_out(),
        {dataset: std / np.median(std) for dataset, (_, std, _) in predicted.items()},
        {dataset: parts for dataset, (_, _, parts) in predicted.items()},
    )


def papers(
    visible: Snapshot, matrix: LossMatrix, asked: Sequence[str], matcher: PaperMatcher, seed: int
) -> Scored | None:
    """The paper's recipe; None where it cannot rank for a dataset asked about."""
    if len(visible.performs) > MOST_RESULTS:
        return None
    known = list(matrix.datasets)
    if matcher.needs_similarities:
        compared = {*visible.similar["dataset"], *visible.similar["other"]}
        if not compared.issuperset(asked):
            return None
        known = [dataset for dataset in known if dataset in compared]
    shuffled = np.random.default_rng(seed).permutation(known).tolist()
    groups = [sorted(shuffled[number::GROUPS]) for number in range(GROUPS)]
    # A group that holds every ranking leaves nothing to learn from.
    jobs = [list(asked), *(group for group in groups if group and len(group) < len(matrix.datasets))]

    def rank(job: list[str]) -> dict[str, Ranked]:
        # A ranker of its own, as training one changes it.
        return matcher.with_ranker(copy(matcher.ranker)).rank(visible, job)

    # Threads, as what takes time, the walks in the database and the trees, leaves Python's lock to others.
    with ThreadPoolExecutor(len(jobs)) as pool:
        ranked = list(pool.map(rank, jobs))
    place = {dataset: index for index, dataset in enumerate(matrix.datasets)}
    left_out = np.full(matrix.losses.shape, np.nan)
    for found in ranked[1:]:
        for dataset, own in found.items():
            left_out[:, place[dataset]] = own.prediction.expected_rank
    rows = {dataset: ranked[0][dataset].prediction.expected_rank for dataset in asked}
    return Scored(rows, left_out, lifts={dataset: {"recipe": row} for dataset, row in rows.items()})


def without_similarities(visible: Snapshot) -> Snapshot:
    """The graph without what is known of pairs of datasets."""
    return replace(visible, similar=visible.similar.iloc[:0])


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of each row with the weights of each column of `weights`, gaps left out.

    Args:
        values: float64, (n_models, n_known), NaN where not measured.
        weights: float64, (n_known, n_columns), at least 0.

    Returns:
        float64, (n_models, n_columns), NaN where no value has a weight; rounded, so that equal means tie.
    """
    known = ~np.isnan(values)
    total = known @ weights
    sums = np.where(known, values, 0.0) @ weights
    return np.where(total > 0, np.round(sums / np.where(total > 0, total, 1.0), 12), np.nan)


def known_results(visible: Snapshot) -> LossMatrix:
    """The datasets that rank at least two models."""
    return comparable(loss_matrix(visible))
