"""What another seed does to the measurements themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.metrics import optimal_selection, weighted_tau
from matchgraph.predictor.visibility import loss_matrix
from matchgraph.report.config import section_of, without_data
from matchgraph.report.page import Section
from matchgraph.report.tables import Column, Table, cell, table

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.report.sources import Replicate

# Measurements simulated to find how often the best model stays the best.
CEILING_DRAWS = 2_000


@dataclass(frozen=True)
class Noise:
    """What another seed does to the measurements themselves.

    Attributes:
        pairs: (model, dataset) pairs measured under several seeds.
        measurements: of these pairs, the recorded ones included.
        deviation: standard deviation between seeds, pooled over pairs.
        between_models: standard deviation between the models of a dataset, pooled over datasets.
        compared: how often the best model could be compared between two seeds.
        changed: in how many of these it was another.
        datasets: datasets of these comparisons.
        repeated_tau: weighted tau of the order by the mean over the other seeds, against that of one seed.
        repeated_osr: how often the best by that mean was the best of the one seed.
        ceiling: share of datasets whose best model would stay the best if all were measured again: about the
            highest OSR that any method can reach.
    """

    pairs: int
    measurements: int
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
        ceiling is simulated for all datasets, with the pooled deviation on top of the recorded values; these
        are noisy themselves and lie farther apart than the truth, so it errs high.
    """
    matrix = loss_matrix(snapshot)
    sign = -1.0 if snapshot.metric.larger_is_better else 1.0
    recorded = {
        (model, dataset): matrix.losses[i, j]
        for i, model in enumerate(matrix.models)
        for j, dataset in enumerate(matrix.datasets)
        if not np.isnan(matrix.losses[i, j])
    }
    runs: dict[tuple[str, str], dict[str, float]] = {}
    means = set()
    for model, dataset, run_seed, value, in_mean in replicates:
        runs.setdefault((model, dataset), {})[run_seed] = sign * value
        if in_mean:
            means.add((model, dataset))
    for pair, by_seed in runs.items():
        if pair in recorded and pair not in means:
            by_seed["recorded"] = recorded[pair]
    runs = {pair: by_seed for pair, by_seed in runs.items() if len(by_seed) > 1}
    squares = sum(float(np.var(list(v.values())) * len(v)) for v in runs.values())
    freedom = sum(len(v) - 1 for v in runs.values())
    deviation = float(np.sqrt(squares / freedom)) if freedom else float("nan")
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
        losses = np.array([[own[model][s] for s in common] for model in sorted(own)])
        for first, second in combinations(losses.argmin(axis=0), 2):
            compared += 1
            changed += int(first != second)
        for column, truth in enumerate(losses.T):
            others = np.delete(losses, column, axis=1).mean(axis=1)
            predicted.append((weighted_tau(others, truth), optimal_selection(others, truth)))
    within = [matrix.losses[~np.isnan(column), j] for j, column in enumerate(matrix.losses.T)]
    within = [values for values in within if len(values) > 1]
    between = (
        float(np.sqrt(np.mean([np.var(values, ddof=1) for values in within]))) if within else float("nan")
    )
    tau, osr = np.mean(predicted, axis=0).tolist() if predicted else (float("nan"), float("nan"))
    return Noise(
        len(runs),
        sum(len(v) for v in runs.values()),
        deviation,
        between,
        compared,
        changed,
        len(used),
        tau,
        osr,
        _ceiling(within, deviation),
    )


def _ceiling(within: Sequence[np.ndarray], deviation: float) -> float:
    """How often the best of a dataset stays the best in another measurement, simulated."""
    if np.isnan(deviation) or not within:
        return float("nan")
    rng = np.random.default_rng(0)
    kept = [
        (
            (values + deviation * rng.normal(size=(CEILING_DRAWS, len(values)))).argmin(axis=1)
            == values.argmin()
        ).mean()
        for values in within
    ]
    return float(np.mean(kept))


def noise_section(study: Noise) -> Section:
    """How much of a result is chance."""
    if not study.pairs:
        return without_data(
            "noise",
            "No measurement was repeated under another seed, so the noise is not known: measure it with "
            "`matchgraph ingest run --replicate` or `--repeats`.",
        )
    lead = f"Measured again under another seed, a value moves by {study.deviation:.3g} (standard deviation)"
    lead += f", while models of one dataset differ by {study.between_models:.3g}."
    if study.compared:
        lead += (
            f" The best model changed in {study.changed} of {study.compared} comparisons between two "
            f"seeds ({100 * study.changed / study.compared:.0f} %, {study.datasets} datasets). The order by "
            f"the mean of the other seeds reaches OSR {study.repeated_osr:.2f} and weighted tau "
            f"{study.repeated_tau:.2f} on one seed."
        )
    if not math.isnan(study.ceiling):
        lead += (
            f" If all were measured again, {100 * study.ceiling:.0f} % of the best models would stay best."
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
    facts = [
        ("pairs measured under several seeds", study.pairs, "count"),
        ("measurements of them", study.measurements, "count"),
        ("standard deviation between seeds", study.deviation, "number"),
        ("standard deviation between the models of a dataset", study.between_models, "number"),
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
