"""Trials say what a collaboration comes to, without drawing it; tuning finds the best of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from matchgraph.collaboration.collaborate import Collaboration
from matchgraph.collaboration.errors import NoTrials
from matchgraph.collaboration.plan import Correction, Plan
from matchgraph.collaboration.trials import Grid, Trials, measure
from matchgraph.collaboration.tuning import choices
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


def test_an_interrupted_column_goes_on_after_its_last_whole_batch(
    pipelines, scorer, extractor, trials, tmp_path, monkeypatch
):
    both = pipelines["tiny-vega"], pipelines["tiny-sdxl"]
    family = type(both[0].family)
    own, calls = family.sample, []

    def sample(*given, **named):
        calls.append(len(named["generators"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*given, **named)

    monkeypatch.setattr("matchgraph.collaboration.trials.BATCH", 2)
    monkeypatch.setattr(family, "sample", sample)
    grid = replace(GRID, students=STUDENTS[:1], rollbacks=())
    with pytest.raises(KeyboardInterrupt):
        measure(*both, [scorer], extractor, PROMPTS, grid, tmp_path)
    found = measure(*both, [scorer], extractor, PROMPTS, grid, tmp_path)
    # Six images a column: two batches, one that broke off, and the rest of both columns.
    assert calls == [2, 2, 2, 2, 2, 2, 2]
    for one, whole in ((found.student, trials.student), (found.teachers[0], trials.teachers[0])):
        np.testing.assert_allclose(one.features, whole.features, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one.scores["clip_score"], whole.scores["clip_score"], atol=1e-3)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * 2


@pytest.mark.parametrize("correction", ["regenerate@3-g3", "refine-0.5@2-g3"])
def test_a_choice_comes_true(pipelines, scorer, trials, correction):
    """Drawn for real, a choice has the quality and the cost that the trials say."""
    [choice] = [c for c in choices(trials, "clip_score") if c.correction == correction and c.k == 50]
    rollback, drawing = (None, TEACHER) if "regen" in correction else (0.5, REFINER)
    plan = Plan(STUDENTS[0], Correction(drawing, rollback), seed=7, batch_size=6)
    both = Collaboration(pipelines["tiny-vega"], pipelines["tiny-sdxl"], scorer, choice.threshold, plan)
    from matchgraph.graphdb.prompt_models import prompt_id

    numbers = [f"{prompt_id(text)}-{place}" for text in PROMPTS for place in range(2)]
    made = sorted(both.generate(trials.prompts, numbers=numbers), key=lambda outcome: outcome.place)
    assert sum(outcome.decision != "accepted" for outcome in made) == 3
    quality = scorer.score(trials.prompts, [outcome.image for outcome in made])
    assert quality.mean() == pytest.approx(choice.quality, abs=1e-3)
    assert np.mean([outcome.steps for outcome in made]) == pytest.approx(choice.steps)
    assert np.mean([outcome.tflop for outcome in made]) == pytest.approx(choice.tflop)
