"""What is not scored yet is drawn and scored, once, from noise that prompt and place decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matchgraph.routing import scoring
from matchgraph.routing.scoring import score_variants, scores_of
from tests.routing import circle
from tests.routing.drawing import Pipelines

FOLDERS = {"m": Path("m")}


class Counted:
    """Scores an image by its place in the call."""

    def __init__(self, metric: str = "clip_score") -> None:
        self.metric, self.hash = metric, f"hash of {metric}"

    def score(self, prompts: Any, images: Any) -> np.ndarray:
        assert len(prompts) == len(images)
        return np.arange(len(images), dtype=float)


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> Pipelines:
    return Pipelines(monkeypatch)


def test_a_score_is_the_mean_over_a_prompts_images() -> None:
    prompts = circle.table(10).prompts[:2]
    found = scores_of(circle.VARIANTS[1], prompts, ["a", "a", "b", "b"], [None] * 4, [Counted()])
    assert [(score.prompt, score.value, score.samples) for score in found] == [
        (prompts[0].id, 0.5, 2),
        (prompts[1].id, 2.5, 2),
    ]
    assert [score.std for score in found] == pytest.approx([np.std([0, 1], ddof=1)] * 2)
    assert {(score.variant, score.metric, score.scorer) for score in found} == {
        ("m-4", "clip_score", "hash of clip_score")
    }
    [alone] = scores_of(circle.VARIANTS[1], prompts[:1], ["a"], [None], [Counted()])
    assert alone.std is None


def test_what_is_scored_is_not_drawn_again(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four prompts with two images each.
    monkeypatch.setattr(scoring, "BATCH", 8)
    graph, seen = circle.Graph(circle.table(10)), []

    def stop(variant: str, done: int, total: int) -> None:
        seen.append((variant, done, total))
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_variants(graph, FOLDERS, [Counted()], samples=2, on_progress=stop)
    assert seen == [("m-1", 4, 10), ("m-1", 8, 10), ("m-1", 10, 10), ("m-4", 4, 10)]
    before = len(graph.saved)
    assert before == 14
    assert score_variants(graph, FOLDERS, [Counted()], samples=2) == 2 * (30 - before)
    assert len(graph.saved) == 30
    pipelines.opened.clear()
    assert score_variants(graph, FOLDERS, [Counted()], samples=2) == 0
    # More images, or another metric, are drawn; a model without work is not even opened.
    assert pipelines.opened == []
    assert score_variants(graph, FOLDERS, [Counted()], samples=3, variants=[circle.VARIANTS[0]]) == 30
    assert score_variants(graph, FOLDERS, [Counted(), Counted("sharpness")], samples=2) == 60


def test_each_precision_of_a_model_is_opened(pipelines: Pipelines) -> None:
    first, *others = circle.VARIANTS
    half = [replace(one, drawing=replace(one.require_drawing(), precision="bf16")) for one in others]
    graph = circle.Graph(circle.table(10))
    assert score_variants(graph, FOLDERS, [Counted()], samples=1, variants=[first, *half]) == 30
    assert pipelines.precisions == ["fp32", "bf16"]


def test_noise_follows_from_prompt_and_place_and_not_from_the_candidate(pipelines: Pipelines) -> None:
    graph = circle.Graph(circle.table(10))
    score_variants(graph, FOLDERS, [Counted()], samples=2, seed=7)
    assert pipelines.opened == [Path("m")]
    numbers = [call["numbers"] for call in pipelines.calls]
    assert numbers[0] == numbers[1] == numbers[2]
    assert numbers[0] == [f"{prompt.id}-{place}" for prompt in graph.prompts() for place in range(2)]
    for call, variant in zip(pipelines.calls, circle.VARIANTS, strict=True):
        assert (call["config"].drawing, call["config"].seed) == (variant.drawing, 7)
