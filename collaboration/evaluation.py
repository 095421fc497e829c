"""The gain of collaboration at equal cost, and when the student wins, on held-out prompts.

Source:
    Starodubcev et al. (2024), sections 3.1 (student against teacher) and 4.1 (quality over average steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.collaboration.trials import Column, Trials
from matchgraph.collaboration.tuning import Choice, choices
from matchgraph.stats.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from matchgraph.training.measure.frechet import GaussianStatistics

# Prompts shown of each kind.
CASES = 10


@dataclass(frozen=True)
class Strategy:
    """A way of drawing all test prompts, and its results.

    Attributes:
        name: `student@2`, `teacher@10`, `refine-0.5@4`, or a choice.
        kind: `student`, `teacher`, `refine all`, `refine`, `regenerate`.
        steps: of an image, by both models, on average.
        tflop: likewise.
        quality: mean score by metric.
        fid: Frechet distance of the features to those of the reference; None without one.
        diversity: mean distance (1 - cosine) of two images of one prompt; None of one image a prompt.
        rate: share of the images that the teacher drew.
    """

    name: str
    kind: str
    steps: float
    tflop: float
    quality: Mapping[str, float]
    fid: float | None
    diversity: float | None
    rate: float


@dataclass(frozen=True)
class Lead:
    """A tuned collaboration against alternatives of equal average cost, by the oracle's metric.

    Attributes:
        strategy: the collaboration, on the test prompts.
        choice: what was tuned, on the tuning prompts.
        over_student: above the student alone, at the steps that are corrected: the cheaper of the two.
        over_best_student: above the best mixture of the student's step counts at the same cost.
        over_teacher: above the best mixture of the teacher's step counts at the same cost; where even its
            fewest steps cost more, above those.
        over_random: above correcting as many images, chosen at random.
    """

    strategy: Strategy
    choice: Choice
    over_student: Interval
    over_best_student: Interval
    over_teacher: Interval
    over_random: Interval


@dataclass(frozen=True)
class Aspect:
    """A property of images or prompts, and its correlation with the student's wins.

    Attributes:
        name: of it.
        distance: its rank correlation with the distance of the student's image from the teacher's; NaN where
            all have as much of it.
        gap: its rank correlation with the absolute difference of their scores; likewise.
        wins: how often the student's score is higher among images with little, some and much (thirds).
    """

    name: str
    distance: Interval
    gap: Interval
    wins: tuple[float, float, float]


@dataclass(frozen=True)
class Case:
    """A prompt, and how far the student's images of it score above the teacher's.

    Attributes:
        prompt: the text.
        lead: mean difference of the scores.
    """

    prompt: str
    lead: float


@dataclass(frozen=True)
class Wins:
    """The student against the teacher on the same noise.

    Attributes:
        teacher: id of the teacher's column.
        share: how often the student's score is higher.
        distance_gap: rank correlation of the distance of the two images with the absolute difference of
            their scores.
        by_distance: how often the student wins among images of low, medium and high distance (thirds).
        aspects: of the teacher's images, of their strategies from noise, and of the prompts.
        best: prompts that the student draws better than the teacher, best first.
        worst: those that it draws worse, worst first.
        accuracy: chance that the oracle's score of the student's image alone puts a win above a loss (the
            area under its ROC curve).
    """

    teacher: str
    share: Interval
    distance_gap: Interval
    by_distance: tuple[float, float, float]
    aspects: tuple[Aspect, ...]
    best: tuple[Case, ...]
    worst: tuple[Case, ...]
    accuracy: Interval


@dataclass(frozen=True)
class Study:
    """Everything of one student and its teacher.

    Attributes:
        metric: the oracle's.
        prompts: how many test prompts.
        samples: images of each.
        strategies: student and teacher alone and always refined, and what was tuned.
        leads: of what was tuned, by cost.
        wins: student against teacher.
    """

    metric: str
    prompts: int
    samples: int
    strategies: tuple[Strategy, ...]
    leads: tuple[Lead, ...]
    wins: Wins


def evaluate(
    tuned_on: Trials,
    test: Trials,
    metric: str,
    *,
    reference: GaussianStatistics | None = None,
    seed: int = 0,
) -> Study:
    """Tune on some prompts for several average costs, and evaluate on others.

    Args:
        tuned_on: trials on the tuning prompts.
        test: of the same grid, on the test prompts.
        metric: the oracle's.
        reference: features of real images, for the Frechet distance.
        seed: of the bootstrap.
    """
    student = test.student
    columns = {
        "student": test.students,
        "teacher": test.teachers,
        "refine all": test.refinements,
    }
    strategies = [
        _strategy(test, column.id, kind, np.ones(len(test.prompts), dtype=bool), column, reference)
        for kind, some in columns.items()
        for column in some
    ]
    found = choices(tuned_on, metric)
    leads = []
    for choice in _tuned(found, [column.tflop for column in (*test.teachers, *test.refinements)]):
        assert choice.correction is not None
        column = test.corrections[choice.correction]
        chosen = student.scores[metric] < choice.threshold
        kind = choice.correction.partition("@")[0].partition("-")[0]
        name = f"{choice.correction} below {choice.k:g} %"
        strategy = _strategy(test, name, kind, chosen, column, reference)
        leads.append(_lead(test, metric, strategy, choice, chosen, column, seed))
    return Study(
        metric,
        len(test.prompts) // test.samples,
        test.samples,
        (*strategies, *(lead.strategy for lead in leads)),
        tuple(leads),
        _wins(test, metric, seed),
    )


def _tuned(found: list[Choice], costs: list[float]) -> list[Choice]:
    """For each cost of interest the best refinement and the best regeneration, each once."""
    kept: dict[tuple[str | None, float], Choice] = {}
    student = min(choice.tflop for choice in found)
    for budget in sorted({student + share * cost for cost in costs for share in (0.25, 0.5, 0.75, 1.0)}):
        for kind in ("refine", "regenerate"):
            affordable = [
                c for c in found if c.correction and c.correction.startswith(kind) and c.tflop <= budget
            ]
            if affordable:
                best = max(affordable, key=lambda choice: (choice.quality, -choice.tflop))
                kept[best.correction, best.k] = best
    return sorted(kept.values(), key=lambda choice: choice.tflop)


def _strategy(
    test: Trials,
    name: str,
    kind: str,
    chosen: np.ndarray,
    column: Column,
    reference: GaussianStatistics | None,
) -> Strategy:
    from matchgraph.training.measure.frechet import frechet_distance, gaussian_statistics

    student = test.student
    alone = kind in ("student", "teacher")
    first = column if alone else student
    features = np.where(chosen[:, None], column.features, first.features).astype(np.float64)
    metrics = column.scores.keys() & first.scores.keys()
    quality = {
        each: float(np.where(chosen, column.scores[each], first.scores[each]).mean())
        for each in sorted(metrics)
    }
    fid = None
    if reference is not None:
        own = gaussian_statistics(features)
        fid = frechet_distance(own.mean, own.covariance, reference.mean, reference.covariance)
    rate = float(chosen.mean())
    spent = (0, 0.0) if alone else (student.steps, student.tflop)
    return Strategy(
        name,
        kind,
        float(spent[0] + rate * column.steps),
        float(spent[1] + rate * column.tflop),
        quality,
        fid,
        diversity(features, test.samples),
        0.0 if kind == "student" else rate,
    )


def diversity(features: np.ndarray, samples: int) -> float | None:
    """Mean of 1 - cosine over pairs of images of one prompt.

    Args:
        features: float64, (n, d), those of a prompt together.
        samples: images of each prompt.

    Returns:
        None of one image a prompt.

    Source:
        Starodubcev et al. (2024), section 4.1, on the diversity of few-step students.
    """
    if samples == 1:
        return None
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    grouped = unit.reshape(-1, samples, unit.shape[1])
    cosine = grouped @ grouped.transpose(0, 2, 1)
    pairs = np.triu_indices(samples, 1)
    return float(1 - cosine[:, pairs[0], pairs[1]].mean())


def _lead(
    test: Trials,
    metric: str,
    strategy: Strategy,
    choice: Choice,
    chosen: np.ndarray,
    column: Column,
    seed: int,
) -> Lead:
    student = test.student.scores[metric]
    mixed = np.where(chosen, column.scores[metric], student)
    corrected = column.scores[metric]
    alone = [each.scores[metric] for each in (*test.students, *test.teachers)]
    # Float64, as one product with the weights gives the means of all.
    of_images = np.array([chosen, student, mixed, corrected, *alone], dtype=np.float64)
    cost = np.array([each.tflop for each in (*test.students, *test.teachers)])
    count = len(test.students)

    def figures(weights: np.ndarray) -> list[float]:
        rate, plain, quality, always, *means = of_images @ weights / weights.sum()
        # What these prompts cost: in a resample others are rejected.
        spent = test.student.tflop + rate * column.tflop
        students, teachers = np.array(means[:count]), np.array(means[count:])
        return [
            float(quality - plain),
            float(quality - at_cost(cost[:count], students, spent)),
            float(quality - at_cost(cost[count:], teachers, spent)),
            float(quality - (plain + rate * (always - plain))),
        ]

    intervals = bootstrap(figures, len(student), samples=test.samples, seed=seed)
    return Lead(strategy, choice, *intervals)


def at_cost(cost: np.ndarray, quality: np.ndarray, spent: float) -> float:
    """The best quality of random mixtures of fixed strategies for an average cost.

    Args:
        cost: of each, (m,).
        quality: mean of each, (m,).
        spent: the average cost; where all cost more, the cheapest counts.
    """
    if spent <= cost.min():
        return float(quality[cost == cost.min()].max())
    affordable = quality[cost <= spent].max()
    below, above = np.flatnonzero(cost <= spent), np.flatnonzero(cost > spent)
    mixtures = [
        quality[i] + (quality[j] - quality[i]) * (spent - cost[i]) / (cost[j] - cost[i])
        for i in below
        for j in above
    ]
    return float(max([affordable, *mixtures]))


def _wins(test: Trials, metric: str, seed: int) -> Wins:
    from scipy.stats import rankdata

    student = test.student
    teacher = max(test.teachers, key=lambda column: column.steps)
    one, other = student.scores[metric], teacher.scores[metric]
    won, gap = one > other, np.abs(one - other)
    distance = 1 - _cosine(student.features, teacher.features)
    aspects = {
        "complexity of the teacher's image": teacher.complexity,
        "words in the prompt": np.array([len(prompt.split()) for prompt in test.prompts], dtype=float),
    }
    if teacher.curvature is not None:
        aspects["curvature of the teacher's path"] = teacher.curvature

    compared = np.array([distance, gap, *aspects.values()])

    def figures(weights: np.ndarray) -> list[float]:
        drawn = np.repeat(np.arange(len(won)), weights.astype(int))
        # Where all have as much of an aspect, its correlations are 0 / 0: NaN.
        with np.errstate(invalid="ignore"):
            correlations = np.corrcoef(rankdata(compared[:, drawn], axis=1))
        return [
            float(won[drawn].mean()),
            _auc(one[drawn], won[drawn]),
            correlations[0, 1],
            *correlations[2:, :2].flat,
        ]

    share, accuracy, distance_gap, *correlations = bootstrap(
        figures, len(won), samples=test.samples, seed=seed
    )
    return Wins(
        teacher.id,
        share,
        distance_gap,
        _by_thirds(distance, won),
        tuple(
            Aspect(name, correlations[2 * place], correlations[2 * place + 1], _by_thirds(values, won))
            for place, (name, values) in enumerate(aspects.items())
        ),
        *_cases(test, one - other),
        accuracy,
    )


def _by_thirds(values: np.ndarray, won: np.ndarray) -> tuple[float, float, float]:
    """Share of wins where the values are low, medium and high; NaN for an empty third, as of equal ones."""
    thirds = np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))
    low, medium, high = (
        float(won[thirds == third].mean()) if (thirds == third).any() else float("nan") for third in range(3)
    )
    return low, medium, high


def _cases(test: Trials, leads: np.ndarray) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The prompts with the most and the least of a lead, over all their images."""
    means = leads.reshape(-1, test.samples).mean(axis=1)
    cases = [
        Case(prompt, float(lead)) for prompt, lead in zip(test.prompts[:: test.samples], means, strict=True)
    ]
    cases.sort(key=lambda case: -case.lead)
    best = tuple(case for case in cases[:CASES] if case.lead > 0)
    return best, tuple(case for case in cases[: -CASES - 1 : -1] if case.lead < 0)


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def _auc(scores: np.ndarray, won: np.ndarray) -> float:
    from scipy.stats import rankdata

    positive = int(won.sum())
    if positive in (0, len(won)):
        return float("nan")
    ranks = rankdata(scores)[won].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * (len(won) - positive)))
