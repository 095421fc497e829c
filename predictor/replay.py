"""Accuracy against budget: recorded results are hidden and revealed in several orders.

Some datasets stand for those that users will bring: nothing of them is measured, and the models are ranked
for them. The pairs of all other datasets start hidden. Each order reveals them until a share of their whole
cost is spent, the predictor learns from what is visible, and its ranking is compared with the truth. Every
dataset is in turn one of the users'.

The active order plans again at each budget point, from what it has seen by then, as a user would. No order
sees a hidden value, and none knows the users' datasets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.active import SLACK_H, check_costs, propose, round_robin
from matchgraph.predictor.baselines import average_rank
from matchgraph.predictor.belief import Pair
from matchgraph.predictor.config import ReplayConfig
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults, NothingToPropose
from matchgraph.predictor.folds import held_out_datasets
from matchgraph.predictor.matching import provenance
from matchgraph.predictor.metrics import (
    OSR,
    TAU,
    interval_as_dict,
    optimal_selection,
    weighted_tau,
)
from matchgraph.predictor.visibility import loss_matrix, part_of
from matchgraph.stats.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

FIGURES = (OSR, TAU)
ACTIVE = "active"
METHOD, REFERENCE = "method", "average_rank"


@dataclass(frozen=True)
class Order:
    """An order in which pairs are measured.

    Attributes:
        key: its name in JSON.
        title: its readable name.
        arrange: puts all pairs in order, given a seed; None for the order that is planned as results come in.
    """

    key: str
    title: str
    arrange: Callable[[Sequence[Pair], int], list[Pair]] | None = None


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """All pairs in random order."""
    return [sorted(pairs)[i] for i in np.random.default_rng(seed).permutation(len(pairs))]


def dataset_by_dataset(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """All models on one dataset, then on the next, both in random order: what many would do by hand."""
    place: dict[str, int] = {}
    for _, dataset in shuffled(pairs, seed):
        place.setdefault(dataset, len(place))
    return sorted(shuffled(pairs, seed), key=lambda pair: place[pair[1]])


ORDERS = (
    Order(ACTIVE, "Active"),
    Order("random", "Random", shuffled),
    Order("round_robin", "Round robin", round_robin),
    Order("by_dataset", "Dataset by dataset", dataset_by_dataset),
)


@dataclass(frozen=True)
class CurvePoint:
    """How well an order has taught the predictor by a budget.

    Attributes:
        share: of the cost of all that could be measured.
        hours: what that is, on average over folds.
        pairs: how many were measured for it, on average over folds.
        figures: of the method's rankings, by key of the selection metric: mean over datasets with interval.
        average_rank: the same of the average-rank baseline, which learns from the same results.
        lead: by key of another order and then of the metric, how much better this one's figure is at the same
            budget, dataset by dataset.
    """

    share: float
    hours: float
    pairs: float
    figures: Mapping[str, Interval]
    average_rank: Mapping[str, Interval]
    lead: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class OrderCurve:
    """One order.

    Attributes:
        key: its name in JSON.
        title: its readable name.
        points: by rising budget.
        lead: as of a point, but of the mean over all points.
    """

    key: str
    title: str
    points: tuple[CurvePoint, ...]
    lead: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class BudgetCurve:
    """Accuracy against budget.

    Attributes:
        curves: of the orders, the active one first.
        everything: figures with all results, the same for every order.
        hours: of all that could be measured, on average over folds.
        hours_from: what the hours are based on, in words.
        datasets: how many are the users' in turn.
        trainings: how often the method was trained.
        provenance: what it was computed from and with.
        seconds: how long it took.
    """

    curves: tuple[OrderCurve, ...]
    everything: Mapping[str, Interval]
    hours: float
    hours_from: str
    datasets: int
    trainings: int
    provenance: Mapping[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; None for figures that are not defined."""
        return {
            "orders": [
                {
                    "key": order.key,
                    "title": order.title,
                    "points": [
                        {
                            "share": point.share,
                            "hours": point.hours,
                            "pairs": point.pairs,
                            "figures": _as_dict(point.figures),
                            "average_rank": _as_dict(point.average_rank),
                            "lead": {key: _as_dict(own) for key, own in point.lead.items()},
                        }
                        for point in order.points
                    ],
                    "lead": {key: _as_dict(own) for key, own in order.lead.items()},
                }
                for order in self.curves
            ],
            "all_results": _as_dict(self.everything),
            "hours": self.hours,
            "hours_from": self.hours_from,
            "datasets": self.datasets,
            "trainings": self.trainings,
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }


def _as_dict(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {key: interval_as_dict(figure) for key, figure in figures.items()}


def budget_curve(
    snapshot: Snapshot,
    hours: Mapping[str, float],
    matcher: Matcher,
    config: ReplayConfig | None = None,
    *,
    orders: Sequence[Order] = ORDERS,
    hours_from: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> BudgetCurve:
    """Replay recorded results in several orders.

    The method is trained `replays * folds * (orders * shares + 1)` times, each time for all datasets of a
    fold at once.

    Args:
        snapshot: the graph, with the truth.
        hours: cost of a fine-tuning, by model.
        matcher: the method; sees what is visible.
        config: how the replay is made.
        orders: to compare.
        hours_from: what the hours are based on, in words.
        progress: called with the number of finished trainings, of all of them, and the current step.

    Returns:
        The curves.

    Raises:
        NotEnoughResults: fewer datasets with two measured models than folds.
        NoSimilarity: the method needs similarities, and no dataset has any.
        InvalidRows: a cost is not above 0.
    """
    started = time.perf_counter()
    config = config or ReplayConfig()
    check_costs(hours, 1.0)
    targets, _ = held_out_datasets(snapshot, matcher.needs_similarities)
    if len(targets) < 2 * config.folds:
        raise NotEnoughResults(
            f"A replay in {config.folds} folds needs {2 * config.folds} datasets with at least 2 measured "
            f"models; the graph has {len(targets)}."
        )
    replay = _Replay(snapshot, hours, matcher, config, tuple(orders), progress)
    for seed in range(config.seed, config.seed + config.replays):
        shuffled_targets = np.random.default_rng(seed).permutation(targets)
        for fold in range(config.folds):
            replay.run_fold(sorted(shuffled_targets[fold :: config.folds].tolist()), seed)
    curves, everything, total = replay.summarised(targets)
    return BudgetCurve(
        curves,
        everything,
        total,
        hours_from,
        len(targets),
        replay.trainings,
        {**provenance(snapshot, matcher), **asdict(config)},
        time.perf_counter() - started,
    )


class _Replay:
    """Gathers the figures of all folds."""

    def __init__(
        self,
        snapshot: Snapshot,
        hours: Mapping[str, float],
        matcher: Matcher,
        config: ReplayConfig,
        orders: tuple[Order, ...],
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.snapshot, self.hours, self.config, self.orders = snapshot, hours, config, orders
        self._matcher = matcher
        self._progress = progress
        self._truth = loss_matrix(snapshot)
        self._all = config.replays * config.folds * (len(orders) * len(config.shares) + 1)
        self.trainings = 0
        # By order, share (1 for everything), predicting method, figure and dataset: one number a replay.
        self._figures: dict[tuple[str, float, str, str, str], list[float]] = {}
        self._spent: dict[tuple[str, float], list[tuple[float, int]]] = {}
        self._total: list[float] = []

    def run_fold(self, targets: Sequence[str], seed: int) -> None:
        """Replay all orders with these datasets as the users'."""
        others = {dataset.id for dataset in self.snapshot.datasets} - set(targets)
        pool = part_of(self.snapshot, datasets=others)
        measured = pool.performs[pool.performs["value"].notna()]
        pairs = sorted(zip(measured["model"], measured["dataset"], strict=True))
        total = sum(self.hours[model] for model, _ in pairs)
        self._total.append(total)
        for order in self.orders:
            arranged = order.arrange(pairs, seed) if order.arrange else None
            known: list[Pair] = []
            for share in self.config.shares:
                self._note(f"{order.title}, {share:.0%} of the budget")
                left = share * total - sum(self.hours[model] for model, _ in known)
                if arranged is None:
                    known += self._planned(pool, known, pairs, left, seed)
                else:
                    hidden = set(pairs) - set(known)
                    known += affordable([pair for pair in arranged if pair in hidden], self.hours, left)
                spent = sum(self.hours[model] for model, _ in known)
                self._spent.setdefault((order.key, share), []).append((spent, len(known)))
                self._score(order.key, share, known, targets)
        self._note("all results")
        self._score("", 1.0, pairs, targets)

    def _planned(
        self, pool: Snapshot, known: Sequence[Pair], pairs: Sequence[Pair], left: float, seed: int
    ) -> list[Pair]:
        hidden = sorted(set(pairs) - set(known))
        try:
            proposal = propose(only(pool, known), self.hours, left, candidates=hidden, seed=seed)
        except (NothingToPropose, InvalidRows):
            return []
        return [(pair.model, pair.dataset) for pair in proposal.pairs]

    def _score(self, order: str, share: float, known: Sequence[Pair], targets: Sequence[str]) -> None:
        visible = only(self.snapshot, known)
        try:
            ranked = self._matcher.rank(visible, targets)
            own = {dataset: ranked[dataset].prediction.expected_rank for dataset in targets}
        except NotEnoughResults:
            # No dataset has two measured models yet, so all models tie.
            own = dict.fromkeys(targets, np.zeros(len(self.snapshot.models)))
        self.trainings += 1
        average = average_rank(loss_matrix(visible))
        for dataset in targets:
            truth = self._truth.losses[:, self._truth.datasets.index(dataset)]
            there = ~np.isnan(truth)
            for method, losses in ((METHOD, own[dataset]), (REFERENCE, average)):
                for metric, figure in ((OSR, optimal_selection), (TAU, weighted_tau)):
                    key = (order, share, method, metric.key, dataset)
                    self._figures.setdefault(key, []).append(figure(losses[there], truth[there]))

    def _note(self, what: str) -> None:
        if self._progress:
            self._progress(self.trainings, self._all, what)

    def _per_dataset(
        self, order: str, share: float, method: str, metric: str, targets: Sequence[str]
    ) -> np.ndarray:
        """The mean over replays for each dataset, so that intervals are over datasets."""
        return np.array(
            [np.mean(self._figures[order, share, method, metric, dataset]) for dataset in targets]
        )

    def summarised(self, targets: list[str]) -> tuple[tuple[OrderCurve, ...], dict[str, Interval], float]:
        """All figures as curves; those with all results; and what these cost in hours."""
        seed = self.config.seed

        def interval(values: np.ndarray) -> Interval:
            return mean_interval(values, seed=seed)

        def figures(order: str, share: float, method: str) -> dict[str, Interval]:
            return {
                metric.key: interval(self._per_dataset(order, share, method, metric.key, targets))
                for metric in FIGURES
            }

        def lead(order: Order, shares: Sequence[float]) -> dict[str, dict[str, Interval]]:
            def over(key: str, metric: str) -> np.ndarray:
                own = [self._per_dataset(key, share, METHOD, metric, targets) for share in shares]
                return np.mean(own, axis=0)

            return {
                other.key: {
                    metric.key: interval(over(order.key, metric.key) - over(other.key, metric.key))
                    for metric in FIGURES
                }
                for other in self.orders
                if other is not order
            }

        curves = []
        for order in self.orders:
            points = []
            for share in self.config.shares:
                spent = np.mean(self._spent[order.key, share], axis=0)
                points.append(
                    CurvePoint(
                        share,
                        float(spent[0]),
                        float(spent[1]),
                        figures(order.key, share, METHOD),
                        figures(order.key, share, REFERENCE),
                        lead(order, [share]),
                    )
                )
            curves.append(OrderCurve(order.key, order.title, tuple(points), lead(order, self.config.shares)))
        return tuple(curves), figures("", 1.0, METHOD), float(np.mean(self._total))


def affordable(order: Sequence[Pair], hours: Mapping[str, float], budget_hours: float) -> list[Pair]:
    """The pairs that a budget pays for, in order; too expensive ones are skipped."""
    taken, left = [], budget_hours
    for model, dataset in order:
        if hours[model] <= left + SLACK_H:
            taken.append((model, dataset))
            left -= hours[model]
    return taken


def only(snapshot: Snapshot, pairs: Sequence[Pair]) -> Snapshot:
    """The graph with the results of these pairs alone."""
    wanted = set(pairs)
    performs = snapshot.performs
    kept = [pair in wanted for pair in zip(performs["model"], performs["dataset"], strict=True)]
    return replace(snapshot, performs=performs[kept].reset_index(drop=True))
