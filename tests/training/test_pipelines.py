"""Pipelines from local folders: what loads, and what is refused before anything is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import (
    BadPipeline,
    InvalidConfig,
    MissingLibrary,
    UnknownFamily,
    UnsafeWeights,
)
from matchgraph.training.pipelines.families import FAMILIES
from matchgraph.training.pipelines.hub import pipeline_folder
from matchgraph.training.pipelines.loading import LoadedPipeline, load_pipeline, opened, quiet_libraries
from matchgraph.training.sampling.generate import image_generator, sample_images
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache


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


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precisions_are_those_of_all_weights(folder, precision, expected, capfd):
    with LoadedPipeline(folder, device="cpu", precision=precision) as loaded:
        for part in (loaded.pipe.unet, loaded.pipe.vae, loaded.pipe.text_encoder):
            assert {weight.dtype for weight in part.parameters()} == {expected}
    assert "cannot run with `cpu`" not in capfd.readouterr().err


def test_sana_keeps_what_half_precision_is_too_narrow_for_in_bfloat16(tiny_folder):
    with LoadedPipeline(tiny_folder("sana"), device="cpu", precision="fp16") as loaded:
        pipe = loaded.pipe
        assert pipe.transformer.dtype == torch.float16
        assert (pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.bfloat16)


def weights_of(folder: Path, **options: object) -> dict[str, torch.Tensor]:
    pipe, _ = load_pipeline(folder, device="cpu", **options)
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {
        f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()
    }


def save_as(source: Path, target: Path, dtype: torch.dtype = torch.float32, **options: object) -> Path:
    """Write the pipeline again, with all its weights from `source`."""
    pipe, _ = load_pipeline(source, device="cpu", dtype=dtype)
    with quiet_libraries():
        pipe.save_pretrained(target, safe_serialization=True, **options)
    return target


@pytest.mark.parametrize(("name", "shards"), [("sdxl", False), ("kolors", True), ("sd3", True)])
def test_folders_with_a_variant_only_and_in_shards_load(tiny_folder, tmp_path, name, shards):
    plain = tiny_folder(name)
    options = {"max_shard_size": "40KB"} if shards else {}
    folder = save_as(plain, tmp_path / name, torch.float16, variant="fp16", **options)
    files = sorted(path.name for path in folder.rglob("*.safetensors"))
    assert all(".fp16" in file for file in files)
    assert any("-of-" in file for file in files) == shards
    expected = weights_of(plain, dtype=torch.float16)
    loaded = weights_of(folder, dtype=torch.float16)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
    assert {value.dtype for value in weights_of(folder).values() if value.is_floating_point()} == {
        torch.float32
    }


def test_plain_shards_load(tiny_folder, tmp_path):
    folder = save_as(tiny_folder("flux"), tmp_path / "flux", max_shard_size="40KB")
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 1
    expected = weights_of(tiny_folder("flux"))
    assert all(torch.equal(value, expected[key]) for key, value in weights_of(folder).items())


def test_plain_weights_are_taken_where_there_are_both(folder, tmp_path):
    save_as(folder, tmp_path / "half", torch.float16, variant="fp16")
    for path in (tmp_path / "half").rglob("*.fp16.safetensors"):
        shutil.copy(path, folder / path.relative_to(tmp_path / "half"))
    plain = weights_of(folder)
    assert any(not torch.equal(value.half().float(), value) for value in plain.values())
    # One component has nothing but the variant.
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    mixed = weights_of(folder)
    assert all(
        torch.equal(value.half().float(), value) for key, value in mixed.items() if key.startswith("unet")
    )


def test_variants_that_do_not_go_together_are_refused(folder):
    for part, variant in (("unet", "fp16"), ("vae", "bf16")):
        weights = folder / part / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    with pytest.raises(BadPipeline, match=r"incompatible variants \(unet: fp16, vae: bf16\)") as refused:
        load_pipeline(folder)
    assert "\n" not in str(refused.value)


def test_a_name_that_diffusers_stumbles_on_beside_a_variant_is_named(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    load_pipeline(folder, device="cpu")
    (folder / "vae" / "LICENSE").touch()
    with pytest.raises(BadPipeline, match=r"vae/LICENSE: diffusers cannot load fp16 weights beside"):
        load_pipeline(folder, device="cpu")


def test_lists_of_shards_lead_nowhere_else(tiny_folder, tmp_path):
    folder = save_as(tiny_folder("sd"), tmp_path / "sd", max_shard_size="40KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    good = json.loads(index.read_text())
    first = next(iter(good["weight_map"]))
    shutil.copy(index.parent / good["weight_map"][first], tmp_path / "elsewhere.safetensors")
    (tmp_path / "elsewhere.bin").write_bytes(b"\x80\x04.")
    for shard, error in [
        ("../../elsewhere.bin", UnsafeWeights),
        ("../../elsewhere.safetensors", UnsafeWeights),
        (str(tmp_path / "elsewhere.safetensors"), UnsafeWeights),
        ("gone.safetensors", BadPipeline),
        (7, UnsafeWeights),
    ]:
        index.write_text(json.dumps(good | {"weight_map": good["weight_map"] | {first: shard}}))
        with pytest.raises(error, match=r"index\.json names") as refused:
            load_pipeline(folder)
        assert "\n" not in str(refused.value)
    for content in ("[]", "{", '{"weight_map": []}', '{"weight_map": {"a": {}}}', '{"a": ' + "[" * 100_000):
        index.write_text(content)
        with pytest.raises(BadPipeline, match=r"index\.json is not an index of shards"):
            load_pipeline(folder)
    index.write_text(json.dumps(good))
    load_pipeline(folder, device="cpu")


def test_files_that_are_never_opened_do_not_matter(folder):
    """Leftovers of training scripts, exports, a removed safety checker and its feature extractor."""
    for name in (
        *("unet/openvino_model.bin", "vae/old.PT", "unet/run.fp16.safetensors", "model.ckpt"),
        *("checkpoint-500/optimizer.bin", "checkpoint-500/random_states_0.pkl"),
        "safety_checker/pytorch_model.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04.")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"broken off")
    change_index(
        folder,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        image_encoder=["elsewhere", "Encoder"],
    )
    pipe, _ = load_pipeline(folder, device="cpu")
    assert (pipe.safety_checker, pipe.feature_extractor, pipe.image_encoder) == (None, None, None)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", ["model.bin", "weights.PT", "a.pkl"])
def test_a_component_with_pickled_weights_alone_is_refused(folder, part, name):
    next((folder / part).glob("*.safetensors")).unlink()
    (folder / part / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeWeights, match=rf"{part}/{name} holds pickled weights"):
        load_pipeline(folder)


def test_an_adapter_that_transformers_would_unpickle_is_refused(folder):
    (folder / "text_encoder" / "adapter_config.json").write_text("{}")
    (folder / "text_encoder" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeWeights, match=r"adapter_model\.bin holds pickled weights"):
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
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(BadPipeline, match=r"unet has no weights \(\*\.safetensors\)\. Fetch"):
        load_pipeline(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(BadPipeline, match=r"cannot be loaded .* it has no folder vae\. Fetch"):
        load_pipeline(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(BadPipeline, match=r"has no model_index\.json"):
        load_pipeline(folder)
    with pytest.raises(BadPipeline, match="is not a folder"):
        load_pipeline(tmp_path / "gone")


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_an_index_that_is_no_json_object_is_refused(folder, content):
    (folder / "model_index.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadPipeline, match=r"model_index\.json"):
        load_pipeline(folder)


def test_a_library_that_a_tokenizer_lacks_is_named_in_one_line(folder, monkeypatch):
    def convert(*_: object, **__: object) -> None:
        raise ImportError("\nSpmConverter requires the protobuf library but it is gone.\nSee the page")

    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", convert)
    with pytest.raises(MissingLibrary, match=r"cannot be loaded without protobuf: pip install protobuf$"):
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
    with pytest.raises(BadPipeline, match=r"not a \[library, class\] pair"):
        load_pipeline(folder)


def test_classes_beside_a_pipeline_are_trusted_for_that_pipeline_alone(folder, tiny_folder, tmp_path):
    change_index(folder, text_encoder=["kolors", "ChatGLMModel"])
    with pytest.raises(BadPipeline, match="comes from 'kolors'"):
        load_pipeline(folder)
    kolors = Path(shutil.copytree(tiny_folder("kolors"), tmp_path / "kolors"))
    load_pipeline(kolors, device="cpu")
    for entry in (
        ["kolors", "KolorsPipeline"],
        ["kolors.text_encoder", "ChatGLMModel"],
        ["os", "ChatGLMModel"],
    ):
        change_index(kolors, text_encoder=entry)
        with pytest.raises(BadPipeline, match="'text_encoder' comes from"):
            load_pipeline(kolors)


@pytest.mark.parametrize("entry", [[["diffusers"], "X"], [{}, 1], ["diffusers", 3], [None, "X", "Y"]])
def test_entries_that_are_no_names_are_refused(folder, entry):
    change_index(folder, unet=entry)
    with pytest.raises(BadPipeline, match=r"'unet' is not a \[library, class\] pair"):
        load_pipeline(folder)


def test_code_named_as_a_library_is_never_run(folder):
    (folder / "unet" / "diffusers.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass UNet2DConditionModel: pass\n"
    )
    with pytest.raises(UnsafeWeights, match=r"diffusers\.py is code in a model folder"):
        load_pipeline(folder)
    assert not (folder / "unet" / "ran").exists()


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


# Flux packs two by two latents of a factor of 4, and Sana's pipeline insists on 32 whatever the factor.
@pytest.mark.parametrize(("name", "unit"), [("sd", 8), ("sd3", 8), ("flux", 8), ("sana", 32)])
def test_resolutions_come_in_the_units_of_the_family(tiny_folder, name, unit):
    with LoadedPipeline(tiny_folder(name), device="cpu") as loaded:
        loaded.check_resolution(2 * unit)
        with pytest.raises(InvalidConfig, match=f"multiple of {unit}"):
            loaded.check_resolution(3 * unit // 2)
        if name == "flux":
            loaded.pipe.vae_scale_factor = 8  # the real one's
            assert loaded.family.size_unit_px(loaded.pipe) == 16


def test_latent_consistency_models_draw_as_their_own_class_does(tmp_path, monkeypatch):
    # Found by its name, as it is published.
    use_cache(monkeypatch, tmp_path / "cache")
    put_into_cache(tmp_path / "cache", "someone/lcm", tiny.save_lcm(tmp_path / "lcm"))
    folder = pipeline_folder("someone/lcm")
    own = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder, safety_checker=None)
    own.set_progress_bar_config(disable=True)
    prompts = ["a cat", "a dog"]
    with LoadedPipeline(folder, device="cpu") as loaded:
        assert (loaded.family.name, type(loaded.pipe).__name__) == ("sd", "StableDiffusionPipeline")
        drawn = {}
        for guidance in (None, 3.0):
            asked = {} if guidance is None else {"guidance_scale": guidance}
            generators = [image_generator(0, number) for number in range(2)]
            expected = own(prompts, height=32, width=32, generator=generators, **asked).images
            config = SampleConfig(n=2, drawing=Drawing(guidance=guidance, resolution_px=32))
            drawn[guidance] = np.stack(sample_images(loaded, None, prompts, config))
            np.testing.assert_array_equal(drawn[guidance], np.stack(expected))
        assert (drawn[None] != drawn[3.0]).any()


def test_latents_of_consistency_models_are_not_clipped(tmp_path):
    pipe, _ = load_pipeline(tiny.save_lcm(tmp_path / "lcm", clip_sample=True), device="cpu")
    assert pipe.scheduler.config.clip_sample is False
