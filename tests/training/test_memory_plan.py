"""Memory of the ten published models from their configs, and plans that fit real cards."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from matchgraph.training.memory.footprint import Footprint, footprint
from matchgraph.training.memory.plan import GIB, STAGES, Work, plan_memory
from tests.training import published

ZOO = Path(__file__).parents[2] / "zoo"
# One of each architecture: the others' networks are those of one of these, or smaller.
MODELS = ("sd-1.5", "sdxl-base", "kolors", "sd-3.5-medium", "sana-1.5-4.8b", "pixart-sigma", "flux-1-dev")
# GiB of weights and passes in bfloat16 with a batch of 8 at 512 pixels: plain, and with checkpointing. Traced
# block by block with the types of autocast on CUDA, by another program.
KNOWN = {
    "sd-1.5": (10.3, 3.7),
    "sdxl-base": (19.9, 6.4),
    "kolors": (21.2, None),
    "sd-3.5-medium": (24.7, 6.8),
    "sana-1.5-4.8b": (37.2, None),
    "flux-1-dev": (103.7, 29.9),
}
# As ViT-L/14 and Inception take.
WORK = Work(batch_size=8, sampling_batch=8, prompt_batch=16, image_batch=16, instrument_bytes=2 * GIB)


@cache
def traced(model: str) -> Footprint:
    return footprint(ZOO / model, precision="bf16", resolution_px=512)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model_fits_a_card_of_24_gib(model):
    found = traced(model)
    plan = plan_memory(found, 24 * GIB, WORK)
    assert not plan.too_large
    assert set(plan.peaks) == set(STAGES)
    assert max(plan.peaks.values()) <= 24 * GIB
    if model in ("sd-1.5", "sdxl-base"):
        assert not plan_memory(found, 12 * GIB, WORK).too_large
    if model in KNOWN:
        weights = found.weights(found.denoiser)
        for hull, known in zip((found.training, found.checkpointed), KNOWN[model], strict=True):
            if known:
                assert (hull.at(8) + weights) / GIB == pytest.approx(known, rel=0.08)
    # A larger card gives up less.
    assert len(plan_memory(found, 160 * GIB, WORK).choices()) <= len(plan.choices())


# Families of which no model is in the zoo.
@pytest.mark.slow
@pytest.mark.parametrize("name", published.MODELS)
def test_stages_of_other_families_are_traced(tiny_folder, name):
    found = footprint(tiny_folder(name), precision="bf16", resolution_px=32)
    assert found.checkpointed is not None
    assert 0 < found.checkpointed.at(8) < found.training.at(8)
    for hull in (found.text, found.encode, found.training, found.sampling, found.decode):
        assert 0 < hull.at(1) < hull.at(8)


@pytest.mark.slow
def test_a_plan_that_proved_too_large_is_followed_by_smaller_ones_until_none_is_left():
    plan = plan_memory(traced("sd-1.5"), 160 * GIB, WORK)
    assert plan.choices() == []
    ladder = [plan]
    while (smaller := ladder[-1].smaller("training")) is not None:
        ladder.append(smaller)
    peaks = [plan.peaks["training"] for plan in ladder]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(ladder) > 3
    assert (ladder[0].micro_batch, ladder[0].gradient_checkpointing) == (8, False)
    assert (ladder[-1].micro_batch, ladder[-1].placement.training_offload) == (1, True)
    # Another stage is left alone.
    assert {plan.sampling_batch for plan in ladder} == {8}
    assert plan.smaller("sampling").sampling_batch < 8


@pytest.mark.slow
def test_what_the_user_decided_stays():
    work = Work(8, 8, 16, 16, micro_batch=2, gradient_checkpointing=False, placement={"parked": False})
    plan = plan_memory(traced("sdxl-base"), 12 * GIB, work)
    assert (plan.micro_batch, plan.gradient_checkpointing, plan.placement.parked) == (2, False, False)


def test_what_fits_nowhere_is_named():
    plan = plan_memory(traced("flux-1-dev"), 3 * GIB, WORK)
    assert "training" in plan.too_large
    assert plan.smaller("training") is None
