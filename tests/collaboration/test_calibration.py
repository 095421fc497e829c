"""A threshold holds for the scorer and the drawing that it was calibrated with, and for no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from matchgraph.collaboration.calibration import calibrate, check_calibrated, check_enough
from matchgraph.collaboration.errors import CalibrationDiffers, NotCalibrated, NoTrials
from matchgraph.collaboration.pairs import calibration_of
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import Calibration, Distilled
from matchgraph.graphdb.prompt_models import prompt_id

DRAWING = Drawing(2, 1.0, resolution_px=32)
CALIBRATION = Calibration("clip_score", "own", DRAWING, 9, tuple(np.linspace(0, 1, 101).tolist()))
STREAM_BATCHES = "matchgraph.training.sampling.generate.stream_batches"


class Scores:
    """A scorer that knows each prompt's score."""

    metric, hash = "clip_score", "own"

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def score(self, prompts: Sequence[str], images: Sequence[Any]) -> np.ndarray:
        assert len(prompts) == len(images)
        return np.array([self.values[prompt] for prompt in prompts])


def scorer(**changed: str) -> Any:
    return SimpleNamespace(**{"metric": "clip_score", "hash": "own", **changed})


def test_a_handful_of_prompts_gives_no_threshold() -> None:
    check_enough(["a cat"] * 20)
    with pytest.raises(NoTrials, match=r"19 prompts are too few .* at least 20"):
        check_enough(["a cat"] * 19)
    with pytest.raises(NoTrials, match="no prompts"):
        check_enough([])


def test_the_same_settings_are_accepted() -> None:
    check_calibrated(CALIBRATION, scorer(), DRAWING)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 4}, "steps 2, not 4"),
        ({"guidance": None}, "guidance 1.0, not None"),
        ({"sampler": "DDIMScheduler"}, "sampler None, not DDIMScheduler"),
        ({"resolution_px": 64}, "resolution_px 32, not 64"),
        ({"cache_interval": 2}, "cache_interval 1, not 2"),
        ({"precision": "bf16"}, "precision fp32, not bf16"),
    ],
)
def test_another_drawing_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationDiffers, match=message):
        check_calibrated(CALIBRATION, scorer(), replace(DRAWING, **changed))


@pytest.mark.parametrize("changed", [{"metric": "sharpness"}, {"hash": "another"}])
def test_another_scorer_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(CalibrationDiffers, match=next(iter(changed.values()))):
        check_calibrated(CALIBRATION, scorer(**changed), DRAWING)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the sampler, which draws batches of two nothings."""
    calls: list[dict[str, Any]] = []

    def stream_batches(
        _student: Any, _adapter: Any, prompts: Sequence[str], config: Any, *, numbers: Sequence[str]
    ) -> Iterator[Any]:
        calls.append({"config": config, "numbers": list(numbers)})
        for first in range(0, len(prompts), 2):
            yield SimpleNamespace(images=[None] * len(prompts[first : first + 2]))

    monkeypatch.setattr(STREAM_BATCHES, stream_batches)
    return calls


STUDENT: Any = SimpleNamespace(precision="fp32")


def test_percentiles_are_those_of_the_scores(drawn: list[dict[str, Any]]) -> None:
    values = {f"prompt {place}": place / 8 for place in range(9)}
    seen: list[tuple[int, int]] = []
    found = calibrate(
        STUDENT, Scores(values), list(values), DRAWING, seed=5, on_progress=lambda *at: seen.append(at)
    )
    assert found.percentiles == pytest.approx(np.percentile(list(values.values()), np.arange(101)))
    assert (found.metric, found.scorer, found.samples) == ("clip_score", "own", 9)
    assert found.drawing == DRAWING
    assert seen == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]
    [call] = drawn
    assert call["numbers"] == [f"{prompt_id(prompt)}-0" for prompt in values]
    assert (call["config"].drawing, call["config"].seed, call["config"].n) == (DRAWING, 5, 9)
    check_calibrated(found, Scores({}), DRAWING)


@pytest.mark.usefixtures("drawn")
def test_images_without_a_score_do_not_count() -> None:
    values = {"a": 0.5, "b": float("nan"), "c": 0.7}
    found = calibrate(STUDENT, Scores(values), list(values), DRAWING, seed=0)
    assert (found.samples, found.percentiles[0], found.percentiles[100]) == (2, 0.5, 0.7)
    with pytest.raises(NoTrials, match="could not score any of 1"):
        calibrate(STUDENT, Scores(values), ["b"], DRAWING, seed=0)
    with pytest.raises(NoTrials, match="no prompts"):
        calibrate(STUDENT, Scores({}), [], DRAWING, seed=0)


def test_the_command_that_calibrates_has_names_with_spaces_in_quotes() -> None:
    with pytest.raises(NotCalibrated, match="`matchgraph collaborate calibrate 'my student' teacher`"):
        calibration_of(Distilled("my student", "teacher"))
