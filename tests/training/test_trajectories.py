"""The latents' way through a sampler's steps, and how far it is from a straight line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.training.config import SampleConfig
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import stream_batches
from matchgraph.training.sampling.trajectories import curvature, followed

CONFIG = SampleConfig(n=3, drawing=Drawing(12, 2.0, resolution_px=32), device="cpu", batch_size=3)
PROMPTS = ["red apple, food and drink", "cat, animal", "clock, object"]


def drawing_as(config: SampleConfig, **changes: object) -> SampleConfig:
    """The same but for how an image is drawn."""
    return replace(config, drawing=replace(config.drawing, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def loaded():
    return {name: LoadedPipeline(ROOT / "models" / name, device="cpu") for name in ("tiny-sdxl", "tiny-sd3")}


def test_a_straight_way_has_no_curvature_and_a_half_circle_a_known_one():
    ends = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    straight = [ends[0] + (ends[1] - ends[0]) * share for share in (0, 0.1, 0.7, 1)]
    assert curvature(straight) == pytest.approx(torch.zeros(2).double(), abs=1e-12)
    angles = torch.linspace(0, torch.pi, 1001).double()
    # Two circles of unlike sizes: a share of the length does not depend on it.
    circle = [torch.stack([a.cos(), a.sin()]) * torch.tensor([[1.0], [7.0]]) for a in angles]
    # Mean height of a half circle over its diameter: 2 / pi of the radius.
    assert curvature(circle).tolist() == pytest.approx([1 / torch.pi] * 2, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sd3"])
def test_following_changes_nothing(loaded, name):
    pipe = loaded[name]
    [plain] = stream_batches(pipe, None, PROMPTS, CONFIG)
    [seen] = stream_batches(pipe, None, PROMPTS, CONFIG, follow=True)
    assert plain.curvature is None
    assert torch.equal(plain.latents, seen.latents)
    assert ((seen.curvature > 0) & (seen.curvature < 1)).all()
    # Batches are followed each for itself.
    single = list(stream_batches(pipe, None, PROMPTS, replace(CONFIG, batch_size=1), follow=True))
    assert torch.cat([batch.curvature for batch in single]).tolist() == pytest.approx(
        seen.curvature.tolist(), rel=1e-3
    )


def test_samplers_agree_on_the_way(loaded):
    """DDIM shrinks latents, Euler adds noise to them as they are: it is one way all the same."""
    found = [
        next(
            stream_batches(
                loaded["tiny-sdxl"], None, PROMPTS, drawing_as(CONFIG, sampler=sampler), follow=True
            )
        ).curvature
        for sampler in (None, "DDIMScheduler")
    ]
    assert found[0].tolist() == pytest.approx(found[1].tolist(), rel=0.02)


def test_every_step_is_kept_if_asked_and_else_the_last(loaded):
    pipe = loaded["tiny-sd3"]
    scheduler = pipe.pipe.scheduler
    with followed(scheduler, whole=True) as trajectory:
        pipe.pipe("cat", num_inference_steps=3, height=32, width=32)
        assert len(trajectory.points) == 4
        kept = [point.clone() for point in trajectory.points]
    with followed(scheduler) as trajectory:
        pipe.pipe("cat", num_inference_steps=3, height=32, width=32, latents=kept[0], output_type="latent")
        assert len(trajectory.points) == 1
        assert torch.equal(trajectory.last, kept[-1])
    assert "step" not in vars(scheduler)
