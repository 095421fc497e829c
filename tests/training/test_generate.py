"""Sampling with adapters: diffusers loads what was saved, and an image depends on its own seed alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import BadAdapter, InvalidConfig, OutOfMemory
from matchgraph.training.pipelines.adapters import (
    ADAPTER_FILE,
    attach_adapter,
    detach_adapter,
    load_adapter,
    save_adapter,
)
from matchgraph.training.pipelines.families import FAMILIES, family
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import image_generator, sample_images, stream_images
from tests.training import tiny

NAMES = sorted(FAMILIES)
SAMPLING = SampleConfig(n=2, drawing=Drawing(2, 4.0, resolution_px=32), device="cpu")


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return {name: LoadedPipeline(tiny_folder(name), device="cpu") for name in NAMES}


@pytest.fixture(scope="module")
def adapters(loaded, tmp_path_factory):
    """A random adapter for each family, and the images of the pipeline that held it when it was saved."""
    saved = {}
    for name, one in loaded.items():
        folder = tmp_path_factory.mktemp(f"adapter-{name}")
        generator = torch.Generator().manual_seed(1)
        for parameter in attach_adapter(one.pipe, one.family, rank=4, alpha=6, generator=generator):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        images = sample_images(one, None, ["a cat", "dogs"], SAMPLING)
        save_adapter(one.pipe, one.family, folder)
        detach_adapter(one.pipe, one.family)
        saved[name] = (folder, images)
    return saved


def difference(one, two) -> int:
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(two, dtype=int)).max())


# The rest of the families are in the next test. Pixart has a loader of our own.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "pixart", "flux"])
def test_a_saved_adapter_reproduces_the_images_bit_for_bit(loaded, adapters, name):
    folder, expected = adapters[name]
    plain = sample_images(loaded[name], None, ["a cat", "dogs"], SAMPLING)
    again = sample_images(loaded[name], folder, ["a cat", "dogs"], SAMPLING)
    assert [image.tobytes() for image in again] == [image.tobytes() for image in expected]
    assert difference(plain[0], expected[0]) > 3
    unloaded = sample_images(loaded[name], None, ["a cat", "dogs"], SAMPLING)
    assert [image.tobytes() for image in unloaded] == [image.tobytes() for image in plain]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_diffusers_own_pipeline_loads_the_file(tiny_folder, adapters, name):
    import diffusers

    folder, expected = adapters[name]
    pipe = getattr(diffusers, FAMILIES[name][0]).from_pretrained(tiny_folder(name))
    # diffusers itself stumbles over a VAE without a shift.
    if name == "sd3":
        pipe.vae.register_to_config(shift_factor=0.0)
    pipe.set_progress_bar_config(disable=True)
    if name in ("pixart", "pixart_alpha"):  # to which diffusers gives no loader
        load_adapter(pipe, family(name), folder)
    else:
        pipe.load_lora_weights(folder)
    image = pipe(
        prompt=["a cat", "dogs"],
        num_inference_steps=2,
        generator=[image_generator(0, 0), image_generator(0, 1)],
        height=32,
        width=32,
        **tiny.guided(name, 4.0, 2),
        **tiny.CALL[name],
    ).images[0]
    # It multiplies matrices of other sizes here and there, which some processors round otherwise.
    assert difference(image, expected[0]) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_number_and_not_on_the_batch(loaded, name):
    def draw(**changes):
        options = {"n": 3, "drawing": Drawing(2, 3.0, resolution_px=32), "device": "cpu"} | changes
        return sample_images(loaded[name], None, ["a cat", "dogs"], SampleConfig(**options))

    together, apart = draw(batch_size=3), draw(batch_size=2)
    # Matrix products of other sizes round differently in the last digit.
    assert max(map(difference, together, apart)) <= 2
    assert [image.tobytes() for image in together] == [image.tobytes() for image in draw(batch_size=3)]
    assert difference(together[0], draw(seed=43)[0]) > 3
    assert difference(together[0], together[2]) > 3


def test_a_stream_left_early_leaves_no_adapter(loaded, adapters):
    one = loaded["sd"]
    images = stream_images(one, adapters["sd"][0], ["a cat", "dogs"], SAMPLING)
    assert next(images).tobytes() == adapters["sd"][1][0].tobytes()
    assert any(".lora_" in name for name in one.family.denoiser(one.pipe).state_dict())
    images.close()
    assert not any(".lora_" in name for name in one.family.denoiser(one.pipe).state_dict())


def test_seeds_and_numbers_do_not_overlap():
    pairs = [(seed, number) for seed in range(5) for number in range(5)]
    assert len({torch.randn(1, generator=image_generator(*pair)).item() for pair in pairs}) == 25


def test_guidance_at_or_below_one_is_none(loaded):
    def draw(guidance):
        config = SampleConfig(n=1, drawing=Drawing(2, guidance, resolution_px=32), device="cpu")
        return sample_images(loaded["sd"], None, ["a cat"], config)[0]

    assert draw(0.0).tobytes() == draw(1.0).tobytes() != draw(3.0).tobytes()


def test_adapters_of_other_models_are_refused(loaded, adapters, tmp_path):
    for name, other in [("sd", "sd3"), ("sd3", "sd"), ("pixart", "sd"), ("sd3", "pixart")]:
        with pytest.raises(BadAdapter, match="does not fit"):
            sample_images(loaded[name], adapters[other][0], ["a cat"], SAMPLING)
    weights = load_file(adapters["sd"][0] / ADAPTER_FILE)
    wider = {key: torch.cat([value, value], dim=1) for key, value in weights.items()}
    save_file(wider, tmp_path / ADAPTER_FILE)
    with pytest.raises(BadAdapter, match="does not fit") as refused:
        sample_images(loaded["sd"], tmp_path, ["a cat"], SAMPLING)
    assert "\n" not in str(refused.value)
    # The pipeline is as good as before.
    assert sample_images(loaded["sd"], adapters["sd"][0], ["a cat", "dogs"], SAMPLING)[0].tobytes() == (
        adapters["sd"][1][0].tobytes()
    )


def test_damaged_missing_and_pickled_adapters_are_refused(loaded, adapters, tmp_path):
    shutil.copy(adapters["sd"][0] / ADAPTER_FILE, tmp_path / "torn.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "torn.safetensors").read_bytes()[:-50])
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04.")
    for name, message in [
        ("torn.safetensors", "cannot be read as safetensors"),
        ("gone.safetensors", "cannot be read"),
        ("weights.bin", "only safetensors"),
        (".", "cannot be read"),
    ]:
        with pytest.raises(BadAdapter, match=message):
            sample_images(loaded["sd"], tmp_path / name, ["a cat"], SAMPLING)


def test_impossible_requests_are_refused(loaded):
    with pytest.raises(InvalidConfig, match="at least one prompt"):
        sample_images(loaded["sd"], None, [], SAMPLING)
    with pytest.raises(InvalidConfig, match="multiple of 8"):
        sample_images(loaded["sd"], None, ["a"], SampleConfig(n=1, drawing=Drawing(resolution_px=30)))
    for fault in ({"n": 0}, {"n": 1, "seed": -2}):
        with pytest.raises(InvalidConfig, match=list(fault)[-1]):
            SampleConfig(**fault)


def test_fewer_images_at_a_time_are_drawn_where_memory_runs_out(loaded, monkeypatch):
    plain = sample_images(loaded["sd"], None, ["a"], replace(SAMPLING, n=5, batch_size=4))
    own, tried = type(loaded["sd"].family).sample, []

    def sample(*given, **named):
        tried.append(len(named["generators"]))
        if tried[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(*given, **named)

    monkeypatch.setattr(type(loaded["sd"].family), "sample", sample)
    fewer = sample_images(loaded["sd"], None, ["a"], replace(SAMPLING, n=5, batch_size=4))
    assert tried == [4, 2, 1, 1, 1, 1, 1]
    for one, other in zip(plain, fewer, strict=True):
        assert abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    monkeypatch.setattr(type(loaded["sd"].family), "sample", lambda *_, **__: sample(generators=[0, 0]))
    with pytest.raises(OutOfMemory, match="sampling"):
        sample_images(loaded["sd"], None, ["a"], replace(SAMPLING, n=1))
