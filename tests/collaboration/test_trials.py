"""Trials say what a collaboration comes to, without drawing it; tuning finds the best of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matchgraph.collaboration.collaborate import Collaboration
from matchgraph.collaboration.errors import InvalidPlan, NoTrials
from matchgraph.collaboration.plan import Correction, Plan
from matchgraph.collaboration.trials import Column, Grid, Trials, measure
from matchgraph.collaboration.tuning import best_for, choices, frontier, rejected
from matchgraph.drawing import Drawing
from matchgraph.training.measure.quality import Sharpness

PROMPTS = [f"noto style, {thing}" for thing in ("red apple, food and drink", "cat, animal", "clock, object")]
STUDENTS = tuple(Drawing(steps, 1.0, resolution_px=32) for steps in (1, 2))
TEACHER, REFINER = (Drawing(steps, 3.0, resolution_px=32) for steps in (3, 2))
GRID = Grid(STUDENTS, (TEACHER,), (0.5,), (REFINER,), 2, 7)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def trials(pipelines, scorer, extractor, kept) -> Trials:
    return measure(
        pipelines["tiny-vega"], pipelines["tiny-sdxl"], [scorer, Sharpness()], extractor, PROMPTS, GRID, kept
    )


def test_what_is_there_is_not_drawn_again(pipelines, scorer, extractor, kept, trials, monkeypatch):
    scorers = [scorer, Sharpness()]
    monkeypatch.setattr(type(pipelines["tiny-vega"].family), "sample", lambda *_, **__: pytest.fail("drawn"))
    both = pipelines["tiny-vega"], pipelines["tiny-sdxl"]
    again = measure(*both, scorers, extractor, PROMPTS, GRID, kept)
    for one, other in zip(
        (*trials.students, *trials.teachers, *trials.refinements),
        (*again.students, *again.teachers, *again.refinements),
        strict=True,
    ):
        assert one.id == other.id
        assert (one.features == other.features).all()
        drawn_alone = one in trials.teachers
        assert (one.curvature is not None) == (other.curvature is not None) == drawn_alone
        if drawn_alone:
            assert (one.curvature == other.curvature).all()
            assert (one.curvature > 0).all()
    # Another seed, other prompts or another first student are other trials.
    others = [
        (PROMPTS, replace(GRID, seed=8)),
        (PROMPTS[:2], GRID),
        (PROMPTS, replace(GRID, students=GRID.students[::-1], teachers=())),
    ]
    for prompts, grid in others:
        with pytest.raises(pytest.fail.Exception, match="drawn"):
            measure(*both, scorers, extractor, prompts, grid, kept)
    with pytest.raises(NoTrials):
        measure(*both, scorers, extractor, [], GRID, kept)


@pytest.mark.parametrize("correction", ["regenerate@3-g3", "refine-0.5@2-g3"])
def test_a_choice_comes_true(pipelines, scorer, trials, correction):
    """Drawn for real, a choice has the quality and the cost that the trials say."""
    [choice] = [c for c in choices(trials, "clip_score") if c.correction == correction and c.k == 50]
    rollback, drawing = (None, TEACHER) if "regen" in correction else (0.5, REFINER)
    plan = Plan(STUDENTS[0], Correction(drawing, rollback), seed=7, batch_size=6)
    both = Collaboration(pipelines["tiny-vega"], pipelines["tiny-sdxl"], scorer, choice.threshold, plan)
    from matchgraph.graphdb.prompts import prompt_id

    numbers = [f"{prompt_id(text)}-{place}" for text in PROMPTS for place in range(2)]
    made = sorted(both.generate(trials.prompts, numbers=numbers), key=lambda outcome: outcome.place)
    assert sum(outcome.decision != "accepted" for outcome in made) == 3
    quality = scorer.score(trials.prompts, [outcome.image for outcome in made])
    assert quality.mean() == pytest.approx(choice.quality, abs=1e-3)
    assert np.mean([outcome.steps for outcome in made]) == pytest.approx(choice.steps)
    assert np.mean([outcome.tflop for outcome in made]) == pytest.approx(choice.tflop)


def made_up(seed: int, count: int = 60) -> Trials:
    """Columns of random scores."""
    generator = np.random.default_rng(seed)

    def column(name: str, steps: int) -> Column:
        scores = {"clip_score": generator.normal(size=count)}
        return Column(name, steps, steps * 0.5, scores, np.zeros((count, 2), np.float32), np.zeros(count))

    teachers = tuple(column(f"teacher@{steps}", steps) for steps in (4, 9))
    return Trials(("a",) * count, 1, (column("student@2", 2),), teachers, (column("refine-0.5@3", 3),))


@given(st.integers(0, 200), st.floats(1.0, 6.0))
def test_tuning_finds_the_best_that_the_budget_pays(seed: int, budget: float) -> None:
    trials = made_up(seed)
    student = trials.student.scores["clip_score"]
    best = best_for(choices(trials, "clip_score"), budget)
    assert best.tflop <= budget * (1 + 1e-9)
    for column in (*trials.teachers, *trials.refinements):
        for k in range(0, 101, 5):
            low = student < (np.percentile(student, k) if 0 < k < 100 else np.inf * (k - 50))
            cost = trials.student.tflop + low.mean() * column.tflop
            quality = np.where(low, column.scores["clip_score"], student).mean()
            if cost <= budget:
                assert quality <= best.quality + 1e-12
    with pytest.raises(InvalidPlan, match="student alone"):
        best_for(choices(trials, "clip_score"), 0.5)


def test_the_frontier_is_what_nothing_cheaper_is_better_than() -> None:
    found = choices(made_up(3), "clip_score")
    kept = frontier(found)
    for choice in found:
        assert any(one.tflop <= choice.tflop and one.quality >= choice.quality for one in kept)
    for one, following in pairwise(kept):
        assert one.tflop < following.tflop
        assert one.quality < following.quality


def test_percentiles_reject_their_share() -> None:
    scores = np.random.default_rng(0).permutation(40).astype(float)
    for k in (0, 25, 50, 95, 100):
        chosen, threshold = rejected(scores, k)
        assert chosen.mean() == pytest.approx(k / 100)
        assert (chosen == (scores < threshold)).all()
