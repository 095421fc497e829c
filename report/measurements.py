"""What the graph holds before any method looks at it: the landscape of results, and their noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.baselines import average_rank
from matchgraph.predictor.metrics import optimal_selection, weighted_tau
from matchgraph.predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot


@dataclass(frozen=True, eq=False)
class Landscape:
    """What was measured: every model on every dataset, before and after fine-tuning.

    Attributes:
        metric: its name.
        larger_is_better: its direction.
        models: ids, best average rank first: the rows.
        datasets: ids, sorted: the columns.
        values: float64, (n_models, n_datasets), after fine-tuning; NaN where not measured.
        initial: the same before it.
        best: bool, of the same shape: the best of each dataset, several where they tie.
        wins: how often each model is best, by id; a tie counts as a share.
    """

    metric: str
    larger_is_better: bool
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    values: np.ndarray
    initial: np.ndarray
    best: np.ndarray
    wins: Mapping[str, float]

    @property
    def improved(self) -> tuple[int, int]:
        """How many pairs fine-tuning improved, and of how many measured before and after."""
        both = ~np.isnan(self.values) & ~np.isnan(self.initial)
        gain = (self.values - self.initial)[both] * (1 if self.larger_is_better else -1)
        return int((gain > 0).sum()), int(both.sum())


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


def landscape(snapshot: Snapshot) -> Landscape:
    """Lay out what was measured.

    Args:
        snapshot: the graph by one metric.

    Source:
        Match & Choose, section 3, Figure 3.
    """
    matrix = loss_matrix(snapshot)
    order = np.lexsort((np.arange(len(matrix.models)), _last(average_rank(matrix))))
    models = tuple(matrix.models[row] for row in order)
    shape = (len(models), len(matrix.datasets))
    place = {m: i for i, m in enumerate(models)}, {d: j for j, d in enumerate(matrix.datasets)}
    values, initial = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in snapshot.performs.itertuples():
        if row.dataset in place[1]:
            values[place[0][row.model], place[1][row.dataset]] = row.value
            initial[place[0][row.model], place[1][row.dataset]] = row.initial
    losses = matrix.losses[order]
    best = losses == np.nanmin(losses, axis=0, keepdims=True)
    wins = (best / best.sum(axis=0, keepdims=True)).sum(axis=1)
    return Landscape(
        snapshot.metric.name,
        snapshot.metric.larger_is_better,
        models,
        matrix.datasets,
        values,
        initial,
        best,
        dict(zip(models, wins.tolist(), strict=True)),
    )


def noise(snapshot: Snapshot, replicates: Sequence[tuple[str, str, str, float]], *, seed: int = 0) -> Noise:
    """What another seed does to the measurements.

    Args:
        snapshot: the graph by one metric, with the recorded values.
        replicates: model, dataset, seed and value of the measurements that were repeated.
        seed: of the simulated measurements.

    Returns:
        The figures. Where models of one dataset were repeated under the same seeds, their order is compared
        between seeds, and each seed's order is foretold from the mean of the others: what a method would
        reach that fine-tunes every model on the dataset itself, as often as there are other seeds. The
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
    for model, dataset, run_seed, value in replicates:
        runs.setdefault((model, dataset), {})[run_seed] = sign * value
    for pair, by_seed in runs.items():
        if pair in recorded:
            by_seed["recorded"] = recorded[pair]
    runs = {pair: by_seed for pair, by_seed in runs.items() if len(by_seed) > 1}
    squares = sum(float(np.var(list(v.values())) * len(v)) for v in runs.values())
    freedom = sum(len(v) - 1 for v in runs.values())
    deviation = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    compared = changed = 0
    datasets = sorted({dataset for _, dataset in runs})
    used: set[str] = set()
    foretold: list[tuple[float, float]] = []
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
            foretold.append((weighted_tau(others, truth), optimal_selection(others, truth)))
    within = [matrix.losses[~np.isnan(column), j] for j, column in enumerate(matrix.losses.T)]
    within = [values for values in within if len(values) > 1]
    between = (
        float(np.sqrt(np.mean([np.var(values, ddof=1) for values in within]))) if within else float("nan")
    )
    return Noise(
        len(runs),
        sum(len(v) for v in runs.values()),
        deviation,
        between,
        compared,
        changed,
        len(used),
        *(np.mean(foretold, axis=0).tolist() if foretold else (float("nan"), float("nan"))),
        _ceiling(within, deviation, seed),
    )


def _last(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values)


def _ceiling(within: Sequence[np.ndarray], deviation: float, seed: int, n_draws: int = 2_000) -> float:
    """How often the best of a dataset stays the best in another measurement, simulated."""
    if np.isnan(deviation) or not within:
        return float("nan")
    rng = np.random.default_rng(seed)
    kept = [
        (
            (values + deviation * rng.normal(size=(n_draws, len(values)))).argmin(axis=1) == values.argmin()
        ).mean()
        for values in within
    ]
    return float(np.mean(kept))
