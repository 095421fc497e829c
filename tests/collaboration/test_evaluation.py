"""Figures of collaborations against what they mean, on made-up trials with a known answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from matchgraph.collaboration import evaluation
from matchgraph.collaboration.evaluation import CASES, Study, at_cost, diversity, evaluate
from matchgraph.collaboration.trials import Column, Trials
from tests.collaboration.madeup import COUNT, SAMPLES, made


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read no interval, or one that every resample has."""
    monkeypatch.setattr(evaluation, "bootstrap", partial(evaluation.bootstrap, resamples=20))


def test_an_oracle_that_knows_beats_all_at_equal_cost(informed: Study) -> None:
    for lead in informed.leads:
        if 30 <= lead.choice.k <= 70 and lead.choice.correction == "refine-0.5@5":
            for interval in (lead.over_student, lead.over_best_student, lead.over_teacher, lead.over_random):
                assert 0 < interval.low < interval.value < interval.high
    assert any(lead.strategy.kind == "refine" and 30 <= lead.choice.k <= 70 for lead in informed.leads)
    # What is refined is what the score says is bad: 0.25 in place of the lowest 60 % of -1..1.
    half = next(lead for lead in informed.leads if lead.choice.k == 60 and lead.strategy.kind == "refine")
    assert half.strategy.quality["clip_score"] == pytest.approx(0.6 * 0.25 + 0.4 * 0.6, abs=0.04)
    assert half.strategy.steps == pytest.approx(1 + half.strategy.rate * 5)
    assert half.strategy.tflop == pytest.approx(1 + half.strategy.rate * 5)
    assert half.strategy.rate == pytest.approx(0.6, abs=0.1)


def test_leads_are_at_equal_cost(informed: Study) -> None:
    test = made(1, True)
    student, teachers = test.student, test.teachers
    costs = np.array([column.tflop for column in teachers])
    means = np.array([column.scores["clip_score"].mean() for column in teachers])
    for lead in informed.leads:
        column = test.corrections[str(lead.choice.correction)]
        low = student.scores["clip_score"] < lead.choice.threshold
        spent = 1 + low.mean() * column.tflop
        mixed = np.where(low, column.scores["clip_score"], student.scores["clip_score"]).mean()
        assert lead.strategy.tflop == pytest.approx(spent)
        expected = np.interp(spent, costs, means) if spent > 4 else means[0]
        # These teachers' means lie on a concave curve, so the best mixture is of neighbours.
        assert lead.over_teacher.value == pytest.approx(mixed - expected, abs=1e-9)
        assert lead.over_student.value == pytest.approx(mixed - student.scores["clip_score"].mean())


@pytest.mark.usefixtures("few_resamples")
def test_a_resample_is_compared_at_its_own_cost() -> None:
    """Where quality is what is paid, nothing leads in any resample: more rejected images cost more."""

    def column(name: str, cost: float, spread: float = 0.0) -> Column:
        scores = {"clip_score": cost + spread * np.random.default_rng(3).normal(size=COUNT)}
        return Column(name, int(cost), cost, scores, np.ones((COUNT, 2), np.float32), np.zeros(COUNT))

    teachers = (column("teacher@4", 4.0), column("teacher@10", 10.0))
    # The student's scores differ just so much that some are rejected; a correction costs 5 and gains 5.
    student, refined = column("student@1", 1.0, 1e-9), replace(column("refine-0.5@5", 6.0), tflop=5.0)
    prompts = tuple(f"prompt {number // SAMPLES}" for number in range(COUNT))
    trials = Trials(prompts, SAMPLES, (student,), teachers, (refined,))
    leads = [
        lead
        for lead in evaluate(trials, trials, "clip_score").leads
        if 70 <= lead.choice.k <= 80 and lead.strategy.kind == "refine"
    ]
    assert leads
    for lead in leads:
        assert lead.over_student.high - lead.over_student.low > 0.1
        assert lead.over_teacher.low == pytest.approx(0, abs=1e-6)
        assert lead.over_teacher.high == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("few_resamples")
def test_an_oracle_that_guesses_gains_nothing_over_chance() -> None:
    study = evaluate(made(2, False), made(3, False), "clip_score")
    spread = [lead.over_random for lead in study.leads if lead.choice.k < 100]
    # All that a score tells is its own noise, 0.05 of a standard deviation.
    assert all(abs(interval.value) < 0.05 for interval in spread)
    assert all(strategy.fid is None for strategy in study.strategies)


def test_the_ends_are_the_models_themselves(informed: Study) -> None:
    trials = made(1, True)
    by_name = {strategy.name: strategy for strategy in informed.strategies}
    for column in (*trials.students, *trials.teachers):
        strategy = by_name[column.id]
        assert strategy.quality["clip_score"] == pytest.approx(column.scores["clip_score"].mean())
        assert (strategy.steps, strategy.tflop) == (column.steps, column.tflop)
    always = by_name["refine-0.5@5"]
    assert (always.steps, always.rate) == (6, 1)
    # The student's features stray from the reference, the teacher's do not.
    assert by_name["student@1"].fid > 3 * by_name["teacher@20"].fid > 0


def test_when_the_student_wins_is_said(informed: Study) -> None:
    wins = informed.wins
    assert wins.teacher == "teacher@20"
    # Student: 1 - 2 d; teacher: 0.3: it wins below a difficulty of 0.35.
    assert wins.share.low < 0.35 < wins.share.high
    assert wins.by_distance[0] > wins.by_distance[1] > wins.by_distance[2]
    assert wins.accuracy.low > 0.95
    aspects = {aspect.name: aspect for aspect in wins.aspects}
    # It strays where it is difficult, as is written on the teacher's image and its way.
    complexity = aspects["complexity of the teacher's image"]
    assert complexity.distance.low > 0.3
    assert complexity.wins == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.2), 0)
    curvature = aspects["curvature of the teacher's path"]
    assert curvature.distance.high < -0.3
    assert curvature.wins[0] == 0
    assert curvature.gap.value == pytest.approx(-complexity.gap.value)
    # No prompt is longer than another.
    assert np.isnan(aspects["words in the prompt"].distance.value)


@pytest.mark.usefixtures("few_resamples")
def test_the_prompts_that_the_student_wins_are_named(informed: Study) -> None:
    trials = made(1, True)
    leads = trials.student.scores["clip_score"] - trials.teachers[2].scores["clip_score"]
    by_prompt = {trials.prompts[2 * n]: leads[2 * n : 2 * n + 2].mean() for n in range(COUNT // 2)}
    ranked = sorted(by_prompt, key=by_prompt.__getitem__)
    assert [case.prompt for case in informed.wins.best] == ranked[: -CASES - 1 : -1]
    assert [case.prompt for case in informed.wins.worst] == ranked[:CASES]
    for case in (*informed.wins.best, *informed.wins.worst):
        assert case.lead == pytest.approx(by_prompt[case.prompt])
    # None is named a win that is a loss.
    lost = replace(trials.student, scores={"clip_score": trials.student.scores["clip_score"] - 9})
    beaten = evaluate(made(0, True), replace(trials, students=(lost,)), "clip_score").wins
    assert beaten.best == ()
    assert len(beaten.worst) == CASES


def test_mixtures_of_fixed_ways() -> None:
    cost, quality = np.array([1.0, 3.0, 5.0]), np.array([0.0, 4.0, 3.0])
    for spent, expected in ((0.5, 0.0), (1.0, 0.0), (2.0, 2.0), (3.0, 4.0), (4.0, 4.0), (9.0, 4.0)):
        assert at_cost(cost, quality, spent) == pytest.approx(expected)


def test_diversity_is_of_one_prompts_images() -> None:
    same = np.repeat(np.eye(3), 4, axis=0)
    assert diversity(same, 4) == pytest.approx(0)
    assert diversity(np.tile(np.eye(2), (3, 1)), 2) == pytest.approx(1)
    assert diversity(same, 1) is None
