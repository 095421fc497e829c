"""Route first, then cascade only where it pays: student alone, teacher alone or both, for each prompt.

A cascade draws with the student for every prompt, also for one whose image it is bound to reject: that image
costs money and time for nothing. What a router expects of a prompt says beforehand which of the three ways is
worth its cost, and a bound on the time of an image leaves out the ways that may take longer.

Source:
    DiffServe and HADIS (serving by cascades, and routing before them); CATImage, Eq. 3 (the rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.collaboration.given import best_plan, longest_of, none_within, outcome, within
from matchgraph.stats.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from matchgraph.collaboration.given import GivenPair, GivenPlan

# In the order of the columns below.
WAYS = ("student", "teacher", "cascade")


@dataclass(frozen=True, eq=False)
class Expected:
    """What a router expects of prompts.

    Attributes:
        quality: by each of `WAYS`, float64, (n, 3).
        rejected: how likely the student's image is below the threshold, (n,).
    """

    quality: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class RoutedPlan:
    """How a way is chosen for each prompt: the most quality less lambda times cost.

    Attributes:
        ways: those of `WAYS` that are within the bound on time.
        k: percentile of the held-out confidences, of the cascade.
        threshold: the confidence at that percentile.
        lam: quality that a unit of cost is worth.
    """

    ways: tuple[str, ...]
    k: float
    threshold: float
    lam: float


@dataclass(frozen=True)
class RoutedResult:
    """A plan on prompts that nothing was chosen by.

    Attributes:
        plan: see `RoutedPlan`.
        unrouted: the best plan without routing within the same limits.
        prompts: how many.
        shares: of the prompts by way.
        quality: on average.
        over_student: above the student alone.
        over_teacher: above the teacher alone, which may cost more.
        over_cascade: above the plan without routing.
        over_cascade_at_cost: above that plan at no higher cost: where it costs more, prompts chosen at random
            have the student alone.
        over_routing: above routing to student or teacher alone within the same limits.
        cost: of an image, on average.
        over_cascade_cost: above that of the plan without routing.
        seconds: of an image, on average; None where a time is not known.
        longest_seconds: of the slowest way that the plan may take; likewise.
    """

    plan: RoutedPlan
    unrouted: GivenPlan
    prompts: int
    shares: Mapping[str, Interval]
    quality: Interval
    over_student: Interval
    over_teacher: Interval
    over_cascade: Interval
    over_cascade_at_cost: Interval
    over_routing: Interval
    cost: Interval
    over_cascade_cost: Interval
    seconds: Interval | None
    longest_seconds: float | None


def best_routed_plan(
    pair: GivenPair,
    expected: Mapping[float, Expected],
    thresholds: Mapping[float, float],
    budget: float | None = None,
    longest_seconds: float | None = None,
    ways: Sequence[str] = WAYS,
) -> RoutedPlan:
    """The percentile and lambda with the most quality on held-out prompts.

    Of each percentile lambda is the least that keeps to the budget.

    Args:
        pair: on held-out prompts.
        expected: of them, by percentile.
        thresholds: of the confidence, by percentile.
        budget: what an image may cost on average; None for no limit.
        longest_seconds: what any image may take; None for no limit.
        ways: among `WAYS`.

    Raises:
        InvalidPlan: no plan is within both, or a bound is asked for and a time is not known.
    """
    allowed = tuple(way for way in ways if within(pair, way, longest_seconds))
    found = []
    for k in expected if allowed else ():
        _, spent, _ = results(pair, thresholds[k])
        cost = expected_cost(pair, expected[k])
        for lam in _lambdas(expected[k].quality, cost):
            chosen = routed(expected[k], cost, lam, allowed)
            if budget is None or taken(spent, chosen).mean() <= budget * (1 + 1e-9):
                plan = RoutedPlan(allowed, k, thresholds[k], lam)
                found.append((*_value(pair, plan, chosen), plan))
                break
    if not found:
        raise none_within(budget, longest_seconds)
    return max(found, key=lambda each: each[:2])[2]


def _value(pair: GivenPair, plan: RoutedPlan, chosen: np.ndarray) -> tuple[float, float]:
    """Quality, and less of cost, on average."""
    quality, cost, _ = results(pair, plan.threshold)
    return float(taken(quality, chosen).mean()), -float(taken(cost, chosen).mean())


def expected_cost(pair: GivenPair, expected: Expected) -> np.ndarray:
    """What each way is expected to cost, (n, 3)."""
    rejected = np.clip(expected.rejected, 0.0, 1.0)
    alone = np.broadcast_to([pair.student.cost, pair.teacher.cost], (len(rejected), 2))
    return np.column_stack([alone, pair.student.cost + rejected * pair.teacher.cost])


def routed(expected: Expected, cost: np.ndarray, lam: float, ways: Sequence[str]) -> np.ndarray:
    """The way of each prompt, as a number in `WAYS`; the cheapest of those that are equally good.

    Args:
        expected: of the prompts.
        cost: see `expected_cost`.
        lam: quality that a unit of cost is worth.
        ways: that are allowed.
    """
    allowed = np.array([way in ways for way in WAYS])
    gain = np.where(allowed, expected.quality - lam * cost, -np.inf)
    best = gain >= gain.max(axis=1, keepdims=True)
    return np.where(best, cost, np.inf).argmin(axis=1)


def _lambdas(quality: np.ndarray, cost: np.ndarray) -> list[float]:
    """A lambda for each different set of choices, ascending from 0."""
    pairs = [(one, other) for one in range(3) for other in range(one)]
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.concatenate(
            [(quality[:, a] - quality[:, b]) / (cost[:, a] - cost[:, b]) for a, b in pairs]
        )
    changes = np.unique(changes[np.isfinite(changes) & (changes > 0)])
    if not len(changes):
        return [0.0]
    return [0.0, *np.sqrt(changes[:-1] * changes[1:]).tolist(), 2 * float(changes[-1])]


def results(pair: GivenPair, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What each way comes to: quality, cost and seconds, (n, 3); None where a time is not known."""
    kept = pair.confidence >= threshold
    student, teacher = pair.student, pair.teacher
    quality = np.column_stack(
        [
            pair.quality_student,
            pair.quality_teacher,
            np.where(kept, pair.quality_student, pair.quality_teacher),
        ]
    )

    def both(one: float, other: float) -> np.ndarray:
        alone = np.broadcast_to([one, other], (len(kept), 2))
        return np.column_stack([alone, one + np.where(kept, 0.0, other)])

    timed = student.seconds is not None and teacher.seconds is not None
    return (
        quality,
        both(student.cost, teacher.cost),
        both(student.seconds or 0.0, teacher.seconds or 0.0) if timed else None,
    )


def taken(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The value of each prompt's way, (n,)."""
    return values[np.arange(len(chosen)), chosen]


def judge_routed(
    pair: GivenPair,
    expected: Mapping[float, Expected],
    plan: RoutedPlan,
    alone: RoutedPlan,
    unrouted: GivenPlan,
    *,
    seed: int = 0,
) -> RoutedResult:
    """A plan on other prompts than those it was chosen by.

    Args:
        pair: on these prompts.
        expected: of them, by percentile.
        plan: how a way is chosen.
        alone: likewise without the cascade.
        unrouted: one way for all prompts.
        seed: of the bootstrap.
    """
    chosen = way_of(pair, expected[plan.k], plan)
    quality, cost, seconds = results(pair, plan.threshold)
    by_routing = taken(quality, way_of(pair, expected[alone.k], alone))
    plain, plain_cost, _ = outcome(pair, unrouted)
    own, spent = taken(quality, chosen), taken(cost, chosen)
    figures = {
        **{way: (chosen == number).astype(float) for number, way in enumerate(WAYS)},
        "quality": own,
        "over_student": own - pair.quality_student,
        "over_teacher": own - pair.quality_teacher,
        "over_cascade": own - plain,
        "over_routing": own - by_routing,
        "cost": spent,
        "over_cascade_cost": spent - plain_cost,
        "seconds": np.full(len(own), np.nan) if seconds is None else taken(seconds, chosen),
    }
    columns = np.stack([*figures.values(), plain, plain_cost, pair.quality_student])

    def means(weights: np.ndarray) -> list[float]:
        *averages, quality, cost, students = columns @ weights / weights.sum()
        dearer = cost - pair.student.cost
        spare = averages[list(figures).index("cost")] - pair.student.cost
        share = 1.0 if dearer <= 0 else min(spare / dearer, 1.0)
        at_cost = students + share * (quality - students)
        return [*averages, averages[list(figures).index("quality")] - at_cost]

    intervals = bootstrap(means, len(own), seed=seed)
    found = dict(zip([*figures, "over_cascade_at_cost"], intervals, strict=True))
    shares = {way: found.pop(way) for way in WAYS}
    took = found.pop("seconds")
    timed = seconds is not None
    longest = max(longest_of(pair, way) or 0.0 for way in plan.ways) if timed else None
    return RoutedResult(
        plan=plan,
        unrouted=unrouted,
        prompts=len(own),
        shares=shares,
        seconds=took if timed else None,
        longest_seconds=longest,
        **found,
    )


def way_of(pair: GivenPair, expected: Expected, plan: RoutedPlan) -> np.ndarray:
    """The way of each prompt by a plan, as a number in `WAYS`."""
    return routed(expected, expected_cost(pair, expected), plan.lam, plan.ways)


def best_of_each(
    pair: GivenPair,
    expected: Mapping[float, Expected],
    thresholds: Mapping[float, float],
    budget: float | None,
    longest_seconds: float | None,
) -> tuple[RoutedPlan, RoutedPlan, GivenPlan]:
    """The best plans with all ways, without the cascade, and without routing; see `best_routed_plan`."""
    limits = budget, longest_seconds
    return (
        best_routed_plan(pair, expected, thresholds, *limits),
        best_routed_plan(pair, expected, thresholds, *limits, ways=WAYS[:2]),
        best_plan(pair, *limits),
    )
