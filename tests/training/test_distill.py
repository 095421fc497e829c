"""Distillation end to end on tiny pipelines of all families, its parts by hand, and the students we ship."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from matchgraph.drawing import Drawing
from matchgraph.training.config import DistillConfig, SampleConfig
from matchgraph.training.errors import (
    BadPipeline,
    CheckpointMismatch,
    InvalidConfig,
    NonFiniteLoss,
    TrainingError,
)
from matchgraph.training.files import files_below
from matchgraph.training.pipelines.cache import EncodingCache
from matchgraph.training.pipelines.families import FAMILIES, family
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import image_generator, sample_images
from matchgraph.training.tune.checkpoint import Checkpoints, checkpoint_step
from matchgraph.training.tune.consistency import student_scheduler, teacher_path
from matchgraph.training.tune.consistency_training import ConsistencyTraining, pseudo_huber
from matchgraph.training.tune.distill import _whole_weights, distill
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import Full, Lora
from matchgraph.training.tune.student_folder import RECORD_FILE, is_student
from tests.training import tiny

PROMPTS = ["a cat", "a dog", "a house", "a red fox", "a cat"]
FAST: dict[str, Any] = {
    "steps": 2,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "rank": 4,
    "alpha": 4,
    "guidance": 2.0,
    "solver_steps": 10,
    "teacher_steps": 2,
    "resolution_px": 64,
    "device": "cpu",
}


def config(**changes: Any) -> DistillConfig:
    return DistillConfig(**FAST | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = [path for name in ("unet", "transformer") for path in (folder / name).glob("*.safetensors")]
    return load_file(file)


def draw(model: LoadedPipeline, *, batch_size: int = 2, seed: int = 0, **options: Any) -> np.ndarray:
    wanted: dict[str, Any] = {"steps": 2, "guidance": 1.0, "resolution_px": 64} | options
    config = SampleConfig(n=2, drawing=Drawing(**wanted), seed=seed, batch_size=batch_size)
    images = sample_images(model, None, PROMPTS[:2], config)
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gets_a_student_that_loads_and_draws_as_any_pipeline(
    name: str, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    teacher, student = tiny_folder(name), tmp_path / "student"
    told: list[Any] = []
    made = distill(
        teacher,
        student,
        PROMPTS,
        config(),
        on_draw=lambda drawn, count: told.append((drawn, count)),
        on_step=lambda step, _: told.append(step),
    )
    assert told == [(2, 4), (4, 4), 1, 2]
    assert made.data == {"kind": "drawn", "prompts": 4, "images": 4, "sha256": made.data["sha256"]}
    record = json.loads((student / RECORD_FILE).read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(made.to_dict()))
    assert np.isfinite(record["happened"]["losses"]).all()
    assert record["config"]["guidance"] == 2.0
    assert str(tmp_path) not in "".join(path.read_text() for path in student.rglob("*.json"))
    assert not [path for path in tmp_path.iterdir() if path != student]

    loaded = LoadedPipeline(student, device="cpu")
    found = loaded.family
    assert found.name == name
    expected = "FlowMatchLCMScheduler" if found.flow_matching else "LCMScheduler"
    assert type(loaded.pipe.scheduler).__name__ == expected
    assert is_student(student)
    assert not is_student(teacher)
    before, after = weights(teacher), weights(student)
    assert before.keys() == after.keys()
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        name: tensor.dtype for name, tensor in after.items()
    }
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all(any(name.endswith(f"{layer}.weight") for layer in found.lora_targets) for name in moved)
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert os.path.samefile(student / vae, teacher / vae)

    # Noise depends on neither the batch nor torch's own generator, which some pipelines would use.
    first = draw(loaded)
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, draw(loaded))
    np.testing.assert_allclose(first, draw(loaded, batch_size=1), atol=2)
    assert np.abs(first - draw(loaded, seed=7)).mean() > 1
    loaded.close()


def test_diffusers_alone_draws_with_a_student(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    distill(tiny_folder("sdxl"), tmp_path / "student", PROMPTS, config())
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "student", add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        "a cat", num_inference_steps=4, guidance_scale=1.0, height=64, width=64, output_type="np"
    ).images
    assert np.isfinite(drawn).all()
    assert pipe.scheduler.timesteps.tolist() == [999, 799, 499, 299]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("sd", "lora"), ("sd3", "full")])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    name: str, method: str, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    wanted, whole = config(steps=4, method=method), tmp_path / "whole"
    straight = distill(tiny_folder(name), whole, PROMPTS, wanted)

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    keeping = Checkpoints(work, every_steps=100, resume_from=work)
    cache = EncodingCache(tmp_path / "cache", 1 << 30)
    with pytest.raises(KeyboardInterrupt):
        distill(
            tiny_folder(name),
            tmp_path / "parts",
            PROMPTS,
            wanted,
            on_step=stop,
            checkpoints=keeping,
            cache=cache,
        )
    assert not (tmp_path / "parts").exists()
    assert checkpoint_step(work) == 2
    steps: list[int] = []
    resumed = distill(
        tiny_folder(name),
        tmp_path / "parts",
        PROMPTS,
        wanted,
        on_step=lambda step, _: steps.append(step),
        checkpoints=keeping,
        cache=cache,
    )
    assert steps == [3, 4]
    assert resumed.happened["resumed_at"] == [2]
    assert resumed.happened["losses"] == straight.happened["losses"]
    one, other = weights(whole), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(CheckpointMismatch, match="ema"):
        distill(
            tiny_folder(name), tmp_path / "more", PROMPTS, config(steps=4, method=method, ema=0.5),
            checkpoints=keeping,
        )  # fmt: skip


def test_another_seed_is_another_student(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        distill(tiny_folder("sd"), tmp_path / str(seed), PROMPTS, config(seed=seed, method="full"))
    one, other = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "precision"), [("sana", "fp16"), ("sd3", "bf16")])
def test_half_precision_distils(
    name: str, precision: str, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    made = distill(tiny_folder(name), tmp_path / "student", PROMPTS, config(precision=precision))
    assert np.isfinite(made.happened["losses"]).all()
    before, after = weights(tiny_folder(name)), weights(tmp_path / "student")
    same = [torch.equal(before[name], after[name]) for name in before]
    # What was not trained is the teacher's to the last bit, whatever the precision of the run.
    assert any(same)
    assert not all(same)


def test_a_folder_of_images_teaches_as_well(
    tiny_folder: Callable[..., Path], dataset: Path, tmp_path: Path
) -> None:
    made = distill(tiny_folder("sdxl"), tmp_path / "student", [], config(), images=dataset)
    assert (made.data["kind"], made.data["images"]) == ("images", 5)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_latents_drawn_are_those_of_the_images_drawn(name: str, tiny_folder: Callable[..., Path]) -> None:
    with LoadedPipeline(tiny_folder(name), device="cpu") as loaded:
        kind, pipe = loaded.family, loaded.pipe
        conditioning = kind.encode_prompts(pipe, ["a cat", "a dog"])
        negative = kind.encode_prompts(pipe, [""])

        def generators() -> list[torch.Generator]:
            return [image_generator(0, number) for number in range(2)]

        wanted: dict[str, Any] = {"steps": 2, "guidance": 2.0, "resolution_px": 64}
        images = kind.sample(pipe, conditioning, negative, generators=generators(), **wanted)
        latents = kind.sample_latents(pipe, conditioning, negative, generators=generators(), **wanted)
        shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
        with torch.no_grad():
            pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor + shift).sample
        again = pipe.image_processor.postprocess(pixels)
    assert latents.shape == (2, *latents.shape[1:])
    for image, expected in zip(again, images, strict=True):
        np.testing.assert_allclose(np.asarray(image, float), np.asarray(expected, float), atol=1)


@pytest.mark.parametrize("method", [Lora(4, 8), Full()], ids=["lora", "full"])
def test_the_whole_weights_predict_what_the_trained_denoiser_does(
    method: Any, tiny_folder: Callable[..., Path]
) -> None:
    wanted = config()
    with LoadedPipeline(tiny_folder("pixart"), device="cpu") as loaded:
        kind, pipe = loaded.family, loaded.pipe
        conditioning = kind.encode_prompts(pipe, ["a cat", "a dog"])
        noisy, levels = torch.randn(2, 4, 8, 8), torch.tensor([999, 19])
        with torch.no_grad():
            before = kind.predict(pipe, kind.denoiser(pipe), noisy, levels, conditioning)
            with attached(loaded, method, wanted) as parameters:
                for parameter in parameters.values():
                    parameter.data += 0.05 * torch.randn(parameter.shape)
                trained = kind.predict(pipe, kind.denoiser(pipe), noisy, levels, conditioning)
                whole = _whole_weights(loaded, method)
            kind.denoiser(pipe).load_state_dict(whole)
            after = kind.predict(pipe, kind.denoiser(pipe), noisy, levels, conditioning)
    torch.testing.assert_close(after, trained, rtol=1e-4, atol=1e-5)
    assert (before - trained).abs().max() > 1e-3


class Straight(torch.nn.Module):
    """The exact velocity where all clean latents are one point, times `scale`; conditioning is added."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(patch_size=1)

    def forward(self, noisy: torch.Tensor, sigmas: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        exact = (noisy - 0.7) / sigmas.clamp(min=1e-9).view(-1, 1, 1, 1)
        return exact * self.scale + added.view(-1, 1, 1, 1)


class Point:
    """A flow family whose exact denoiser is known."""

    def __init__(self, classifier_free: bool = True) -> None:
        self.classifier_free = classifier_free
        self.told: list[float | None] = []

    def denoiser(self, pipe: Any) -> torch.nn.Module:
        return pipe

    def predict(self, _: Any, denoiser: Any, noisy: Any, levels: Any, rows: Any, guidance: Any = None) -> Any:
        self.told.append(guidance)
        return denoiser(noisy, levels, rows["added"])


class Noise:
    """Four images, whatever they are: their noise decides the loss of a point's exact denoiser."""

    shapes = None

    def __init__(self, added: float) -> None:
        self.added = added

    def __len__(self) -> int:
        return 4

    def batch(self, picked: list[int], *_: Any) -> Any:
        return torch.full((len(picked), 4, 2, 2), 0.7), {"added": torch.full((len(picked),), self.added)}


def exact_training(added: float = 0.0, of: Point | None = None, **changes: Any) -> ConsistencyTraining:
    denoiser = Straight()
    loaded: Any = SimpleNamespace(device=torch.device("cpu"), family=of or Point(), pipe=denoiser)
    scheduler = student_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), family("sd3"), 10)
    path = teacher_path(scheduler, solver_steps=10, tokens=1, device=loaded.device)
    negative = {"added": torch.zeros(1)}
    parameters = dict(denoiser.named_parameters())
    return ConsistencyTraining(loaded, parameters, Noise(added), config(**changes), path, 3.0, negative)


def test_the_loss_of_an_exactly_consistent_student_is_zero() -> None:
    training = exact_training(huber=0.1)
    assert training.step(1) == pytest.approx(0, abs=1e-7)
    for wrong in ("parameters", "_target"):
        training = exact_training(huber=0.1)
        getattr(training, wrong)["scale"].data.fill_(0.9)
        assert training.step(1) > 1e-4, wrong


def test_the_teacher_is_guided_and_stays_itself_while_the_student_moves() -> None:
    training = exact_training(added=1.0)
    noisy, levels = torch.randn(2, 4, 2, 2), torch.tensor([0.5, 1.0])
    rows = {"added": torch.ones(2)}
    exact = (noisy - 0.7) / levels.view(-1, 1, 1, 1)
    training.parameters["scale"].data.fill_(0.5)
    # Guidance 3: what the prompt adds to the unconditional velocity counts threefold.
    torch.testing.assert_close(training._teach(noisy, levels, rows), exact + 3.0)


def test_where_guidance_is_an_input_the_student_is_told_that_there_is_none() -> None:
    told = Point(classifier_free=False)
    exact_training(of=told).step(1)
    # Teacher, target, student.
    assert told.told == [3.0, 1.0, 1.0]


def test_the_target_follows_the_student_and_is_what_is_kept() -> None:
    training = exact_training(added=1.0, ema=0.75, learning_rate=0.1, steps=10)
    training.step(1)
    now = training.parameters["scale"].item()
    assert now != 1
    target = training.tensors()["target/scale"].item()
    assert target == pytest.approx(0.75 + 0.25 * now)
    training.keep_target()
    assert training.parameters["scale"].item() == target


def test_the_learning_rate_falls_to_zero_at_the_end() -> None:
    training = exact_training(added=1.0, steps=4, decay_share=0.5, learning_rate=0.1)
    rates = []
    for step in range(1, 5):
        training.step(step)
        rates.append(training._optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05])


def test_the_pseudo_huber_loss_is_quadratic_when_small_and_linear_when_large() -> None:
    values, targets = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert pseudo_huber(values, targets, 1e-9).item() == pytest.approx(3.5)
    assert pseudo_huber(values, targets, 10).item() == pytest.approx(12.5 / 20, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"ema": 1.0}, "ema"),
        ({"guidance": 0.5}, "guidance"),
        ({"decay_share": 1.5}, "decay_share"),
        ({"method": "dora"}, "method"),
        ({"precision": "int8"}, "precision"),
        ({"seed": -1}, "seed"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_a_config_is_checked_when_built(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidConfig, match=told):
        config(**changes)


def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    def told(teacher: Path, output: Path, prompts: list[str], **changes: Any) -> str:
        with pytest.raises(TrainingError) as failure:
            distill(teacher, output, prompts, config(**changes))
        assert "\n" not in str(failure.value)
        return str(failure.value)

    teacher, new = tiny_folder("sd"), tmp_path / "new"
    (tmp_path / "there").mkdir()
    assert "exists already" in told(teacher, tmp_path / "there", PROMPTS)
    assert "1 different prompts are fewer than one batch of 2" in told(teacher, new, ["a cat", "a cat"])
    assert "neither a folder here nor a name on the hub" in told(tmp_path / "none", new, PROMPTS)
    assert "multiple" in told(teacher, new, PROMPTS, resolution_px=65)
    assert "1000 timesteps" in told(teacher, new, PROMPTS, solver_steps=1001)
    assert "takes no guidance" in told(tiny_folder("flux", guidance_embeds=False), new, PROMPTS)
    student = tmp_path / "student"
    shutil.copytree(teacher, student)
    index = json.loads((student / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "LCMScheduler"]
    (student / "model_index.json").write_text(json.dumps(index))
    assert "is a student already" in told(student, new, PROMPTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "there"]


def test_a_loss_that_is_no_number_leaves_nothing(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(NonFiniteLoss, match="learning rate"):
        distill(
            tiny_folder("sd"),
            tmp_path / "student",
            PROMPTS,
            config(steps=4, method="full", learning_rate=1e30),
            checkpoints=Checkpoints(work, every_steps=1, resume_from=work),
        )
    assert not (tmp_path / "student").exists()
    assert checkpoint_step(work) is None


def test_a_failed_write_leaves_nothing(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matchgraph.training.tune.student_folder.write_json", full)
    with pytest.raises(OSError, match="No space"):
        distill(tiny_folder("sd"), tmp_path / "student", PROMPTS, config())
    assert not list(tmp_path.iterdir())


def test_components_are_copied_where_they_cannot_be_linked(
    tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    teacher, student = tiny_folder("sd"), tmp_path / "student"
    distill(teacher, student, PROMPTS, config())
    for file in files_below(teacher / "text_encoder"):
        copy = student / file.relative_to(teacher)
        assert copy.read_bytes() == file.read_bytes()
        assert not os.path.samefile(copy, file)


def test_a_folder_that_is_no_pipeline_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(BadPipeline):
        is_student(tmp_path)


def test_a_model_that_is_told_guidance_is_no_teacher_whatever_it_is_drawn_with(tmp_path: Path) -> None:
    folder = tiny.save_lcm(tmp_path / "lcm")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InvalidConfig, match="takes the guidance scale as an input"):
        distill(folder, tmp_path / "student", PROMPTS, config())
