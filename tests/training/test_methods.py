"""What is trained, saved and loaded: adapters and whole denoisers, and pipelines left as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import BadAdapter
from matchgraph.training.pipelines.adapters import ADAPTER_FILE
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.weights import DENOISER_FILE
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.methods import Full

FULL = {
    "method": "full",
    "steps": 2,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "resolution_px": 32,
    "device": "cpu",
}
SAMPLING = SampleConfig(n=2, drawing=Drawing(2, resolution_px=32), device="cpu")


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    pipelines = {name: LoadedPipeline(tiny_folder(name), device="cpu") for name in ("pixart", "sd")}
    yield pipelines
    for pipeline in pipelines.values():
        pipeline.close()


def weights(one: LoadedPipeline) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part, component in one.pipe.components.items()
        if isinstance(component, torch.nn.Module)
        for name, value in component.state_dict().items()
    }


def unchanged(one: LoadedPipeline, before: dict[str, torch.Tensor]) -> bool:
    after = weights(one)
    return after.keys() == before.keys() and all(
        torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in before
    )


@pytest.mark.parametrize("name", ["pixart", "sd"])
def test_full_training_moves_the_denoiser_and_nothing_else(loaded, dataset, tmp_path, name, monkeypatch):
    one = loaded[name]
    before = weights(one)
    own_save, during = Full.save, {}

    def save(method, pipeline, folder):
        during.update(weights(pipeline))
        return own_save(method, pipeline, folder)

    monkeypatch.setattr(Full, "save", save)
    record = fine_tune(one, dataset, FineTuneConfig(**FULL), tmp_path)
    part = one.family.denoiser_attribute
    moved = {key for key in before if not torch.equal(before[key], during[key])}
    parameters = {f"{part}.{key}" for key, _ in one.family.denoiser(one.pipe).named_parameters()}
    assert moved == parameters
    assert record.happened["trainable_parameters"] == sum(before[key].numel() for key in parameters)
    assert unchanged(one, before)
    assert record.adapter == tmp_path / DENOISER_FILE
    saved = load_file(record.adapter)
    assert {f"{part}.{key}" for key in saved} == {key for key in before if key.startswith(f"{part}.")}
    assert all(torch.equal(value, during[f"{part}.{key}"]) for key, value in saved.items())


@pytest.mark.parametrize("as_file", [True, False])
def test_sampling_loads_a_denoiser_and_takes_it_off_again(loaded, dataset, tmp_path, as_file):
    one = loaded["sd"]
    before = weights(one)
    plain = sample_images(one, None, ["a cat"], SAMPLING)
    record = fine_tune(one, dataset, FineTuneConfig(**FULL), tmp_path)
    drawn = sample_images(one, record.adapter if as_file else tmp_path, ["a cat"], SAMPLING)
    assert unchanged(one, before)
    one.family.denoiser(one.pipe).load_state_dict(load_file(record.adapter))
    by_hand = sample_images(one, None, ["a cat"], SAMPLING)
    one.family.denoiser(one.pipe).load_state_dict(
        {key.removeprefix("unet."): value for key, value in before.items() if key.startswith("unet.")}
    )
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in by_hand]
    assert np.abs(np.asarray(plain[0], int) - np.asarray(drawn[0], int)).max() > 10


def test_a_denoiser_is_told_by_its_content_whatever_its_name(loaded, dataset, tmp_path):
    record = fine_tune(loaded["sd"], dataset, FineTuneConfig(**FULL), tmp_path)
    drawn = sample_images(loaded["sd"], tmp_path, ["a cat"], SAMPLING)
    renamed = record.adapter.rename(tmp_path / "mine.safetensors")
    again = sample_images(loaded["sd"], renamed, ["a cat"], SAMPLING)
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in again]


def test_half_precision_trains_float32_weights_and_saves_half_ones(
    tiny_folder, dataset, tmp_path, monkeypatch
):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu", precision="bf16") as one:
        before = weights(one)
        dtypes = set()
        own_loss = type(one.family).loss

        def loss(family, pipe, denoiser, *given):
            dtypes.update(parameter.dtype for parameter in denoiser.parameters())
            return own_loss(family, pipe, denoiser, *given)

        monkeypatch.setattr(type(one.family), "loss", loss)
        record = fine_tune(one, dataset, FineTuneConfig(**FULL, precision="bf16"), tmp_path)
        assert dtypes == {torch.float32}
        assert unchanged(one, before)
    with safe_open(record.adapter, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_a_run_by_one_method_leaves_no_weights_of_the_other(loaded, dataset, tmp_path):
    fine_tune(loaded["sd"], dataset, FineTuneConfig(**FULL), tmp_path)
    fine_tune(loaded["sd"], dataset, FineTuneConfig(**(FULL | {"method": "lora", "rank": 2})), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ADAPTER_FILE, "record.json"]


@pytest.mark.parametrize("fault", ["other model", "other shape", "damaged"])
def test_denoisers_that_do_not_fit_are_refused(loaded, dataset, tmp_path, fault):
    one = loaded["sd"]
    before = weights(one)
    record = fine_tune(
        loaded["pixart" if fault == "other model" else "sd"], dataset, FineTuneConfig(**FULL), tmp_path
    )
    if fault == "other shape":
        content = load_file(record.adapter)
        name = sorted(content)[0]
        content[name] = torch.cat([content[name]] * 2)
        save_file(content, record.adapter)
    elif fault == "damaged":
        record.adapter.write_bytes(record.adapter.read_bytes()[:-9])
    match = "cannot be read" if fault == "damaged" else "does not fit this UNet2DConditionModel"
    with pytest.raises(BadAdapter, match=match):
        sample_images(one, tmp_path, ["a cat"], SAMPLING)
    assert unchanged(one, before)
