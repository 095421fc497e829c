"""Denoisers with frozen weights in fewer bits: what they take, and that LoRAs train and resume on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import InvalidConfig, MissingLibrary
from matchgraph.training.memory.footprint import footprint
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.placement import Placement, in_turn
from matchgraph.training.pipelines.quantisation import quantise
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.optimisers import make_optimiser

TINY = FineTuneConfig(
    steps=4, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu",
    quantisation="int8",
)  # fmt: skip
SAMPLES = SampleConfig(
    n=2, drawing=Drawing(2, resolution_px=32), batch_size=2, device="cpu", quantisation="int8"
)


def need(kind: str) -> None:
    """Skip what needs a package that peft would import for every adapter, which takes seconds."""
    if kind != "int8":
        pytest.importorskip("bitsandbytes")


def weights(module: torch.nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_the_estimate_has_the_bytes_of_the_real_weights(tiny_folder, name, kind):
    need(kind)
    exact, found = (
        footprint(tiny_folder(name), precision="bf16", resolution_px=32, quantisation=each)
        for each in ("none", kind)
    )
    with LoadedPipeline(tiny_folder(name), device="cpu", precision="bf16", quantisation=kind) as loaded:
        assert found.weights(found.denoiser) == weights(loaded.family.denoiser(loaded.pipe))
    # In blocks, of which layers are but a part in a U-Net.
    parts = [one.parts[one.denoiser] for one in (exact, found)]
    assert parts[1].in_blocks < 0.9 * parts[0].in_blocks
    assert found.trained == exact.trained
    # What only a weight's gradient needs is not kept; a dequantised weight is there for a moment.
    assert 0 < found.training.at(64) <= 1.02 * exact.training.at(64)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_lora_trains_resumes_and_comes_back_on_quantised_weights(tiny_folder, dataset, tmp_path, name):
    with LoadedPipeline(tiny_folder(name), device="cpu", quantisation="int8") as loaded:
        denoiser = loaded.family.denoiser(loaded.pipe)
        before = {key: value.clone() for key, value in denoiser.state_dict().items()}
        whole = fine_tune(loaded, dataset, TINY, tmp_path / "whole")

        def stop(step: int, _: float) -> None:
            if step == 2:
                raise KeyboardInterrupt

        kept = Checkpoints(tmp_path / "kept", 1, tmp_path / "kept")
        with pytest.raises(KeyboardInterrupt):
            fine_tune(loaded, dataset, TINY, tmp_path / "parts", stop, checkpoints=kept)
        parts = fine_tune(loaded, dataset, TINY, tmp_path / "parts", checkpoints=kept)
        assert parts.happened["resumed_at"] == [2]
        assert (parts.losses, parts.sha256) == (whole.losses, whole.sha256)
        assert all(torch.equal(value, before[key]) for key, value in denoiser.state_dict().items())
        tuned, plain = (
            [image.tobytes() for image in sample_images(loaded, adapter, ["a cat"], SAMPLES)]
            for adapter in (whole.adapter, None)
        )
        assert tuned != plain
        with pytest.raises(InvalidConfig, match="loaded in int8"):
            sample_images(loaded, None, ["a cat"], replace(SAMPLES, quantisation="none"))
    exact = fine_tune(
        tiny_folder(name), dataset, replace(TINY, quantisation="none"), tmp_path / "exact"
    ).losses
    assert exact != whole.losses
    assert exact == pytest.approx(whole.losses, rel=0.05)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_layer_is_nearly_what_it_was_and_its_gradient_too(kind):
    need(kind)
    torch.manual_seed(0)
    block = torch.nn.Module()
    block.transformer_blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(128, 64))])
    exact, rows = block.transformer_blocks[0][0], torch.randn(5, 128, requires_grad=True)
    exact.weight.data[3] = 0
    wanted = exact(rows)
    wanted.sum().backward()
    gradient, rows.grad = rows.grad, None
    quantise(block, kind)
    layer = block.transformer_blocks[0][0]
    error = 0.01 if kind == "int8" else 0.2
    found = layer(rows)
    found.sum().backward()
    assert not layer.weight.requires_grad
    assert (found - wanted).abs().max() < error * wanted.abs().max()
    assert (rows.grad - gradient).abs().max() < error * gradient.abs().max()
    assert layer(rows.to(torch.bfloat16)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rows).dtype == torch.bfloat16
    # Moved by blocks, it gives the same.
    with in_turn(block, torch.device("cpu")), torch.no_grad():
        assert torch.equal(layer(rows), found)


def test_scales_of_int8_are_not_rounded_to_the_weights_precision():
    block = torch.nn.Module()
    block.transformer_blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(128, 64))])
    linear = block.transformer_blocks[0][0].to(torch.bfloat16)
    torch.nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(0))
    exact = linear.weight.detach().float()
    quantise(block, "int8")
    layer = block.transformer_blocks[0][0]
    scales = exact.abs().amax(dim=1, keepdim=True) / 127
    assert torch.equal(layer.dense_weight(), (layer.weight * scales).to(torch.bfloat16))


def test_what_cannot_be_done_is_said(monkeypatch, tiny_folder):
    with pytest.raises(InvalidConfig, match="--method lora"):
        replace(TINY, method="full")
    # As where it is not installed.
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingLibrary, match=r"matchgraph\[quantised\]"):
        LoadedPipeline(tiny_folder("sd"), device="cpu", placement=Placement(parked=True), quantisation="nf4")
    with pytest.raises(MissingLibrary, match=r"matchgraph\[quantised\]"):
        make_optimiser("adamw8bit", [], learning_rate=1.0, weight_decay=0.0)


def test_a_run_with_8_bit_moments_resumes_as_if_it_had_not_been_stopped(tiny_folder, dataset, tmp_path):
    need("adamw8bit")
    # Wide enough for moments of 8 bits: smaller parameters have theirs in float32.
    config = replace(
        TINY, rank=512, alpha=512, learning_rate=1e-4, quantisation="none", optimiser="adamw8bit"
    )
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        whole = fine_tune(loaded, dataset, config, tmp_path / "whole")

        def stop(step: int, _: float) -> None:
            if step == 2:
                raise KeyboardInterrupt

        kept = Checkpoints(tmp_path / "kept", 1, tmp_path / "kept")
        with pytest.raises(KeyboardInterrupt):
            fine_tune(loaded, dataset, config, tmp_path / "parts", stop, checkpoints=kept)
        parts = fine_tune(loaded, dataset, config, tmp_path / "parts", checkpoints=kept)
        plain = fine_tune(loaded, dataset, replace(config, optimiser="adamw"), tmp_path / "plain")
    assert (parts.losses, parts.sha256) == (whole.losses, whole.sha256)
    assert plain.losses != whole.losses
    assert plain.losses == pytest.approx(whole.losses, rel=0.05)
