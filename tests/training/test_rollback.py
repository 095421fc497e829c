"""Beginning with a noised picture: the schedule's end alone, from the right level, in every family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.families import FAMILIES
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.rollback import Start, noised, rolled_back
from matchgraph.training.sampling.generate import sample_images, start_with, stream_batches

NAMES = sorted(FAMILIES)
CONFIG = SampleConfig(n=2, drawing=Drawing(4, 3.0, resolution_px=32), seed=42, device="cpu", batch_size=2)
PROMPTS = ["red apple, food and drink", "cat, animal"]
REAL = ("tiny-sdxl", "tiny-sd3", "tiny-flux", "tiny-pixart", "tiny-sana-small")


def drawing_as(config: SampleConfig, **changes: object) -> SampleConfig:
    """The same but for how an image is drawn."""
    return replace(config, drawing=replace(config.drawing, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real():
    """Trained pipelines, whose images mean something."""
    return {name: LoadedPipeline(ROOT / "models" / name, device="cpu") for name in REAL}


def distance(one, other) -> float:
    """Mean absolute difference of two images, of 255."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_the_latents_are_those_that_the_images_were_decoded_from(tiny_folder, name):
    with LoadedPipeline(tiny_folder(name), device="cpu") as loaded:
        batches = list(stream_batches(loaded, None, PROMPTS, replace(CONFIG, n=3)))
        images = [image for batch in batches for image in batch.images]
        assert [len(batch.images) for batch in batches] == [len(batch.latents) for batch in batches] == [2, 1]
        plain = sample_images(loaded, None, PROMPTS, replace(CONFIG, n=3))
        assert [image.tobytes() for image in images] == [image.tobytes() for image in plain]
        # A picture's own latents are of the same form.
        begun = start_with(loaded, batches[0].images, 32, 0.5)
        assert begun.latents.shape == batches[0].latents.shape


# Every family of models, and every sampler on noise and on flows; Sana's own is DPM-Solver's of flows.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("tiny-sdxl", None),
        ("tiny-sdxl", "DPMSolverMultistepScheduler"),
        ("tiny-pixart", "UniPCMultistepScheduler"),
        ("tiny-sd3", "UniPCMultistepScheduler"),
        ("tiny-flux", None),
        ("tiny-sana-small", None),
    ],
)
def test_the_farther_it_is_rolled_back_the_more_is_drawn_again(real, name, sampler):
    loaded = real[name]
    config = drawing_as(CONFIG, sampler=sampler)
    first = next(stream_batches(loaded, None, PROMPTS, drawing_as(config, steps=8)))

    def again(start: Start, steps: int = 4) -> list[Image.Image]:
        asked = drawing_as(config, steps=steps)
        return list(next(stream_batches(loaded, None, PROMPTS, asked, start=start)).images)

    changes = []
    for strength in (0.01, 0.3, 0.7):
        made = again(Start(first.latents, strength))
        changes.append(np.mean([distance(*pair) for pair in zip(made, first.images, strict=True)]))
    assert changes[0] < 3 < changes[1] < changes[2]
    # Near the schedule's beginning hardly anything is left of what it was. (With few steps the schedule of
    # SDXL, whose steps lead, begins well below noise alone.)
    ends = zip(
        *(again(Start(latents, 0.999), 10) for latents in (first.latents.flip(0), first.latents)), strict=True
    )
    assert np.mean([distance(*pair) for pair in ends]) < distance(*first.images) / 4


def test_noise_and_schedule_are_the_samplers_own(real):
    """Of 8 steps the last 4, from the level of their first, by the process of the scheduler."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler.from_config(real["tiny-sdxl"].pipe.scheduler.config)
    whole = DPMSolverMultistepScheduler.from_config(scheduler.config)
    whole.set_timesteps(8)
    clean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    noise = torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
    with rolled_back(scheduler, 4, 0.5) as total:
        assert total == 8
        made = noised(scheduler, clean, generators, lambda: scheduler.set_timesteps(total))
        assert scheduler.timesteps.tolist() == whole.timesteps.tolist()[4:]
        assert torch.equal(scheduler.sigmas, whole.sigmas[4:])
    kept = scheduler.alphas_cumprod[int(whole.timesteps[4])]
    assert torch.allclose(made, kept.sqrt() * clean + (1 - kept).sqrt() * noise, atol=1e-3)
    scheduler.set_timesteps(8)
    assert len(scheduler.timesteps) == 8


def test_samplers_agree_on_where_they_begin(real):
    """Euler's sampler scales noise otherwise than the others, who are as far from the picture for it."""
    loaded = real["tiny-sdxl"]
    first = next(stream_batches(loaded, None, PROMPTS, drawing_as(CONFIG, steps=8)))
    images = [
        next(
            stream_batches(
                loaded, None, PROMPTS, drawing_as(CONFIG, sampler=sampler), start=Start(first.latents, 0.7)
            )
        ).images
        for sampler in (None, "DPMSolverMultistepScheduler", "DDIMScheduler")
    ]
    for other in images[1:]:
        assert np.mean([distance(*pair) for pair in zip(images[0], other, strict=True)]) < 8


def test_a_picture_does_not_depend_on_the_batch(real):
    loaded = real["tiny-sd3"]
    first = next(stream_batches(loaded, None, PROMPTS, CONFIG))
    start = Start(first.latents, 0.5)
    together = next(stream_batches(loaded, None, PROMPTS, CONFIG, start=start)).images
    apart = stream_batches(loaded, None, PROMPTS, replace(CONFIG, batch_size=1), start=start)
    for one, other in zip(together, (batch.images[0] for batch in apart), strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2


@pytest.mark.parametrize("strength", [0.0, 1.0, -0.1, float("nan")])
def test_a_rollback_is_a_share(strength):
    with pytest.raises(InvalidConfig, match="above 0 and below 1"):
        Start(torch.zeros(1, 4, 4, 4), strength)


@pytest.mark.parametrize(
    "sampler", ["PNDMScheduler", "HeunDiscreteScheduler", "DPMSolverSinglestepScheduler"]
)
def test_samplers_of_several_calls_a_step_are_refused(real, sampler):
    loaded = real["tiny-sdxl"]
    start = Start(torch.zeros(2, 8, 8, 8), 0.5)
    with pytest.raises(InvalidConfig, match=f"{sampler} cannot begin"):
        next(stream_batches(loaded, None, PROMPTS, drawing_as(CONFIG, sampler=sampler), start=start))
    # It is left as it was.
    assert len(sample_images(loaded, None, PROMPTS, CONFIG)) == 2
