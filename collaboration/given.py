"""A student and its teacher by scores that were made elsewhere: what a threshold is worth, without drawing.

For each prompt the scores say how sure the oracle was of the student's image, and how good the images of both
are. Every threshold then follows by counting.

Source:
    Starodubcev et al. (2024), section 3.2 (the threshold is a percentile of held-out scores); DiffServe and
    HADIS (serving by cascades): an image that the teacher improves takes the time of both, so a bound on
    latency may leave only one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from matchgraph.collaboration.calibration import check_enough
from matchgraph.collaboration.errors import InvalidPlan, NoTrials
from matchgraph.collaboration.tuning import PERCENTILES, rejected
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.stats.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Budget, ScoreTable, Split, Unit
    from matchgraph.graphdb.runner import Runner


@dataclass(frozen=True)
class Price:
    """What an image costs.

    Attributes:
        cost: by the candidate alone, in a unit that student and teacher have in common.
        seconds: that it takes; None where it is not known.
    """

    cost: float
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class GivenPair:
    """Scores of a student and its teacher.

    Attributes:
        confidence: the oracle's score of the student's image, (n,).
        quality_student: of the student's image, (n,).
        quality_teacher: of the teacher's, (n,).
        student: what the student's image costs.
        teacher: what the teacher's costs.
        unit: of both costs.
    """

    confidence: np.ndarray
    quality_student: np.ndarray
    quality_teacher: np.ndarray
    student: Price
    teacher: Price
    unit: Unit = "TFLOP"


@dataclass(frozen=True)
class GivenPlan:
    """Who draws.

    Attributes:
        kind: the student alone, the teacher alone, or the teacher where the student is below the threshold.
        k: percentile of the held-out confidences; 0 and 100 for one alone.
        threshold: the confidence at that percentile.
    """

    kind: Literal["student", "teacher", "cascade"]
    k: float
    threshold: float


@dataclass(frozen=True)
class GivenResult:
    """A plan on prompts that nothing was chosen by.

    Attributes:
        plan: see `GivenPlan`.
        prompts: how many.
        accepted: share of the student's images that are kept.
        quality: on average.
        over_student: above the student alone.
        over_random: above as many images by the teacher, chosen at random.
        over_teacher: above the teacher alone, which may cost more.
        cost: of an image, on average.
        seconds: likewise; None where a time is not known.
        longest_seconds: the time of an image that both draw; likewise.
    """

    plan: GivenPlan
    prompts: int
    accepted: Interval
    quality: Interval
    over_student: Interval
    over_random: Interval
    over_teacher: Interval
    cost: Interval
    seconds: Interval | None
    longest_seconds: float | None


def cascade(
    runner: Runner,
    student: str,
    teacher: str,
    metric: str,
    confidence: str,
    *,
    budget: Budget | None = None,
    seconds: tuple[float | None, float | None] = (None, None),
    longest_seconds: float | None = None,
    seed: int = 0,
) -> tuple[GivenResult, Unit]:
    """Choose on the graph's validation prompts who draws, and judge it on the test prompts.

    Args:
        runner: the connection.
        student: id of a candidate with scores, as `matchgraph route scores` adds them.
        teacher: likewise.
        metric: of quality.
        confidence: metric of the oracle's scores of the student's images.
        budget: what an image may cost on average; None for no limit.
        seconds: that an image of either takes; by default its cost where that is in seconds.
        longest_seconds: what any image may take; None for no limit.
        seed: of the bootstrap.

    Returns:
        The result, and the unit of its cost.

    Raises:
        InvalidPlan: a candidate is not known, the budget is of another unit than the costs, or no plan is
            within the limits.
        NoTrials: too few prompts have all three scores.
    """
    graph = PromptGraph(runner)
    sure, good = graph.table(confidence), graph.table(metric)
    held_out, test = (
        pair_of(sure, good, student, teacher, split, seconds) for split in ("validation", "test")
    )
    check_enough(held_out.confidence)
    check_enough(test.confidence, "judge a threshold by")
    plan = best_plan(held_out, limit_of(budget, held_out), longest_seconds)
    return judge(test, plan, seed=seed), test.unit


def limit_of(budget: Budget | None, pair: GivenPair) -> float | None:
    """What an image of a pair may cost on average, in its unit; None for no limit.

    Raises:
        InvalidPlan: the budget is of another unit.
    """
    if budget is None:
        return None
    if budget.unit != pair.unit:
        raise InvalidPlan(f"The budget is in {budget.unit}, but student and teacher cost {pair.unit}.")
    return budget.cost


def pair_of(
    confidence: ScoreTable,
    quality: ScoreTable,
    student: str,
    teacher: str,
    split: Split,
    seconds: tuple[float | None, float | None] = (None, None),
) -> GivenPair:
    """The scores of a pair on a split's prompts, as far as all three are known.

    Args:
        confidence: table of the oracle's scores.
        quality: table of the qualities, with the same prompts and candidates.
        student: id of the candidate.
        teacher: likewise.
        split: of the prompts.
        seconds: that an image of either takes; by default its cost where that is in seconds.

    Raises:
        InvalidPlan: a candidate is not known, both are one, or their costs are of different units.
        NoTrials: no prompt has all three scores.
    """
    if student == teacher:
        raise InvalidPlan(f"{student} is both student and teacher: name two candidates.")
    column = {variant.id: number for number, variant in enumerate(quality.variants)}
    for name in (student, teacher):
        if name not in column:
            raise InvalidPlan(
                f"There are no scores of {name!r}: the graph has {', '.join(column) or 'none'}."
            )
    one, other = (quality.variants[column[name]] for name in (student, teacher))
    if one.unit != other.unit:
        raise InvalidPlan(f"{student} costs {one.unit} and {teacher} {other.unit}: price both in one unit.")
    rows = known_rows(confidence, quality, student, teacher, split)
    if not len(rows):
        raise NoTrials(
            f"No {split} prompt has {confidence.metric} of {student} and {quality.metric} of both: add them "
            "with `matchgraph route scores`."
        )
    prices = [
        Price(own.cost, own.cost if given is None and own.unit == "s" else given)
        for own, given in zip((one, other), seconds, strict=True)
    ]
    return GivenPair(
        confidence.mean[rows, column[student]],
        quality.mean[rows, column[student]],
        quality.mean[rows, column[teacher]],
        prices[0],
        prices[1],
        one.unit,
    )


def known_rows(
    confidence: ScoreTable, quality: ScoreTable, student: str, teacher: str, split: Split
) -> np.ndarray:
    """Numbers of a split's prompts that have all three scores; see `pair_of`."""
    names = [variant.id for variant in quality.variants]
    one, other = names.index(student), names.index(teacher)
    values = np.stack([confidence.mean[:, one], quality.mean[:, one], quality.mean[:, other]])
    rows = quality.rows(split)
    return rows[~np.isnan(values[:, rows]).any(axis=0)]


def best_plan(
    pair: GivenPair, budget: float | None = None, longest_seconds: float | None = None
) -> GivenPlan:
    """The plan with the most quality within an average cost and a bound on the time of every image.

    Args:
        pair: on held-out prompts.
        budget: what an image may cost on average; None for no limit.
        longest_seconds: what any image may take; None for no limit.

    Raises:
        InvalidPlan: no plan is within both, or a bound is asked for and a time is not known.
    """
    plans = [GivenPlan("student", 0.0, float("-inf")), GivenPlan("teacher", 100.0, float("inf"))]
    for k in PERCENTILES[1:-1]:
        plans.append(GivenPlan("cascade", float(k), rejected(pair.confidence, k)[1]))
    found = []
    for plan in plans:
        quality, cost, _ = outcome(pair, plan)
        if within(pair, plan.kind, longest_seconds) and (
            budget is None or cost.mean() <= budget * (1 + 1e-9)
        ):
            found.append((float(quality.mean()), -float(cost.mean()), plan))
    if not found:
        raise none_within(budget, longest_seconds)
    return max(found, key=lambda each: each[:2])[2]


def none_within(budget: float | None, longest_seconds: float | None) -> InvalidPlan:
    """That no plan keeps to the limits that are given."""
    limits = {"the budget": budget, "the bound on latency": longest_seconds}
    given = [name for name, limit in limits.items() if limit is not None]
    return InvalidPlan(
        f"No plan is within {' and '.join(given)}: raise {'one of them' if given[1:] else 'it'}."
    )


def judge(pair: GivenPair, plan: GivenPlan, *, seed: int = 0) -> GivenResult:
    """A plan on other prompts than those it was chosen by.

    Args:
        pair: on these prompts.
        plan: who draws.
        seed: of the bootstrap.
    """
    quality, cost, kept = outcome(pair, plan)
    seconds = _seconds(pair, plan)
    columns = np.stack([kept, quality, pair.quality_student, pair.quality_teacher, cost])

    def figures(weights: np.ndarray) -> list[float]:
        share, own, student, teacher, spent = columns @ weights / weights.sum()
        mixed = student + (1 - share) * (teacher - student)
        took = float("nan") if seconds is None else float(np.average(seconds, weights=weights))
        return [share, own, own - student, own - mixed, own - teacher, spent, took]

    share, own, over_student, over_random, over_teacher, spent, took = bootstrap(
        figures, len(kept), seed=seed
    )
    return GivenResult(
        plan,
        len(kept),
        share,
        own,
        over_student,
        over_random,
        over_teacher,
        spent,
        None if seconds is None else took,
        longest_of(pair, plan.kind),
    )


def outcome(pair: GivenPair, plan: GivenPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quality and cost of each image, and whether the student's is kept."""
    kept = pair.confidence >= plan.threshold
    quality = np.where(kept, pair.quality_student, pair.quality_teacher)
    first = 0.0 if plan.kind == "teacher" else pair.student.cost
    return quality, first + np.where(kept, 0.0, pair.teacher.cost), kept.astype(float)


def _seconds(pair: GivenPair, plan: GivenPlan) -> np.ndarray | None:
    """Of each image."""
    if pair.student.seconds is None or pair.teacher.seconds is None:
        return None
    first = 0.0 if plan.kind == "teacher" else pair.student.seconds
    return first + np.where(pair.confidence >= plan.threshold, 0.0, pair.teacher.seconds)


def longest_of(pair: GivenPair, way: str) -> float | None:
    """Seconds of the slowest image by `student`, `teacher` or `cascade`; None where a time is not known."""
    if pair.student.seconds is None or pair.teacher.seconds is None:
        return None
    parts = {"student": (1, 0), "teacher": (0, 1), "cascade": (1, 1)}[way]
    return parts[0] * pair.student.seconds + parts[1] * pair.teacher.seconds


def within(pair: GivenPair, way: str, longest_seconds: float | None) -> bool:
    """Whether no image of a way takes longer than a bound.

    Raises:
        InvalidPlan: there is a bound, and a time is not known.
    """
    if longest_seconds is None:
        return True
    longest = longest_of(pair, way)
    if longest is None:
        raise InvalidPlan("A bound on latency needs the seconds of an image of student and teacher.")
    return longest <= longest_seconds
