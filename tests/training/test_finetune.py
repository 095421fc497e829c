"""LoRA fine-tuning: only the adapter moves, one seed means one file, and failures leave no weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import BadDataset, BadImage, InvalidConfig, NonFiniteLoss
from matchgraph.training.pipelines.adapters import ADAPTER_FILE, attach_adapter, detach_adapter
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.families import FAMILIES
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.finetune import fine_tune

NAMES = sorted(FAMILIES)
TINY = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "rank": 2, "alpha": 4, "resolution_px": 32}


def config(**changes) -> FineTuneConfig:
    return FineTuneConfig(**(TINY | {"device": "cpu"} | changes))


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    pipelines = {name: LoadedPipeline(tiny_folder(name), device="cpu") for name in NAMES}
    yield pipelines
    for pipeline in pipelines.values():
        pipeline.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_move_the_adapter_and_nothing_else(loaded, dataset, name):
    one = loaded[name]
    pipe, family = one.pipe, one.family
    denoiser = family.denoiser(pipe)
    parts = {key: part for key, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    data = encode_dataset(one, dataset, resolution_px=32, seed=0)
    generator = torch.Generator().manual_seed(0)
    parameters = attach_adapter(pipe, family, rank=2, alpha=4, generator=generator)
    try:
        before = {key: state(part) for key, part in parts.items()}
        optimiser = torch.optim.AdamW(parameters, lr=1e-2)
        for _ in range(2):
            latents, rows = data.batch(range(5), [True] * 5)
            family.loss(pipe, denoiser, latents, rows, generator).backward()
            optimiser.step()
            optimiser.zero_grad()
        moved = {
            weight
            for key, part in parts.items()
            for weight, value in part.state_dict().items()
            if not torch.equal(value, before[key][weight])
        }
        trained = {weight for weight in denoiser.state_dict() if ".lora_" in weight}
        assert moved <= trained
        # The text half of SD3's last block asks questions whose answers nobody reads.
        assert all("attn.add_q_proj" in weight for weight in trained - moved)
        assert all(parameter.dtype == torch.float32 for parameter in parameters)
        attended = {weight.split(".lora_")[0] for weight in trained}
        assert all(any(layer.endswith(target) for target in family.lora_targets) for layer in attended)
    finally:
        detach_adapter(pipe, family)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sana", "flux"])
def test_one_seed_gives_one_file_and_no_trace_in_the_pipeline(loaded, tiny_folder, dataset, tmp_path, name):
    denoiser = loaded[name].family.denoiser(loaded[name].pipe)
    before, random = state(denoiser), torch.get_rng_state()
    first = fine_tune(loaded[name], dataset, config(), tmp_path / "a")
    again = fine_tune(loaded[name], dataset, config(), tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), random)
    fresh = fine_tune(tiny_folder(name), dataset, config(), tmp_path / "c")
    other = fine_tune(loaded[name], dataset, config(seed=7), tmp_path / "d")
    assert first.adapter.read_bytes() == again.adapter.read_bytes() == fresh.adapter.read_bytes()
    assert first.losses == again.losses == fresh.losses
    assert other.sha256 != first.sha256
    after = state(denoiser)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_adapter_starts_as_no_change(loaded, dataset, tmp_path):
    one = loaded["sd"]
    sampling = SampleConfig(n=1, drawing=Drawing(2, resolution_px=32))
    plain = sample_images(one, None, ["a cat"], sampling)
    fine_tune(one, dataset, config(steps=1, learning_rate=1e-30, weight_decay=0), tmp_path)
    adapted = sample_images(one, tmp_path, ["a cat"], sampling)
    assert np.abs(np.asarray(plain[0], int) - np.asarray(adapted[0], int)).max() <= 1


def test_a_batch_may_exceed_the_dataset(loaded, dataset, tmp_path):
    record = fine_tune(loaded["pixart"], dataset, config(steps=2, batch_size=13), tmp_path)
    assert len(record.losses) == 2
    assert record.happened["epochs"] == pytest.approx(26 / 5)
    record = fine_tune(
        loaded["pixart"], dataset, config(steps=2, batch_size=13, gradient_accumulation=3), tmp_path
    )
    assert record.happened["images_per_step"] == 39
    assert record.happened["epochs"] == pytest.approx(78 / 5)


def test_every_image_is_seen_once_an_epoch_and_captions_stay_with_their_images(
    loaded, dataset, tmp_path, monkeypatch
):
    one = loaded["sd"]
    data = encode_dataset(one, dataset, resolution_px=32, seed=0)
    latents, conditioning = data.batch(range(5), [True] * 5)
    empty = data.conditioning.pick([0])["prompt_embeds"][0]
    seen = []
    own_loss = type(one.family).loss

    def watched(self, pipe, denoiser, latents, conditioning, generator, rows):
        seen.extend(zip(latents, conditioning["prompt_embeds"], strict=True))
        return own_loss(self, pipe, denoiser, latents, conditioning, generator, rows)

    monkeypatch.setattr(type(one.family), "loss", watched)
    fine_tune(one, dataset, config(steps=2, batch_size=5, caption_dropout=0.0), tmp_path / "kept")
    numbers = []
    for latent, embedding in seen:
        number = next(i for i in range(5) if torch.equal(latent, latents[i]))
        assert torch.equal(embedding, conditioning["prompt_embeds"][number])
        numbers.append(number)
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == list(range(5))
    assert numbers[:5] != numbers[5:]

    seen.clear()
    fine_tune(one, dataset, config(steps=2, batch_size=5, caption_dropout=1.0), tmp_path / "dropped")
    assert all(torch.equal(embedding, empty) for _, embedding in seen)
    seen.clear()
    fine_tune(one, dataset, config(steps=20, batch_size=5, caption_dropout=0.5), tmp_path / "half")
    # One image of five has the empty caption anyway: 0.2 + 0.8 * 0.5.
    assert np.mean([torch.equal(embedding, empty) for _, embedding in seen]) == pytest.approx(0.6, abs=0.15)


def shown_shapes(monkeypatch, one) -> list[tuple[int, ...]]:
    """Shapes of the latents that are trained on, pass by pass."""
    shapes: list[tuple[int, ...]] = []
    own_loss = type(one.family).loss

    def watched(self, pipe, denoiser, latents, conditioning, generator, rows):
        assert torch.isfinite(latents).all()
        shapes.append((*latents.shape[-2:], len(latents[rows])))
        return own_loss(self, pipe, denoiser, latents, conditioning, generator, rows)

    monkeypatch.setattr(type(one.family), "loss", watched)
    return shapes


def test_every_step_is_of_one_bucket_however_it_is_divided(loaded, mixed, tmp_path, monkeypatch):
    one = loaded["sd"]
    shapes = shown_shapes(monkeypatch, one)
    split = {"steps": 6, "batch_size": 2, "gradient_accumulation": 2, "aspect_buckets": True}
    record = fine_tune(one, mixed, config(**split), tmp_path)
    steps = [tuple(shapes[first : first + 2]) for first in range(0, 12, 2)]
    # Of five squares and four wide images, and one that is alone and fills its step four times over.
    assert {(8, 8, 2), (6, 10, 2), (10, 6, 2)} == {passes[0] for passes in steps}
    assert all(first == second for first, second in steps)
    assert record.happened["aspect"]["buckets"] == {"24x40": 1, "32x32": 5, "40x24": 4}
    assert record.happened["aspect"]["pixels_cut"] < 0.15
    assert json.loads((tmp_path / "record.json").read_text())["asked"]["config"]["aspect_buckets"] is True


def test_a_step_may_be_larger_than_all_images(loaded, mixed, tmp_path):
    record = fine_tune(loaded["pixart"], mixed, config(batch_size=13, aspect_buckets=True), tmp_path)
    assert np.isfinite(record.losses).all()


def test_squares_are_trained_on_alike_with_buckets_and_without(loaded, mixed, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (0, 2, 5):
        (folder / f"{number}.png").write_bytes((mixed / f"{number}.png").read_bytes())
    asked = config(steps=4, batch_size=2)
    for name in ("sdxl", "pixart_alpha"):
        plain = fine_tune(loaded[name], folder, asked, tmp_path / "plain")
        bucketed = fine_tune(loaded[name], folder, replace(asked, aspect_buckets=True), tmp_path / "bucketed")
        assert bucketed.losses == plain.losses
        assert bucketed.sha256 == plain.sha256
        assert bucketed.happened["aspect"]["buckets"] == {"32x32": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_family_trains_on_buckets(loaded, mixed, tmp_path, monkeypatch, name):
    shapes = shown_shapes(monkeypatch, loaded[name])
    side = 4 * loaded[name].family.size_unit_px(loaded[name].pipe)
    asked = config(steps=4, batch_size=5, resolution_px=side, aspect_buckets=True)
    record = fine_tune(loaded[name], mixed, asked, tmp_path)
    assert len({shape[:2] for shape in shapes}) == 3
    assert np.isfinite(record.losses).all()


def test_buckets_that_a_model_has_no_positions_for_are_refused_first(loaded, mixed, tmp_path, monkeypatch):
    one = loaded["aura_flow"]
    monkeypatch.setattr(type(one.family), "encode_images", lambda *_: pytest.fail("it encodes"))
    with pytest.raises(InvalidConfig, match="positions for sides of at most 64 pixels"):
        fine_tune(one, mixed, config(resolution_px=64, aspect_buckets=True), tmp_path)


def test_the_record_says_what_was_asked_what_happened_and_with_what(loaded, dataset, tmp_path):
    steps = []
    record = fine_tune(
        loaded["sd"], dataset, config(), tmp_path, on_step=lambda step, loss: steps.append((step, loss))
    )
    written = json.loads((tmp_path / "record.json").read_text())
    assert written == record.to_dict()
    assert sorted(written) == ["asked", "happened", "used"]
    assert written["asked"]["config"] == config().to_dict()
    assert FineTuneConfig(**written["asked"]["config"]) == config()
    happened = written["happened"]
    assert (happened["images"], happened["captioned"], happened["captions_truncated"]) == (5, 4, 1)
    assert steps == list(enumerate(happened["losses"], start=1))
    assert happened["aspect"]["cropped"] == 5
    assert happened["peak_memory_bytes"] > 2**20
    assert happened["seconds"] >= happened["encoding_seconds"] > 0
    assert (happened["resumed_at"], happened["skipped_steps"], happened["notes"]) == ([], 0, [])
    assert happened["cache"] is None
    assert happened["adapter_sha256"] == hashlib.sha256(record.adapter.read_bytes()).hexdigest()
    assert written["used"]["family"] == "sd"
    assert {"torch", "diffusers", "peft", "python"} <= written["used"]["versions"].keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == [ADAPTER_FILE, "record.json"]


def test_the_header_carries_rank_and_alpha(loaded, dataset, tmp_path):
    from safetensors import safe_open

    record = fine_tune(loaded["sd3"], dataset, config(), tmp_path)
    with safe_open(record.adapter, framework="numpy") as weights:
        header = json.loads(weights.metadata()["lora_adapter_metadata"])
    assert (header["transformer.r"], header["transformer.lora_alpha"]) == (2, 4)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_non_finite_loss_leaves_no_weights(loaded, dataset, tmp_path, monkeypatch, fault):
    one = loaded["sd"]
    fine_tune(one, dataset, config(), tmp_path)
    own_loss = type(one.family).loss
    calls = []

    def spoiled(*arguments):
        loss = own_loss(*arguments)
        calls.append(loss)
        if len(calls) < 2:
            return loss
        # The square root of 0 has an infinite slope, so only the gradient is spoiled.
        return loss * float("nan") if fault == "loss" else loss + torch.sqrt(loss - loss.detach())

    monkeypatch.setattr(type(one.family), "loss", spoiled)
    with pytest.raises(NonFiniteLoss, match="At step 2"):
        fine_tune(one, dataset, config(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not any(".lora_" in name for name in one.family.denoiser(one.pipe).state_dict())


def test_a_stop_from_outside_leaves_no_weights(loaded, dataset, tmp_path):
    def stop(step: int, loss: float) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(loaded["sd"], dataset, config(), tmp_path, on_step=stop)
    assert list(tmp_path.iterdir()) == []
    fine_tune(loaded["sd"], dataset, config(), tmp_path)


def test_faulty_datasets_are_found_before_the_first_step(loaded, dataset, tmp_path):
    with pytest.raises(BadDataset):
        fine_tune(loaded["sd"], tmp_path, config(), tmp_path / "out")
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    with pytest.raises(BadImage, match=r"torn\.png"):
        fine_tune(loaded["sd"], tmp_path, config(), tmp_path / "out")
    with pytest.raises(InvalidConfig, match="multiple of 8"):
        fine_tune(loaded["sd"], dataset, config(resolution_px=36), tmp_path / "out")


def test_uncaptioned_images_are_trained_on_with_the_empty_prompt(loaded, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (40, 40), "teal").save(folder / "a.png")
    record = fine_tune(loaded["sd3"], folder, config(), tmp_path / "out")
    assert (record.happened["captioned"], record.happened["images"]) == (0, 1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_the_trained_weights_in_float32(tiny_folder, dataset, tmp_path, precision):
    from safetensors import safe_open

    record = fine_tune(tiny_folder("pixart"), dataset, config(precision=precision), tmp_path)
    with safe_open(record.adapter, framework="pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float32}  # noqa: SIM118
    sampling = SampleConfig(n=1, drawing=Drawing(2, resolution_px=32, precision=precision), device="cpu")
    assert sample_images(tiny_folder("pixart"), tmp_path, ["a cat"], sampling)[0].size == (32, 32)


@pytest.mark.parametrize(
    "fault",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"batch_size": True},
        {"rank": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"alpha": 0},
        {"seed": -1},
        {"caption_dropout": 1.5},
        {"precision": "fp8"},
        {"weight_decay": -1.0},
        {"max_gradient_norm": float("inf")},
        {"resolution_px": 0},
        {"gradient_accumulation": 0},
        {"gradient_checkpointing": 1},
        {"method": "dora"},
        {"compile": "yes"},
    ],
)
def test_impossible_configurations_are_refused_when_built(fault):
    with pytest.raises(InvalidConfig, match=next(iter(fault))):
        FineTuneConfig(**fault)
