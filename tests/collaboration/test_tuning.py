"""Which correction below which percentile: on made-up trials, against counting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.trials import Column, Trials
from matchgraph.collaboration.tuning import best_for, choices, frontier, rejected


def made_up(seed: int, count: int = 60) -> Trials:
    """Columns of random scores."""
    generator = np.random.default_rng(seed)

    def column(name: str, steps: int) -> Column:
        scores = {"clip_score": generator.normal(size=count)}
        return Column(name, steps, steps * 0.5, scores, np.zeros((count, 2), np.float32), np.zeros(count))

    teachers = tuple(column(f"teacher@{steps}", steps) for steps in (4, 9))
    return Trials(("a",) * count, 1, (column("student@2", 2),), teachers, (column("refine-0.5@3", 3),))


@pytest.mark.slow
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
