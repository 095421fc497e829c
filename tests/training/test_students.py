"""Students of published LoRAs and denoisers: they draw what diffusers draws with the same weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import BadAdapter, BadPipeline, InvalidConfig, TrainingError, UnsafeWeights
from matchgraph.training.files import files_below
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.profile import PipelineProfiler
from matchgraph.training.pipelines.samplers import EMBEDDED_GUIDANCE
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.student_folder import RECORD_FILE, is_student
from matchgraph.training.tune.students import make_student
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache

ROOT = Path(__file__).parents[2] / "minizoo"
PROMPTS = ["a cat", "a dog"]
UNET_FILE = "diffusion_pytorch_model.safetensors"
TOLD_WIDTH = 8
# Kinds of layers that the published LCM-LoRAs change, with convolutions among them.
LAYERS = ("to_q", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "time_emb_proj", "upsamplers.0.conv")


def draw(model: Path | LoadedPipeline, **options: Any) -> np.ndarray:
    wanted: dict[str, Any] = {"resolution_px": 32} | options
    images = sample_images(model, None, PROMPTS, SampleConfig(n=2, drawing=Drawing(**wanted), device="cpu"))
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


def lora(unet: torch.nn.Module, style: str, rank: int = 3) -> dict[str, torch.Tensor]:
    """A random LoRA of a U-Net, under the names of kohya's scripts or of diffusers."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, layer in unet.named_modules():
        weight = getattr(layer, "weight", None)
        if not name.endswith(LAYERS) or weight is None:
            continue
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.2
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator) * 0.2
        if style == "kohya":
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(1.5)
        else:
            tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    return tensors


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The denoiser of a latent consistency model of tiny SDXL, which is told the guidance scale."""
    teacher = tiny.sdxl().unet
    torch.manual_seed(11)
    settings = {name: value for name, value in teacher.config.items() if not name.startswith("_")}
    unet = type(teacher).from_config(settings | {"time_cond_proj_dim": TOLD_WIDTH})
    with torch.no_grad():
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
        unet.time_embedding.cond_proj.weight.normal_()
    folder = tmp_path_factory.mktemp("told")
    unet.save_pretrained(folder)
    return folder


def test_a_denoiser_in_the_teachers_place_draws_bit_for_bit(tmp_path):
    published = ROOT / "students" / "tiny-sdxl-lcm"
    teacher = ROOT / "models" / "tiny-sdxl"
    student = tmp_path / "made" / "student"
    made = make_student(teacher, published / "unet", student, solver_steps=20)
    np.testing.assert_array_equal(draw(student), draw(published))
    assert is_student(student)
    assert not made.guidance_told
    record = json.loads((student / RECORD_FILE).read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(made.to_dict()))
    distilled = json.loads((published / RECORD_FILE).read_text(encoding="utf-8"))
    assert record["teacher"] == distilled["teacher"]
    assert (record["weights"]["kind"], record["weights"]["name"]) == ("denoiser", "unet")
    assert record["scheduler"] == {"class": "LCMScheduler", "solver_steps": 20}
    written = "".join(path.read_text() for path in student.rglob("*.json") if "tokenizer" not in str(path))
    assert str(tmp_path) not in written
    assert str(ROOT) not in written
    assert [path.name for path in student.parent.iterdir()] == ["student"]
    with pytest.raises(InvalidConfig, match="exists already"):
        make_student(teacher, published / "unet", student)
    with pytest.raises(InvalidConfig, match="is a student already"):
        make_student(student, published / "unet", tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_a_lora_draws_what_diffusers_draws_with_it(tiny_folder, tmp_path, style):
    teacher, student = tiny_folder("sdxl"), tmp_path / "student"
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    file.parent.mkdir()
    with LoadedPipeline(teacher, device="cpu") as loaded:
        tensors = lora(loaded.pipe.unet, style)
        assert {tensor.ndim for tensor in tensors.values()} >= {2, 4}
        save_file(tensors, file)
        plain = draw(loaded, steps=4, guidance=1.0)
        loaded.pipe.scheduler = diffusers.LCMScheduler.from_config(loaded.pipe.scheduler.config)
        unmoved = draw(loaded)
        loaded.pipe.load_lora_weights(file.parent, weight_name=file.name)
        expected = draw(loaded)
        loaded.pipe.fuse_lora()
        loaded.pipe.unload_lora_weights()
        fused = {name: tensor.clone() for name, tensor in loaded.pipe.unet.state_dict().items()}
    made = make_student(teacher, file.parent, student)
    assert (made.weights["kind"], made.weights["name"]) == ("lora", "lora")
    written = load_file(student / "unet" / UNET_FILE)
    assert written.keys() == fused.keys()
    for name, tensor in fused.items():
        torch.testing.assert_close(written[name], tensor, rtol=0, atol=1e-6)
    np.testing.assert_allclose(draw(student), expected, atol=1)
    assert np.abs(unmoved - expected).mean() > 5
    assert np.abs(plain - expected).mean() > 5
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert os.path.samefile(student / vae, teacher / vae)
    assert made.notes == ()
    # A part that changes a text encoder is left out and named, and the file's own path means the same.
    prefix = "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_" if style == "kohya" else "text_encoder.fc1."
    save_file(
        tensors | {f"{prefix}down.weight": torch.ones(3, 32), f"{prefix}up.weight": torch.ones(64, 3)}, file
    )
    again = make_student(teacher, file, tmp_path / "again")
    [note] = again.notes
    assert "also changes text encoders (2 of its" in note
    for name, tensor in load_file(tmp_path / "again" / "unet" / UNET_FILE).items():
        torch.testing.assert_close(tensor, written[name], rtol=0, atol=0)


def test_a_denoiser_told_of_guidance_is_told_and_takes_one_row(tiny_folder, told, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    use_cache(monkeypatch, cache)
    put_into_cache(cache, "someone/lcm-tiny", told)
    put_into_cache(cache, "someone/tiny", tiny_folder("sdxl"))
    student = tmp_path / "student"
    made = make_student("someone/tiny", "someone/lcm-tiny", student)
    assert made.guidance_told
    assert (made.teacher["name"], made.weights["name"]) == ("someone/tiny", "someone/lcm-tiny")
    # Weights without a configuration, for a teacher whose own leaves out what older releases did not know.
    older = Path(shutil.copytree(tiny_folder("sdxl"), tmp_path / "older"))
    config = json.loads((older / "unet" / "config.json").read_text())
    del config["time_cond_proj_dim"]
    (older / "unet" / "config.json").write_text(json.dumps(config))
    bare = make_student(older, told / UNET_FILE, tmp_path / "bare")
    assert bare.guidance_told
    with LoadedPipeline(student, device="cpu") as loaded:
        default = draw(loaded)
        np.testing.assert_array_equal(draw(loaded, steps=4, guidance=EMBEDDED_GUIDANCE), default)
        assert np.abs(draw(loaded, guidance=1.0) - default).max() > 0
        calls: list[Any] = []
        loaded.pipe.unet.register_forward_pre_hook(
            lambda _, given, named: calls.append((len(given[0]), named["timestep_cond"])), with_kwargs=True
        )
        draw(loaded, guidance=3.0)
        embedding = loaded.pipe.get_guidance_scale_embedding(torch.tensor([2.0, 2.0]), TOLD_WIDTH)
    assert [rows for rows, _ in calls] == [2] * 4
    assert all(torch.equal(said, embedding) for _, said in calls)
    np.testing.assert_array_equal(draw(tmp_path / "bare"), default)
    profile = PipelineProfiler(student).price()
    assert (profile.steps, profile.guidance, profile.calls, profile.rows) == (4, EMBEDDED_GUIDANCE, 4, 1)


def test_half_precision_stays_as_it_is(tiny_folder, tmp_path):
    teacher = tmp_path / "teacher"
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        tiny_folder("sdxl"), torch_dtype=torch.float16, use_safetensors=True
    )
    pipe.save_pretrained(teacher, variant="fp16")
    save_file(lora(pipe.unet, "kohya"), tmp_path / "lora.safetensors")
    make_student(teacher, tmp_path / "lora.safetensors", tmp_path / "student")
    weights = load_file(tmp_path / "student" / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert np.isfinite(draw(tmp_path / "student")).all()


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"] = torch.zeros(16, 5, 3, 3)


def first_of(tensors: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(end))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (UNET_FILE, lambda t: t.pop("conv_in.weight"), "conv_in.weight is missing"),
        (UNET_FILE, lambda t: t.update(extra=torch.zeros(1)), "extra is missing, unknown"),
        (UNET_FILE, widen, "conv_in.weight is missing, unknown or of another shape"),
        (UNET_FILE, lambda t: t["conv_in.bias"].fill_(torch.nan), "conv_in.bias is not a finite number"),
        (
            "lora.safetensors",
            lambda t: t.update({"lora_unet_x.oft_blocks": torch.zeros(1)}),
            "OFT adapters are",
        ),
        (
            "lora.safetensors",
            lambda t: [t.update({name.replace("unet", "te1"): t.pop(name)}) for name in list(t)],
            "changes only text encoders",
        ),
        (
            "lora.safetensors",
            lambda t: t.update({first_of(t, ".lora_up.weight"): torch.zeros(3, 3)}),
            "does not fit this StableDiffusionXLPipeline",
        ),
        (
            "lora.safetensors",
            lambda t: t.update(
                {
                    "lora_unet_mid_block_attentions_9_proj_in.lora_down.weight": torch.zeros(3, 32),
                    "lora_unet_mid_block_attentions_9_proj_in.lora_up.weight": torch.zeros(32, 3),
                }
            ),
            "does not fit this StableDiffusionXLPipeline",
        ),
        (
            "lora.safetensors",
            lambda t: t[first_of(t, ".lora_up.weight")].fill_(torch.inf),
            "cannot be added",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tiny_folder, told, tmp_path, name, change, message):
    file = tmp_path / name
    if name == UNET_FILE:
        shutil.copy(told / UNET_FILE, file)
    else:
        save_file(lora(tiny.sdxl().unet, "kohya"), file)
    changed(file, change)
    with pytest.raises(BadAdapter, match=message) as refused:
        make_student(tiny_folder("sdxl"), file, tmp_path / "student")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def edit_config(folder: Path, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: edit_config(f, _class_name="FluxTransformer2DModel"), BadAdapter, "holds a Flux"),
        (lambda f: edit_config(f, time_cond_proj_dim=None), BadAdapter, "do not match its config.json"),
        (lambda f: edit_config(f, block_out_channels=[16, 64]), BadAdapter, "cannot be loaded as a UNet2D"),
        (lambda f: (f / "config.json").write_text("{"), BadAdapter, "cannot be loaded as a UNet2D"),
        (lambda f: (f / UNET_FILE).rename(f / "diffusion_pytorch_model.bin"), UnsafeWeights, "pickled"),
        (lambda f: (f / UNET_FILE).unlink(), BadPipeline, "has no weights"),
        (lambda f: (f / "model_index.json").write_text("{}"), BadAdapter, "is a complete pipeline"),
    ],
)
def test_folders_that_are_no_denoiser_are_refused_in_one_line(
    tiny_folder, told, tmp_path, spoil, error, message
):
    folder = tmp_path / "published"
    shutil.copytree(told, folder)
    spoil(folder)
    with pytest.raises(error, match=message) as refused:
        make_student(tiny_folder("sdxl"), folder, tmp_path / "student")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_other_files_are_refused(tiny_folder, told, tmp_path):
    (tmp_path / "lora.bin").write_bytes(b"x")
    (tmp_path / "lora.gguf").write_bytes(b"x")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    for name, message in (
        ("lora.bin", "pickled"),
        ("lora.gguf", "not a .safetensors"),
        ("broken", "cannot be read"),
    ):
        file = next(tmp_path.glob(f"{name}*"))
        with pytest.raises(TrainingError, match=message):
            make_student(tiny_folder("sdxl"), file, tmp_path / "student")
    with pytest.raises(BadAdapter, match="does not fit"):
        make_student(tiny_folder("sd"), told / UNET_FILE, tmp_path / "student")
    save_file({"lora": torch.zeros(1)}, tmp_path / "broken.safetensors")
    save_file({"lora": torch.zeros(1)}, tmp_path / "second.safetensors")
    with pytest.raises(BadAdapter, match="holds 2 safetensors files"):
        make_student(tiny_folder("sdxl"), tmp_path, tmp_path / "student")


def test_what_cannot_be_written_leaves_nothing(tiny_folder, told, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = files_below(told)
    monkeypatch.setattr("matchgraph.training.tune.student_folder.write_json", full)
    with pytest.raises(OSError, match="No space"):
        make_student(tiny_folder("sdxl"), told, tmp_path / "student")
    assert not list(tmp_path.iterdir())
    assert files_below(told) == before
