"""The loop's parts: accumulation, loss scaling, compilation, gradient checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import InvalidConfig, NonFiniteLoss
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune import loop
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.loop import Training, attached
from matchgraph.training.tune.methods import Lora

CONFIG = {
    "steps": 3,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "rank": 2,
    "alpha": 4,
    "resolution_px": 32,
    "device": "cpu",
}


def config(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**(CONFIG | changes))


@pytest.fixture(scope="module")
def pixart(tiny_folder):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def half(tiny_folder):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu", precision="fp16") as loaded:
        yield loaded


@pytest.mark.parametrize(("name", "buckets"), [("pixart", False), ("pixart", True), ("sd3", False)])
def test_a_step_is_the_same_in_one_pass_and_in_several(
    tiny_folder, dataset, mixed, monkeypatch, name, buckets
):
    seen = []
    own_clip = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        parameters = list(parameters)
        seen.append([parameter.grad.clone() for parameter in parameters])
        return own_clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    losses = []
    with LoadedPipeline(tiny_folder(name), device="cpu") as loaded:
        folder = mixed if buckets else dataset
        data = encode_dataset(loaded, folder, resolution_px=32, seed=0, aspect_buckets=buckets)
        for split in (
            {"batch_size": 6},
            {"batch_size": 2, "gradient_accumulation": 3},
            {"batch_size": 1, "gradient_accumulation": 6, "gradient_checkpointing": True},
        ):
            asked = config(**split)
            with attached(loaded, Lora(2, 4), asked) as parameters:
                training = Training(loaded, parameters, data, asked)
                losses.append([training.step(1), training.step(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][0] != losses[0][1]
    for split in (2, 4):
        for one, other in zip(seen[0], seen[split], strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)


def test_gradient_checkpointing_changes_no_loss_and_ends_with_the_run(pixart, dataset, tmp_path, monkeypatch):
    plain = fine_tune(pixart, dataset, config(), tmp_path / "a")
    active = []
    own_loss = type(pixart.family).loss

    def loss(family, pipe, denoiser, *given):
        active.append(denoiser.is_gradient_checkpointing)
        return own_loss(family, pipe, denoiser, *given)

    monkeypatch.setattr(type(pixart.family), "loss", loss)
    saving = fine_tune(pixart, dataset, config(gradient_checkpointing=True), tmp_path / "b")
    assert active == [True] * 3
    assert saving.losses == pytest.approx(plain.losses, rel=1e-5)
    assert not pixart.family.denoiser(pixart.pipe).is_gradient_checkpointing


def test_gradient_checkpointing_is_refused_where_there_is_none(pixart, dataset, tmp_path, monkeypatch):
    denoiser = type(pixart.family.denoiser(pixart.pipe))
    monkeypatch.setattr(denoiser, "_supports_gradient_checkpointing", False)
    with pytest.raises(InvalidConfig, match="no gradient checkpointing"):
        fine_tune(pixart, dataset, config(gradient_checkpointing=True), tmp_path)


def test_float16_trains_on_the_cpu_too(half, dataset, tmp_path):
    asked = config(precision="fp16", steps=16, batch_size=5, rank=8, learning_rate=5e-3)
    record = fine_tune(half, dataset, asked, tmp_path)
    assert sum(record.losses[-5:]) < sum(record.losses[:5])
    assert record.happened["skipped_steps"] < 5


def test_a_step_that_overflows_in_float16_leaves_the_weights_alone(half, dataset, monkeypatch):
    data = encode_dataset(half, dataset, resolution_px=32, seed=0)
    asked = config(precision="fp16")
    own_loss = type(half.family).loss
    with attached(half, Lora(2, 4), asked) as parameters:
        training = Training(half, parameters, data, asked)
        training.step(1)
        before = {name: parameter.clone() for name, parameter in parameters.items()}
        scale = training.scaler["scale"]
        # Finite itself, and beyond float32 only once it is scaled up.
        monkeypatch.setattr(type(half.family), "loss", lambda *given: own_loss(*given) * 1e36)
        training.step(2)
        assert all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())
        assert training.skipped_steps == 1
        assert training.scaler["scale"] == scale / 2
        monkeypatch.setattr(type(half.family), "loss", own_loss)
        training.step(3)
        assert not all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())
        assert training.skipped_steps == 1


def test_gradients_that_are_never_finite_stop_a_float16_run(half, dataset, tmp_path, monkeypatch):
    own_loss = type(half.family).loss

    def steep(*given):
        loss = own_loss(*given)
        # The square root of 0 has an infinite slope at any scale.
        return loss + torch.sqrt(loss - loss.detach())

    monkeypatch.setattr(type(half.family), "loss", steep)
    with pytest.raises(NonFiniteLoss, match="or fp32"):
        fine_tune(half, dataset, config(precision="fp16", steps=100), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_compiled_denoiser_trains_the_same(pixart, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "COMPILE_BACKEND", "eager")
    plain = fine_tune(pixart, dataset, config(steps=2), tmp_path / "a")
    calls = []
    own_call = torch._dynamo.eval_frame.OptimizedModule.__call__

    def call(module, *given, **named):
        calls.append(module)
        return own_call(module, *given, **named)

    monkeypatch.setattr(torch._dynamo.eval_frame.OptimizedModule, "__call__", call)
    compiled = fine_tune(pixart, dataset, config(steps=2, compile=True), tmp_path / "b")
    assert compiled.used["compiled"]
    assert compiled.happened["notes"] == []
    # One trial and two steps.
    assert len(calls) == 3
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-5)
    # Another run on the same pipeline is not affected.
    assert fine_tune(pixart, dataset, config(steps=2), tmp_path / "c").sha256 == plain.sha256


@pytest.mark.slow
def test_every_bucket_is_compiled(pixart, mixed, tmp_path, monkeypatch):
    # A step each, as no bucket has more images.
    asked, shapes = config(batch_size=6, compile=True, aspect_buckets=True), set()

    def backend(graph, given):
        for each in given:
            if isinstance(each, torch.Tensor) and each.ndim == 4 and len(each) == asked.batch_size:
                shapes.add(tuple(each.shape[2:]))
        return graph.forward

    monkeypatch.setattr(loop, "COMPILE_BACKEND", backend)
    # As if there were more buckets than torch compiles a network for by default.
    monkeypatch.setattr(torch._dynamo.config, "cache_size_limit", 1)
    assert fine_tune(pixart, mixed, asked, tmp_path).used["compiled"]
    assert shapes == {(8, 8), (6, 10), (10, 6)}


@pytest.mark.slow
def test_where_compilation_fails_the_plain_denoiser_trains(pixart, dataset, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here\nwith a long story")

    monkeypatch.setattr(loop, "COMPILE_BACKEND", broken)
    plain = fine_tune(pixart, dataset, config(steps=2), tmp_path / "a")
    fallen_back = fine_tune(pixart, dataset, config(steps=2, compile=True), tmp_path / "b")
    assert not fallen_back.used["compiled"]
    [note] = fallen_back.happened["notes"]
    assert note.startswith("torch.compile failed")
    assert "\n" not in note
    # Bit for bit: the trial drew no number that the run draws.
    assert fallen_back.sha256 == plain.sha256
    assert fallen_back.losses == plain.losses
