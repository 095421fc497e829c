"""ControlNets: nothing before training, the right rows after, resumed as if never stopped, and off again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from matchgraph.drawing import Drawing
from matchgraph.minizoo.build.controlnet import (
    RECORD_FILE,
    ControlConfig,
    ControlImages,
    ControlledDenoiser,
    ControlMethod,
    embedding_widths,
    train_controlnet,
)
from matchgraph.minizoo.build.controls import CONFIG as SHIPPED_CONFIG
from matchgraph.minizoo.build.controls import SHIPPED, TEACHER, evaluate, held_out
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import (
    BadControlNet,
    CheckpointMismatch,
    InvalidConfig,
    NonFiniteLoss,
    UnsafeWeights,
)
from matchgraph.training.pipelines.adapters import attach_adapter, detach_adapter, save_adapter
from matchgraph.training.pipelines.controlnet import CONFIG_FILE, WEIGHTS_FILE, controlled, load_controlnet
from matchgraph.training.pipelines.encoding import EncodedDataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import start_with, stream_batches, stream_images
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.loop import purpose_generator

FAMILIES = ("sd", "sdxl")
PROMPTS = ("a cat", "dogs", "a sea")
SAMPLING = SampleConfig(n=3, drawing=Drawing(2, 4.0, resolution_px=32), batch_size=3, device="cpu")
CONFIG = ControlConfig(steps=4, batch_size=2, learning_rate=1e-2, resolution_px=32, device="cpu")


class Stop(Exception):
    """A stop in the middle of a run."""


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return {name: LoadedPipeline(tiny_folder(name), device="cpu") for name in FAMILIES}


@pytest.fixture(scope="module")
def controls() -> list[Image.Image]:
    half = Image.new("RGB", (32, 32))
    half.paste((255, 255, 255), (0, 0, 16, 32))
    return [Image.new("RGB", (32, 32)), half, Image.new("RGB", (32, 32), (255, 200, 255))]


@pytest.fixture(scope="module")
def controlnets(loaded, tmp_path_factory):
    """An untrained ControlNet of each family, and one whose every layer says something."""
    saved = {}
    for name, one in loaded.items():
        method = ControlMethod(CONFIG)
        method.attach(one, purpose_generator(1, "adapter"))
        saved[name, "fresh"] = tmp_path_factory.mktemp(f"fresh-{name}")
        method.save(one, saved[name, "fresh"])
        generator = torch.Generator().manual_seed(2)
        for parameter in method.controlnet.parameters():
            if not parameter.any():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        # Black and white are to be far apart.
        method.controlnet.controlnet_cond_embedding.conv_out.weight.data.mul_(30)
        saved[name, "trained"] = tmp_path_factory.mktemp(f"trained-{name}")
        method.save(one, saved[name, "trained"])
    return saved


def draw(loaded: LoadedPipeline, **changes: Any) -> list[Image.Image]:
    named = {key: changes.pop(key) for key in ("controls", "control_scale") if key in changes}
    if drawing := {key: changes.pop(key) for key in ("sampler", "cache_interval") if key in changes}:
        changes["drawing"] = replace(SAMPLING.drawing, **drawing)
    return list(stream_images(loaded, None, PROMPTS, replace(SAMPLING, **changes), **named))


def difference(some: list[Image.Image], others: list[Image.Image]) -> int:
    pairs = zip(some, others, strict=True)
    return max(int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()) for a, b in pairs)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_untrained_controlnet_changes_nothing(loaded, controlnets, controls, name):
    plain = draw(loaded[name])
    with controlled(loaded[name], controlnets[name, "fresh"]):
        assert difference(draw(loaded[name], controls=controls), plain) <= 1
    with controlled(loaded[name], controlnets[name, "trained"]):
        assert difference(draw(loaded[name], controls=controls), plain) > 20
        assert difference(draw(loaded[name], controls=controls, control_scale=0.0), plain) <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_is_as_before_after_it_was_controlled(loaded, controlnets, controls, name):
    plain, pipe = draw(loaded[name]), loaded[name].pipe
    with controlled(loaded[name], controlnets[name, "trained"]):
        # No copy of the weights.
        assert loaded[name].pipe.unet is pipe.unet
        assert loaded[name].pipe.vae is pipe.vae
        draw(loaded[name], controls=controls, sampler="DDPMScheduler")
    assert loaded[name].pipe is pipe
    assert [image.tobytes() for image in draw(loaded[name])] == [image.tobytes() for image in plain]
    with pytest.raises(Stop), controlled(loaded[name], controlnets[name, "trained"]):
        raise Stop
    assert loaded[name].pipe is pipe


@pytest.mark.parametrize("name", FAMILIES)
def test_each_image_has_its_own_control_whatever_the_batch(loaded, controlnets, controls, name):
    with controlled(loaded[name], controlnets[name, "trained"]):
        together = draw(loaded[name], controls=controls)
        assert difference(draw(loaded[name], controls=controls, batch_size=1), together) <= 1
        assert difference(draw(loaded[name], controls=controls, batch_size=2), together) <= 1
        others = draw(loaded[name], controls=[controls[0], controls[2], controls[2]])
        assert difference([others[0]], [together[0]]) == 0
        assert difference([others[2]], [together[2]]) == 0
        assert difference([others[1]], [together[1]]) > 5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_controlled_pipeline_takes_an_adapter_and_gives_it_back(
    loaded, controlnets, controls, tmp_path, name
):
    one = loaded[name]
    generator = torch.Generator().manual_seed(1)
    for parameter in attach_adapter(one.pipe, one.family, rank=4, alpha=6, generator=generator):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save_adapter(one.pipe, one.family, tmp_path)
    detach_adapter(one.pipe, one.family)
    with controlled(one, controlnets[name, "trained"]):
        plain = draw(one, controls=controls)
        adapted = list(stream_images(one, tmp_path, PROMPTS, SAMPLING, controls=controls))
        assert difference(adapted, plain) > 3
        assert difference(draw(one, controls=controls), plain) == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_controlled_pipeline_refines_a_picture(loaded, controlnets, controls, name):
    one = loaded[name]
    sampling = replace(SAMPLING, drawing=replace(SAMPLING.drawing, sampler="DPMSolverMultistepScheduler"))
    start = start_with(one, controls, 32, 0.5)
    drawn = {}
    for kind in ("fresh", "trained"):
        with controlled(one, controlnets[name, kind]):
            (batch,) = stream_batches(one, None, PROMPTS, sampling, start=start, controls=controls)
        drawn[kind] = batch.images
    (plain,) = stream_batches(one, None, PROMPTS, sampling, start=start)
    assert difference(drawn["fresh"], plain.images) <= 1
    assert difference(drawn["trained"], plain.images) > 5


def test_control_images_are_scaled_to_the_resolution(loaded, controlnets, controls):
    large = [image.resize((96, 96), Image.Resampling.NEAREST) for image in controls]
    grey = [image.convert("L") for image in controls]
    with controlled(loaded["sd"], controlnets["sd", "trained"]):
        assert draw(loaded["sd"], controls=large)[0].size == (32, 32)
        assert draw(loaded["sd"], controls=grey)[0].mode == "RGB"


def test_controls_must_suit_prompts_and_pipeline(loaded, controlnets, controls):
    one = loaded["sd"]
    with pytest.raises(InvalidConfig, match="controlled"):
        draw(one, controls=controls)
    with controlled(one, controlnets["sd", "trained"]):
        with pytest.raises(InvalidConfig, match="give `controls`"):
            draw(one)
        with pytest.raises(InvalidConfig, match="3 prompts need as many"):
            draw(one, controls=controls[:2])
        with pytest.raises(InvalidConfig, match="control_scale"):
            draw(one, controls=controls, control_scale=float("nan"))
        with pytest.raises(InvalidConfig, match="DeepCache"):
            draw(one, controls=controls, cache_interval=2)
        with (
            pytest.raises(BadControlNet, match="already has a ControlNet"),
            controlled(one, controlnets["sd", "trained"]),
        ):
            pass


@pytest.mark.parametrize("name", FAMILIES)
def test_the_objective_sees_each_rows_control(loaded, controlnets, controls, name):
    one = loaded[name]
    family, pipe = one.family, one.pipe
    packed = ControlImages(controls, 32)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    rows = family.encode_prompts(pipe, ["a cat", "dogs"])

    def loss(denoiser: Any) -> torch.Tensor:
        return family.loss(pipe, denoiser, latents, rows, torch.Generator().manual_seed(4))

    fresh = ControlledDenoiser(pipe.unet, load_controlnet(one, controlnets[name, "fresh"]))
    fresh.controls = packed.pick([0, 1])
    assert torch.equal(fresh.controls[1].permute(1, 2, 0), torch.tensor(np.asarray(controls[1])) / 255)
    plain = loss(pipe.unet)
    assert loss(fresh) == plain
    trained = ControlledDenoiser(pipe.unet, load_controlnet(one, controlnets[name, "trained"]))
    seen = []
    for numbers in ([0, 1], [1, 0]):
        trained.controls = packed.pick(numbers)
        seen.append(loss(trained))
    assert seen[0] != plain
    assert seen[0] != seen[1]


@pytest.mark.parametrize("part", ["controlnet_mid_block", "controlnet_down_blocks.0"])
def test_every_residual_reaches_the_unet(loaded, controlnets, controls, part):
    pipe = loaded["sdxl"].pipe
    controlnet = load_controlnet(loaded["sdxl"], controlnets["sdxl", "fresh"])
    rows = loaded["sdxl"].family.encode_prompts(pipe, ["a cat"])
    sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
    named = {"text_embeds": rows["pooled_prompt_embeds"], "time_ids": sizes}
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    inputs = (noisy, torch.tensor([500]), rows["prompt_embeds"])
    denoiser = ControlledDenoiser(pipe.unet, controlnet)
    denoiser.controls = ControlImages(controls, 32).pick([1])
    with torch.no_grad():
        plain = pipe.unet(*inputs, added_cond_kwargs=named).sample
        assert torch.equal(denoiser(*inputs, added_cond_kwargs=named, return_dict=False)[0], plain)
        controlnet.get_submodule(part).bias.fill_(0.5)
        steered = denoiser(*inputs, added_cond_kwargs=named, return_dict=False)[0]
    assert not torch.allclose(steered, plain, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_moves_the_controlnet_alone(loaded, dataset, tmp_path, name):
    from diffusers import ControlNetModel

    one = loaded[name]
    before = {key: value.clone() for key, value in one.pipe.unet.state_dict().items()}
    record = train_controlnet(one, dataset, tmp_path, CONFIG)
    assert all(torch.equal(value, before[key]) for key, value in one.pipe.unet.state_dict().items())
    assert len(record.losses) == CONFIG.steps
    trained = ControlNetModel.from_pretrained(tmp_path, use_safetensors=True)
    assert trained.controlnet_mid_block.weight.any()
    # Reads the control image: its layers had a gradient once the last ones were no longer zero.
    method = ControlMethod(CONFIG)
    method.attach(one, purpose_generator(CONFIG.seed, "adapter"))
    moved = trained.controlnet_cond_embedding.conv_in.weight
    assert not torch.equal(moved, method.controlnet.controlnet_cond_embedding.conv_in.weight)
    content = json.loads((tmp_path / RECORD_FILE).read_text())
    assert content == record.content
    assert content["kind"] == "canny"
    assert content["parameters"] == {"low": 100.0, "high": 200.0}
    assert set(content["hashes"]) == {"model", "dataset", "controls", "weights"}
    assert content["happened"]["images"] == 5
    assert (tmp_path / WEIGHTS_FILE).stat().st_mode & 0o044


def test_a_resumed_run_equals_an_uninterrupted_one(loaded, dataset, tmp_path):
    whole = train_controlnet(loaded["sd"], dataset, tmp_path / "whole", CONFIG)
    checkpoints = Checkpoints(tmp_path / "state", every_steps=100, resume_from=tmp_path / "state")

    def stop(step: int, loss: float) -> None:  # noqa: ARG001
        if step == 2:
            raise Stop

    # Of an earlier run, which this one replaces.
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    with pytest.raises(Stop):
        train_controlnet(loaded["sd"], dataset, tmp_path / "part", CONFIG, stop, checkpoints=checkpoints)
    assert not (tmp_path / "part" / CONFIG_FILE).exists()
    told: list[int] = []
    resumed = train_controlnet(
        loaded["sd"],
        dataset,
        tmp_path / "part",
        CONFIG,
        lambda step, loss: told.append(step),  # noqa: ARG005
        checkpoints=checkpoints,
    )
    assert told == [3, 4]
    assert resumed.losses == whole.losses
    assert resumed.content["happened"]["resumed_at"] == [2]
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(CheckpointMismatch, match="high"):
        train_controlnet(
            loaded["sd"], dataset, tmp_path / "other", replace(CONFIG, high=180.0), checkpoints=checkpoints
        )


def test_a_loss_that_is_no_number_leaves_nothing(loaded, dataset, tmp_path, monkeypatch):
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(type(loaded["sd"].family), "loss", lambda *_: nan.clone().requires_grad_())
    checkpoints = Checkpoints(tmp_path / "state", every_steps=1)
    with pytest.raises(NonFiniteLoss):
        train_controlnet(loaded["sd"], dataset, tmp_path / "out", CONFIG, checkpoints=checkpoints)
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "state").iterdir()) if (tmp_path / "state").exists() else True


def test_each_batch_comes_with_its_own_controls(loaded, dataset, tmp_path, monkeypatch):
    batch, pick = EncodedDataset.batch, ControlImages.pick
    images: list[list[int]] = []
    shown: list[list[int]] = []

    def noting_images(self, picked, kept, device=None):
        images.append(list(picked))
        return batch(self, picked, kept, device)

    def noting_controls(self, numbers, device=None):
        shown.append(list(numbers))
        return pick(self, numbers, device)

    monkeypatch.setattr(EncodedDataset, "batch", noting_images)
    monkeypatch.setattr(ControlImages, "pick", noting_controls)
    train_controlnet(loaded["sd"], dataset, tmp_path, CONFIG)
    assert len(images) == CONFIG.steps
    assert len({tuple(picked) for picked in images}) > 1
    assert shown == images


@pytest.mark.parametrize(
    ("factor", "widths"),
    [(1, (16,)), (4, (16, 32, 96)), (8, (16, 32, 96, 256)), (32, (16, 32, 96, 256, 256, 256))],
)
def test_a_control_image_is_halved_to_the_size_of_the_latents(factor, widths):
    assert embedding_widths(factor) == widths


def test_a_factor_that_halving_does_not_reach_is_refused():
    with pytest.raises(BadControlNet, match="power of two"):
        embedding_widths(6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 300.0}, "0 <= low <= high"),
        ({"steps": 0}, "steps must be"),
        ({"saved_precision": "int8"}, "saved_precision"),
        ({"caption_dropout": 2}, "caption_dropout"),
    ],
)
def test_faulty_configurations_are_refused(changes, message):
    with pytest.raises(InvalidConfig, match=message):
        replace(CONFIG, **changes)


def test_other_families_have_no_controlnets(tiny_folder, controlnets, dataset, tmp_path):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu") as pixart:
        with (
            pytest.raises(BadControlNet, match="sd and sdxl"),
            controlled(pixart, controlnets["sd", "fresh"]),
        ):
            pass
        with pytest.raises(BadControlNet, match="sd and sdxl"):
            train_controlnet(pixart, dataset, tmp_path, CONFIG)


def test_a_controlnet_of_another_architecture_is_refused(loaded, controlnets):
    for name, other in (("sd", "sdxl"), ("sdxl", "sd")):
        pipe = loaded[name].pipe
        with (
            pytest.raises(BadControlNet, match="does not fit"),
            controlled(loaded[name], controlnets[other, "trained"]),
        ):
            pass
        assert loaded[name].pipe is pipe


def damaged(folder, tmp_path, name: str, content: bytes | None):
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG_FILE, None, "has no config.json"),
        (CONFIG_FILE, b"{", "cannot be read as JSON"),
        (CONFIG_FILE, b'{"_class_name": "FluxControlNetModel"}', "holds a FluxControlNetModel"),
        (WEIGHTS_FILE, None, "has no weights"),
        (WEIGHTS_FILE, b"half", "not an intact safetensors"),
    ],
)
def test_a_damaged_folder_is_refused(loaded, controlnets, tmp_path, name, content, message):
    folder = damaged(controlnets["sd", "trained"], tmp_path, name, content)
    with pytest.raises(BadControlNet, match=message), controlled(loaded["sd"], folder):
        pass


def test_pickled_weights_alone_are_refused(loaded, controlnets, tmp_path):
    folder = damaged(controlnets["sd", "trained"], tmp_path, "diffusion_pytorch_model.bin", b"anything")
    with controlled(loaded["sd"], folder):
        pass
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(UnsafeWeights), controlled(loaded["sd"], folder):
        pass


def test_weights_that_lack_a_layer_are_refused(loaded, controlnets, tmp_path):
    folder = damaged(controlnets["sd", "trained"], tmp_path, "unused", None)
    weights = load_file(folder / WEIGHTS_FILE)
    del weights["controlnet_mid_block.bias"]
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(BadControlNet, match=r"controlnet_mid_block\.bias"), controlled(loaded["sd"], folder):
        pass


def test_the_shipped_controlnet_makes_images_follow_edges():
    class NoScorer:
        def score(self, prompts: Any, images: Any) -> np.ndarray:  # noqa: ARG002
            return np.zeros(len(images))

    icons, plain, steered = evaluate(TEACHER, SHIPPED, held_out(1)[::4], [5], NoScorer())  # type: ignore[arg-type]
    assert (plain.control, steered.control) == (False, True)
    assert icons.agreement == 1.0
    assert plain.images == 8
    assert steered.agreement > plain.agreement + 0.15
    content = json.loads((SHIPPED / RECORD_FILE).read_text())
    assert content["asked"]["config"].items() >= SHIPPED_CONFIG.to_dict().items()
