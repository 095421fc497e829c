"""What another seed does to the measurements themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.metrics import optimal_selection, weighted_tau
from matchgraph.predictor.seeds import Replicate, seed_noise
from matchgraph.predictor.visibility import loss_matrix
from matchgraph.report.config import section_of, without_data
from matchgraph.report.page import Section
from matchgraph.report.tables import Column, Table, cell, table

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

# Measurements simulated to find how often the best model stays the best.
CEILING_DRAWS = 2_000


@dataclass(frozen=True)
class Noise:
    """What another seed does to the measurements themselves.

    Attributes:
        pairs: (model, dataset) pairs measured under several seeds.
        measurements: of these pairs, the recorded ones included.
        ratios: whether values are compared by their ratios, see `predictor.gaussian.compared_by_ratio`: the
            two deviations are then those of logarithms.
        deviation: standard deviation between seeds, pooled over pairs.
        between_models: standard deviation between the models of a dataset, pooled over datasets.
        compared: how often the best model could be compared between two seeds.
        changed: in how many of these it was another.
        datasets: datasets of these comparisons.
        repeated_tau: weighted tau of the order by the mean over the other seeds, against that of one seed.
        repeated_osr: how often the best by that mean was the best of the one seed.
        ceiling: share of datasets whose best model would stay the best if all were measured again, under as
            many seeds: about the highest OSR that any method can reach.
    """

    pairs: int
    measurements: int
    ratios: bool
    deviation: float
    between_models: float
    compared: int
    changed: int
    datasets: int
    repeated_tau: float
    repeated_osr: float
    ceiling: float


def noise(snapshot: Snapshot, replicates: Sequence[Replicate]) -> Noise:
    """What another seed does to the measurements.

    Args:
        snapshot: the graph by one metric, with the recorded values.
        replicates: the measurements under several seeds; a recorded value that is a mean over some of them is
            none itself.

    Returns:
        The figures. Where models of one dataset were repeated under the same seeds, their order is compared
        between seeds, and each seed's order is predicted by the mean of the others: what a method would
        reach that fine-tunes every model on the dataset itself, once for each other seed. The
        ceiling is simulated for all datasets, with the pooled deviation, of a mean less by the root of its
        seeds, on top of the recorded values; these are noisy themselves and lie farther apart than the
        truth, so it errs high.
    """
    matrix = loss_matrix(snapshot)
    seeds = seed_noise(snapshot, replicates)
    runs, deviation = seeds.by_seed, seeds.deviation
    losses = np.log(matrix.losses) if seeds.ratios else matrix.losses
    compared = changed = 0
    datasets = sorted({dataset for _, dataset in runs})
    used: set[str] = set()
    predicted: list[tuple[float, float]] = []
    for dataset in datasets:
        own = {model: v for (model, other), v in runs.items() if other == dataset}
        common = sorted(set.intersection(*(set(v) for v in own.values())))
        if len(own) < 2 or len(common) < 2:
            continue
        used.add(dataset)
        by_seeds = np.array([[own[model][s] for s in common] for model in sorted(own)])
        for first, second in combinations(by_seeds.argmin(axis=0), 2):
            compared += 1
            changed += int(first != second)
        for column, truth in enumerate(by_seeds.T):
            others = np.delete(by_seeds, column, axis=1).mean(axis=1)
            predicted.append((weighted_tau(others, truth), optimal_selection(others, truth)))
    in_mean = np.array([[max(seeds.in_mean[m, d], 1) for d in matrix.datasets] for m in matrix.models])
    several = [column for column in range(losses.shape[1]) if (~np.isnan(losses[:, column])).sum() > 1]
    squares_between = [np.nanvar(losses[:, column], ddof=1) for column in several]
    between = float(np.sqrt(np.mean(squares_between))) if several else float("nan")
    tau, osr = np.mean(predicted, axis=0).tolist() if predicted else (float("nan"), float("nan"))
    return Noise(
        len(runs),
        sum(len(v) for v in runs.values()),
        seeds.ratios,
        deviation,
        between,
        compared,
        changed,
        len(used),
        tau,
        osr,
        _ceiling(losses[:, several], deviation / np.sqrt(in_mean[:, several])),
    )


def _ceiling(losses: np.ndarray, deviations: np.ndarray) -> float:
    """How often the best of a dataset stays the best in another measurement, simulated.

    Args:
        losses: float64, (n_models, n_datasets), NaN where not measured.
        deviations: of the same shape.
    """
    if not losses.size or np.isnan(deviations).any():
        return float("nan")
    rng = np.random.default_rng(0)
    again = losses + deviations * rng.normal(size=(CEILING_DRAWS, *losses.shape))
    return float((np.nanargmin(again, axis=1) == np.nanargmin(losses, axis=0)).mean())


def noise_section(study: Noise) -> Section:
    """How much of a result is chance."""
    if not study.pairs:
        return without_data(
            "noise",
            "No measurement was repeated under another seed, so the noise is not known: measure it with "
            "`matchgraph ingest run --replicate` or `--repeats`.",
        )
    factor, unit = (100, " %") if study.ratios else (1, "")
    seeds, models = (f"{factor * one:.3g}{unit}" for one in (study.deviation, study.between_models))
    lead = (
        f"Measured again under another seed, a value moves by {seeds} (standard deviation), while models of "
    )
    lead += f"one dataset differ by {models}."
    if study.compared:
        lead += (
            f" The best model changed in {study.changed} of {study.compared} comparisons between two "
            f"seeds ({100 * study.changed / study.compared:.0f} %, {study.datasets} datasets). The order by "
            f"the mean of the other seeds reaches OSR {study.repeated_osr:.2f} and weighted tau "
            f"{study.repeated_tau:.2f} on one seed."
        )
    if not math.isnan(study.ceiling):
        lead += (
            f" If all were measured again, under as many seeds, {100 * study.ceiling:.0f} % of the best "
            "models would stay best."
        )
    return section_of(
        "noise",
        lead,
        "No method can choose the best model much more often than the best model stays the best: even "
        "fine-tuning all models on the dataset under other seeds would only reach the figures of the mean of "
        "the other seeds. "
        "Deviations are pooled over pairs; the last row simulates a second measurement of every pair with "
        "the pooled deviation, which is optimistic, as the recorded values contain noise already.",
        tables=(noise_table(study),),
    )


def noise_table(study: Noise) -> Table:
    """The noise of the measurements, one fact in each row."""
    of = " of logarithms" if study.ratios else ""
    facts = [
        ("pairs measured under several seeds", study.pairs, "count"),
        ("measurements of them", study.measurements, "count"),
        (f"standard deviation{of} between seeds", study.deviation, "number"),
        (f"standard deviation{of} between the models of a dataset", study.between_models, "number"),
        ("comparisons of the best model between two seeds", study.compared, "count"),
        ("of which the best model differed", study.changed, "count"),
        ("weighted tau of the mean of the other seeds", study.repeated_tau, "number"),
        ("OSR of the mean of the other seeds", study.repeated_osr, "share"),
        ("best models that would stay the best (simulated)", study.ceiling, "share"),
    ]
    return table(
        "noise-between-seeds",
        facts,
        [
            Column("fact", "What", lambda fact: fact[0]),
            Column("value", "Value", lambda fact: cell(fact[1], fact[2]).main),
        ],
    )
