"""Parts that wait for their turn change nothing of what comes out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.placement import Block, Placement, blocks_of, placed
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.loop import Training, attached
from matchgraph.training.tune.methods import Lora

EVERYTHING = Placement(
    parked=True, encoder_offload=True, training_offload=True, sampling_offload=True, vae_slicing=True
)


@pytest.fixture
def presence(monkeypatch):
    """How many blocks had their weights at once: now, and at most."""
    count = {"now": set(), "most": 0}
    come, leave = Block.come, Block.leave

    def coming(block):
        come(block)
        count["now"].add(id(block))
        count["most"] = max(count["most"], len(count["now"]))

    def leaving(block):
        leave(block)
        count["now"].discard(id(block))

    monkeypatch.setattr(Block, "come", coming)
    monkeypatch.setattr(Block, "leave", leaving)
    return count


@pytest.mark.parametrize("name", ["flux", "sana", "sdxl"])
def test_blocks_that_come_in_turn_train_and_draw_the_same(tiny_folder, dataset, presence, name):
    config = FineTuneConfig(
        steps=2, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu",
        gradient_checkpointing=True,
    )  # fmt: skip
    sampling = SampleConfig(n=2, drawing=Drawing(2, resolution_px=32), batch_size=2, device="cpu")
    results = []
    for placement in (Placement(), EVERYTHING):
        with LoadedPipeline(tiny_folder(name), device="cpu", placement=placement) as loaded:
            data = encode_dataset(loaded, dataset, resolution_px=32, seed=0)
            with (
                attached(loaded, Lora(2, 2), config) as parameters,
                placed(loaded, "denoiser", training=True),
            ):
                training = Training(loaded, parameters, data, config)
                losses = [training.step(1), training.step(2)]
                outside = len(presence["now"])
            images = sample_images(loaded, None, ["a", "b"], sampling)
            blocks = len(blocks_of(loaded.family.denoiser(loaded.pipe)))
        results.append((losses, np.stack([np.asarray(image, dtype=int) for image in images])))
    (losses, images), (other_losses, other_images) = results
    # But for the last bits, since gradients are added up in another order. The second step's loss has the
    # first one's gradients in it.
    assert other_losses == pytest.approx(losses, rel=1e-5)
    assert abs(other_images - images).max() <= 1
    # U-Nets call a few blocks without checkpointing, and those stay while they train.
    assert presence["most"] <= 1 + outside
    assert blocks > presence["most"] >= 1
    assert not presence["now"]


class Watched(torch.nn.Module):
    """A module with a name, to see where it is sent for lack of a GPU."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.called = name


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_encoders_leave_the_gpu_in_training_and_come_back(monkeypatch, fails, parked):
    moves: list[tuple[str, str]] = []
    parts = {name: Watched(name) for name in ("vae", "text_encoder", "unet")}
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda part, device: moves.append((part.called, str(device))) or part
    )
    pipe = SimpleNamespace(components={**parts, "scheduler": object(), "text_encoder_2": None})
    family = SimpleNamespace(denoiser=lambda _: parts["unet"], denoiser_attribute="unet")
    loaded = SimpleNamespace(
        pipe=pipe, family=family, device=torch.device("cuda"), placement=Placement(parked=parked)
    )
    try:
        with placed(loaded, "denoiser", training=True):
            assert moves == [("vae", "cpu"), ("text_encoder", "cpu"), ("unet", "cuda")]
            moves.clear()
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    # Parts that wait come when they are needed.
    assert moves == ([] if parked else [("vae", "cuda"), ("text_encoder", "cuda")])


def test_a_stage_brings_what_it_needs_and_sends_the_rest_away():
    with pytest.MonkeyPatch.context() as patched:
        moves: list[tuple[str, str]] = []
        parts = {name: Watched(name) for name in ("vae", "text_encoder", "unet")}
        patched.setattr(
            torch.nn.Module, "to", lambda part, device: moves.append((part.called, str(device))) or part
        )
        family = SimpleNamespace(denoiser=lambda _: parts["unet"], denoiser_attribute="unet")
        loaded = SimpleNamespace(
            pipe=SimpleNamespace(components=parts),
            family=family,
            device=torch.device("cuda"),
            placement=Placement(parked=True),
        )
        with placed(loaded, "denoiser", "vae"):
            assert moves == [("text_encoder", "cpu"), ("vae", "cuda"), ("unet", "cuda")]
        loaded.placement, moves[:] = Placement(), []
        with placed(loaded, "text"):
            assert moves == [("text_encoder", "cuda")]
