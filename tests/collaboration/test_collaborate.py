"""Student, oracle and teacher: exact at the limits, and nothing lost when something fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from matchgraph.collaboration.collaborate import Collaboration, Outcome, scores_of, share_latents
from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.plan import Correction, Plan, price
from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.controls import edge_agreement
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.measure.quality import Sharpness
from matchgraph.training.pipelines.controlnet import controlled
from matchgraph.training.sampling.controls import canny
from matchgraph.training.sampling.generate import sample_images, stream_images

CLIP = ROOT / "probes" / "clip"
PROMPTS = [
    f"noto style, {thing}"
    for thing in (
        "red apple, food and drink",
        "cat, animal",
        "car, travel and places",
        "dog, animal",
        "clock, object",
    )
]
STUDENT, TEACHER = (Drawing(*how, resolution_px=32) for how in ((2, 1.0), (4, 3.0)))
PLAN = Plan(STUDENT, Correction(TEACHER), seed=3, batch_size=2)
REFINE = replace(PLAN, correction=Correction(TEACHER, 0.5))


def run(
    pipelines, scorer, threshold, plan=PLAN, student="tiny-vega", teacher="tiny-sdxl", **options
) -> list[Outcome]:
    both = Collaboration(pipelines[student], pipelines[teacher], scorer, threshold, plan)
    return sorted(both.generate(PROMPTS, **options), key=lambda outcome: outcome.place)


def alone(loaded, drawing: Drawing) -> list[Image.Image]:
    config = SampleConfig(len(PROMPTS), drawing, PLAN.seed, PLAN.batch_size)
    return sample_images(loaded, None, PROMPTS, config)


def same(outcomes, images) -> list[bool]:
    return [
        outcome.image.tobytes() == image.tobytes() for outcome, image in zip(outcomes, images, strict=True)
    ]


def middle(outcomes) -> float:
    """A threshold that rejects two of five, and lies on no score, of which the last bits vary."""
    return float(np.mean(sorted(outcome.score for outcome in outcomes)[1:3]))


@pytest.mark.slow
def test_the_limits_are_the_two_models_bit_for_bit(pipelines, scorer):
    lowest = run(pipelines, scorer, float("-inf"))
    assert all(same(lowest, alone(pipelines["tiny-vega"], STUDENT)))
    assert {(outcome.decision, outcome.steps) for outcome in lowest} == {("accepted", 2)}
    highest = run(pipelines, scorer, float("inf"))
    assert all(same(highest, alone(pipelines["tiny-sdxl"], TEACHER)))
    assert {(outcome.decision, outcome.steps) for outcome in highest} == {("regenerated", 6)}
    assert [outcome.score for outcome in lowest] == [outcome.score for outcome in highest]


@pytest.mark.parametrize("plan", [PLAN, REFINE], ids=["regenerate", "refine"])
def test_only_the_rejected_go_on(pipelines, scorer, plan):
    everything = run(pipelines, scorer, float("-inf"), plan)
    threshold = middle(everything)
    mixed = run(pipelines, scorer, threshold, plan)
    rejected = [outcome.score < threshold for outcome in everything]
    assert sum(rejected) == 2
    unchanged = same(mixed, [outcome.image for outcome in everything])
    assert unchanged == [not no for no in rejected]
    corrected = "refined" if plan is REFINE else "regenerated"
    assert [outcome.decision for outcome in mixed] == [corrected if no else "accepted" for no in rejected]
    # A threshold that follows from all scores, as a percentile does, draws the same.
    seen = []
    later = run(pipelines, scorer, lambda scores: seen.append(scores) or threshold, plan)
    assert all(same(later, [outcome.image for outcome in mixed]))
    assert seen == [[outcome.score for outcome in later]]
    # Average steps and cost are the student's and the rate times the teacher's.
    assert np.mean([outcome.steps for outcome in mixed]) == pytest.approx(2 + 2 / 5 * 4)
    student = price(pipelines["tiny-vega"], STUDENT)
    teacher = price(pipelines["tiny-sdxl"], TEACHER)
    assert np.mean([outcome.tflop for outcome in mixed]) == pytest.approx(student + 2 / 5 * teacher)
    # Guidance takes a second pass.
    assert teacher == pytest.approx(2 * price(pipelines["tiny-sdxl"], replace(TEACHER, guidance=1.0)))


@pytest.mark.slow
def test_a_small_rollback_leaves_the_students_image(pipelines, scorer):
    first = run(pipelines, scorer, float("-inf"))
    images = [np.asarray(outcome.image, dtype=float) for outcome in first]

    def change(rollback: float, **options) -> float:
        plan = replace(PLAN, correction=Correction(TEACHER, rollback))
        made = run(pipelines, scorer, float("inf"), plan, **options)
        return float(
            np.mean(
                [np.abs(np.asarray(o.image, float) - i).mean() for o, i in zip(made, images, strict=True)]
            )
        )

    changes = [change(rollback) for rollback in (0.004, 0.3, 0.7)]
    assert changes[0] < 4 < changes[1] < changes[2]


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["tiny-sana-small", "tiny-flux"])
def test_what_shares_no_latents_goes_through_pixels(pipelines, scorer, teacher):
    assert share_latents(pipelines["tiny-vega"], pipelines["tiny-sdxl"])
    assert not share_latents(pipelines["tiny-vega"], pipelines[teacher])
    first = run(pipelines, scorer, float("-inf"))
    near = replace(PLAN, correction=Correction(TEACHER, 0.01))
    made = run(pipelines, scorer, float("inf"), near, teacher=teacher)
    change = [
        np.abs(np.asarray(a.image, float) - np.asarray(b.image, float)).mean()
        for a, b in zip(made, first, strict=True)
    ]
    assert np.mean(change) < 10
    assert {outcome.decision for outcome in made} == {"refined"}


@pytest.mark.slow
def test_a_teacher_of_another_resolution_corrects_what_is_scaled_to_its_own(pipelines, scorer):
    side = 64
    larger = replace(TEACHER, resolution_px=side)
    first = run(pipelines, scorer, float("-inf"), replace(PLAN, correction=Correction(larger)))
    assert {outcome.image.size for outcome in first} == {(32, 32)}
    drawn = run(pipelines, scorer, float("inf"), replace(PLAN, correction=Correction(larger)))
    assert all(same(drawn, alone(pipelines["tiny-sdxl"], larger)))
    cost = price(pipelines["tiny-vega"], STUDENT) + price(pipelines["tiny-sdxl"], larger)
    assert {outcome.tflop for outcome in drawn} == {cost}
    # A small rollback changes little of the student's image, which both VAEs could pass on as latents.
    near = run(pipelines, scorer, float("inf"), replace(PLAN, correction=Correction(larger, 0.01)))
    for refined, own in zip(near, first, strict=True):
        assert refined.image.size == (side, side)
        scaled = np.asarray(own.image.resize((side, side), Image.Resampling.BICUBIC), float)
        assert np.abs(np.asarray(refined.image, float) - scaled).mean() < 20
    with pytest.raises(InvalidConfig, match="multiple of 8"):
        run(pipelines, scorer, 0.0, replace(PLAN, correction=Correction(replace(TEACHER, resolution_px=36))))


@pytest.mark.slow
def test_the_seed_decides_and_the_batch_does_not(pipelines, scorer):
    threshold = middle(run(pipelines, scorer, float("-inf")))
    one = run(pipelines, scorer, threshold, REFINE)
    other = run(pipelines, scorer, threshold, replace(REFINE, seed=4))
    assert not any(same(one, [outcome.image for outcome in other]))
    apart = run(pipelines, scorer, threshold, replace(REFINE, batch_size=5))
    for a, b in zip(one, apart, strict=True):
        assert a.decision == b.decision
        assert np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).max() <= 3


@pytest.mark.slow
def test_editing_starts_both_from_the_picture(pipelines, scorer):
    pictures = alone(pipelines["tiny-sdxl"], replace(TEACHER, steps=8))
    for threshold in (float("-inf"), float("inf")):
        slight, strong = (
            run(pipelines, scorer, threshold, replace(PLAN, strength=strength), pictures=pictures)
            for strength in (0.05, 0.8)
        )
        near, far = (
            np.mean(
                [
                    np.abs(np.asarray(o.image, float) - np.asarray(p, float)).mean()
                    for o, p in zip(some, pictures, strict=True)
                ]
            )
            for some in (slight, strong)
        )
        assert near < 6 < 2 * near < far
    with pytest.raises(InvalidPlan, match="a strength and one picture"):
        run(pipelines, scorer, 0.0, replace(PLAN, strength=0.5))


@pytest.mark.slow
def test_a_controlnet_steers_both_and_is_paid_for(pipelines, scorer):
    # A smaller square for each prompt.
    squares = [Image.new("RGB", (24 - 4 * place,) * 2, "white") for place in range(len(PROMPTS))]
    edges = [canny(ImageOps.expand(square, (32 - square.width) // 2)) for square in squares]
    both = [pipelines[name] for name in ("tiny-juggernaut", "tiny-sdxl")]
    plain = [price(loaded, TEACHER) for loaded in both]
    options = {"student": "tiny-juggernaut", "controls": edges}
    plan = replace(PLAN, student=TEACHER)

    def followed(images) -> float:
        pairs = zip(edges, images, strict=True)
        return float(np.mean([edge_agreement(asked, canny(image)) for asked, image in pairs]))

    with pytest.raises(InvalidPlan, match="one control image per prompt"):
        run(pipelines, scorer, 0.0, **options)
    canny_of_sdxl = ROOT / "controls" / "tiny-sdxl-canny"
    with controlled(both[0], canny_of_sdxl), controlled(both[1], canny_of_sdxl):
        with pytest.raises(InvalidPlan, match="one control image per prompt"):
            run(pipelines, scorer, 0.0, student="tiny-juggernaut")
        # A ControlNet is half a U-Net and more.
        first, second = (price(each, TEACHER) for each in both)
        assert 1.2 < first / plain[0] < 2
        for threshold, loaded, tflop in (
            (float("-inf"), both[0], first),
            (float("inf"), both[1], first + second),
        ):
            made = run(pipelines, scorer, threshold, plan, **options)
            config = SampleConfig(len(PROMPTS), TEACHER, 3, 2)
            assert all(same(made, stream_images(loaded, None, PROMPTS, config, controls=edges)))
            assert made[0].tflop == pytest.approx(tflop)
        loose = run(pipelines, scorer, float("inf"), replace(plan, control_scale=0.0), **options)
        follows, strays = (followed([outcome.image for outcome in some]) for some in (made, loose))
        assert follows > strays + 0.1
    # One alone is steered: the other draws as it does.
    with controlled(both[0], canny_of_sdxl):
        made = run(pipelines, scorer, float("inf"), **options)
    assert all(same(made, alone(both[1], TEACHER)))


class Failing:
    """A scorer that cannot read some images and calls others NaN."""

    metric, hash = "fragile", "0" * 16

    def __init__(self, unread: set[str], nan: set[str]) -> None:
        self.unread, self.nan = unread, nan

    def score(self, prompts, images):  # noqa: ARG002
        if self.unread & set(prompts):
            raise ValueError("cannot read it\nat all")
        return np.array([float("nan") if prompt in self.nan else 0.25 for prompt in prompts])


def test_what_the_oracle_cannot_score_is_the_students(pipelines):
    fragile = Failing({PROMPTS[1]}, {PROMPTS[2]})
    made = run(pipelines, fragile, 0.5)
    assert [outcome.decision for outcome in made] == [
        "regenerated",
        "kept",
        "kept",
        "regenerated",
        "regenerated",
    ]
    assert made[1].failure == "fragile failed: cannot read it"
    assert made[2].failure == "fragile is nan"
    student = alone(pipelines["tiny-vega"], STUDENT)
    teacher = alone(pipelines["tiny-sdxl"], TEACHER)
    assert same(made, student)[1:3] == [True, True]
    assert [outcome.score for outcome in made] == [0.25, None, None, 0.25, 0.25]
    # The teacher's batches are other ones, so its images round differently.
    assert np.abs(np.asarray(made[4].image, int) - np.asarray(teacher[4], int)).max() <= 3


@pytest.mark.parametrize("fits", [0, 1])
def test_a_teacher_out_of_memory_leaves_the_students_images(pipelines, scorer, monkeypatch, fits):
    teacher = pipelines["tiny-sdxl"]
    forward = teacher.pipe.unet.forward

    def heavy(sample, *arguments, **named):
        if len(sample) > 2 * fits:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return forward(sample, *arguments, **named)

    monkeypatch.setattr(teacher.pipe.unet, "forward", heavy)
    made = run(pipelines, scorer, float("inf"))
    if fits:
        assert {outcome.decision for outcome in made} == {"regenerated"}
        return
    assert {outcome.failure for outcome in made} == {
        "the teacher failed: Out of memory in sampling: CUDA out of memory."
    }
    assert {(outcome.decision, outcome.steps) for outcome in made} == {("kept", 2)}
    assert all(same(made, alone(pipelines["tiny-vega"], STUDENT)))


def test_what_a_user_can_put_right_is_said(pipelines, scorer):
    with pytest.raises(InvalidPlan, match="NaN"):
        run(pipelines, scorer, float("nan"))
    with pytest.raises(InvalidPlan, match="the same pipeline"):
        run(pipelines, scorer, 0.0, teacher="tiny-vega")
    with pytest.raises(InvalidPlan, match="5 prompts and 1 numbers"):
        run(pipelines, scorer, 0.0, numbers=[1])
    odd, teacher = (replace(each, resolution_px=30) for each in (STUDENT, TEACHER))
    with pytest.raises(InvalidConfig, match="multiple of"):
        run(pipelines, scorer, 0.0, replace(PLAN, student=odd, correction=Correction(teacher)))
    plan = replace(PLAN, correction=Correction(replace(TEACHER, sampler="PNDMScheduler"), 0.5))
    with pytest.raises(InvalidConfig, match="cannot begin"):
        run(pipelines, scorer, float("inf"), plan)


def test_scores_are_the_scorers(pipelines):
    images = alone(pipelines["tiny-vega"], STUDENT)
    expected = Sharpness().score(PROMPTS, images).tolist()
    assert scores_of(Sharpness(), PROMPTS, images) == [(value, None) for value in expected]
