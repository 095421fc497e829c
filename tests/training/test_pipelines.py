"""Pipelines from local folders: what loads, and what is refused before anything is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from training.errors import BadPipeline, InvalidConfig, UnknownFamily, UnsafeWeights
from training.families import FAMILIES
from training.pipelines import LoadedPipeline, load_pipeline, opened


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder("sd"), tmp_path / "model"))


def change_index(folder: Path, **entries: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_loads_in_float32_on_the_device_asked_for(tiny_folder, name, capsys):
    pipe, family = load_pipeline(tiny_folder(name), device="cpu")
    assert type(pipe).__name__ == family.pipeline_class
    weights = next(family.denoiser(pipe).parameters())
    assert (weights.dtype, weights.device.type) == (torch.float32, "cpu")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["unet/old.bin", "vae/weights.PT", "model.ckpt", "a.pkl", "x.pth"])
def test_pickled_weights_are_refused_by_name(folder, name):
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeWeights, match=Path(name).name):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-10],
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        lambda content: b"\xff" * 16 + content[16:],
        lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[8,', 1),
        lambda _: b"not safetensors at all",
    ],
)
def test_damaged_safetensors_are_refused_by_name(folder, spoil):
    path = next((folder / "unet").glob("*.safetensors"))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadPipeline, match=path.name) as refused:
        load_pipeline(folder)
    assert "\n" not in str(refused.value)


def test_weights_that_do_not_fit_are_refused(folder):
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 48'))
    with pytest.raises(BadPipeline, match="cannot be loaded as a StableDiffusionPipeline") as refused:
        load_pipeline(folder)
    assert "\n" not in str(refused.value)


def test_missing_parts_are_refused(folder, tmp_path):
    shutil.rmtree(folder / "vae")
    with pytest.raises(BadPipeline, match="cannot be loaded"):
        load_pipeline(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(BadPipeline, match=r"has no model_index\.json"):
        load_pipeline(folder)
    with pytest.raises(BadPipeline, match="is no folder"):
        load_pipeline(tmp_path / "gone")


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_an_index_that_is_no_json_object_is_refused(folder, content):
    (folder / "model_index.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadPipeline, match=r"model_index\.json"):
        load_pipeline(folder)


def test_unknown_classes_and_code_in_the_folder_are_refused(folder):
    change_index(folder, unet=["evil", "Unet"])
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadPipeline, match=r"'unet' comes from 'evil'"):
        load_pipeline(folder)
    change_index(folder, unet=["diffusers", "UNet2DConditionModel"], _class_name="MyPipeline")
    with pytest.raises(UnknownFamily, match="'MyPipeline'"):
        load_pipeline(folder)
    change_index(folder, _class_name="StableDiffusionPipeline", unet=["diffusers"])
    with pytest.raises(BadPipeline, match=r"no \[library, class\] pair"):
        load_pipeline(folder)


def test_the_safety_checker_is_left_out(folder):
    change_index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    pipe, _ = load_pipeline(folder, device="cpu")
    assert pipe.safety_checker is None


def test_devices_and_precisions_that_do_not_exist_are_refused(folder):
    with pytest.raises(InvalidConfig, match="'gpu'"):
        load_pipeline(folder, device="gpu")
    with pytest.raises(InvalidConfig, match="'fp8'"):
        LoadedPipeline(folder, device="cpu", precision="fp8")


def test_a_loaded_pipeline_is_used_as_it_stands(folder):
    with LoadedPipeline(folder, device="cpu") as loaded:
        with opened(loaded, device="auto", precision="fp32") as same:
            assert same is loaded
        assert loaded.pipe is not None
        other = opened(loaded, device="cpu", precision="bf16")
        with pytest.raises(InvalidConfig, match="loaded in fp32"), other:
            pass
        loaded.check_resolution(32)
        with pytest.raises(InvalidConfig, match="multiple of 8"):
            loaded.check_resolution(36)
    assert loaded.pipe is None
