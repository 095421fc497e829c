"""Traced peaks are those of the real tensors of a training step, with and without gradient checkpointing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from matchgraph.training.config import FineTuneConfig
from matchgraph.training.memory.footprint import Footprint, footprint
from matchgraph.training.memory.tracing import TRACED_ROWS, Hull, Tracer
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import Lora
from tests.training import tiny

ROWS = 3


def test_a_hull_is_the_highest_line_at_every_number_of_rows():
    points = [(100, 0), (0, 10), (50, 5), (10, 1), (20, 9)]
    hull = Hull.over(points)
    assert (10, 1) not in hull.lines
    for rows in (0, 1, 5, 10, 50):
        assert hull.at(rows) == max(fixed + per_row * rows for fixed, per_row in points)


@cache
def traced(folder: Path) -> Footprint:
    return footprint(folder, precision="fp32", resolution_px=tiny.RESOLUTION_PX, rank=2)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["flux", "sana", "sd"])
def test_training_takes_what_was_estimated(tiny_folder, name, checkpointing):
    folder = tiny_folder(name)
    estimated = traced(folder)
    hull = estimated.checkpointed if checkpointing else estimated.training
    assert hull is not None
    config = FineTuneConfig(
        rank=2, alpha=2, gradient_checkpointing=checkpointing, resolution_px=tiny.RESOLUTION_PX
    )
    with LoadedPipeline(folder, device="cpu") as loaded, attached(loaded, Lora(2, 2), config):
        family, pipe = loaded.family, loaded.pipe
        denoiser = family.denoiser(pipe)
        rows = family.encode_prompts(pipe, ["a"] * ROWS)
        side = tiny.RESOLUTION_PX
        rows |= family.image_conditioning(pipe, [(side, side)] * ROWS, [(side, side)] * ROWS)
        latent = side // pipe.vae_scale_factor
        latents = torch.randn(ROWS, pipe.vae.config.latent_channels, latent, latent)
        trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        tracer = Tracer()
        tracer.know([*denoiser.parameters(), *denoiser.buffers(), *rows.values(), latents])
        tracer.know([parameter.grad for parameter in trained])
        with tracer.watching():
            family.loss(pipe, denoiser, latents, rows, torch.Generator().manual_seed(0)).backward()
    real = tracer.hull().at(TRACED_ROWS)
    assert sum(parameter.numel() for parameter in trained) == estimated.trained
    # At this size what is held for a moment counts for more than in real models.
    assert 0.95 * real <= hull.at(ROWS) <= 1.25 * real, hull.at(ROWS) / real
