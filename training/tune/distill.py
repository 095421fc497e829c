"""Consistency distillation: a student that draws in one to eight steps what its teacher draws in many.

The student is the teacher's own pipeline with other denoiser weights and diffusers' scheduler for
consistency models, so whatever loads and draws the one does so with the other. The teacher's guidance is
distilled into it: it is drawn without (guidance 1), with one forward of the denoiser for each step.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig, NonFiniteEncoding
from matchgraph.training.files import SCRATCH_PREFIX, files_below, json_hash, write_json
from matchgraph.training.images import list_captioned_images
from matchgraph.training.memory import PeakMemory, encoders_parked
from matchgraph.training.pipelines.families.base import repeat_row, training_noise
from matchgraph.training.pipelines.hub import model_name, pipeline_folder
from matchgraph.training.pipelines.loading import (
    PRECISIONS,
    LoadedPipeline,
    quiet_libraries,
    read_model_index,
    weight_variant,
)
from matchgraph.training.pipelines.samplers import STUDENT_SCHEDULERS, guidance_width
from matchgraph.training.seeds import seeded_generator
from matchgraph.training.tune.cache import CacheUse, EncodingCache
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.consistency import TeacherPath, student_scheduler, teacher_path
from matchgraph.training.tune.encoding import (
    EncodedDataset,
    Rows,
    dataset_hash,
    encode_dataset,
    encode_prompts,
)
from matchgraph.training.tune.loop import Training, attached
from matchgraph.training.tune.methods import Full, Lora, Method
from matchgraph.training.tune.session import Session, circumstances, identity_of

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Conditioning

RECORD_FILE = "distillation.json"
METHODS = ("lora", "full")
# Guidance that means none to every family's pipeline; where guidance is an input, what the student is told.
NO_GUIDANCE = 1.0
# Losses in the record are means over so many steps.
LOSS_WINDOW = 50


@dataclass(frozen=True)
class DistillConfig:
    """How to distil; checked when built.

    Attributes:
        steps: optimiser steps.
        batch_size: latents per step; also how many are drawn at a time.
        learning_rate: of AdamW.
        decay_share: the learning rate falls to 0, on a line, over this last share of the steps.
        method: `lora`, or `full` to train all weights of the denoiser; rank and alpha then mean nothing.
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        guidance: the teacher's scale; None takes the family's default.
        solver_steps: places on the teacher's path that the student is made consistent over; the teacher goes
            one of them in a step (50 of 1,000 timesteps: a skip of 20).
        ema: decay of the target's weights, which follow the student's and are what is kept in the end.
        huber: below this distance the loss is quadratic, above it linear.
        teacher_steps: denoising steps in which the teacher draws the images that are learnt from.
        draws: images drawn for each prompt.
        resolution_px: side of the images.
        seed: decides the images drawn, start values, order, places on the path and noise.
        precision: see `training.tune.lora.FineTuneConfig`.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are clipped to this norm.
        device: `auto` or a torch device name.
        gradient_accumulation: forward passes per step.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.

    Source:
        Luo et al., "Latent consistency models" (2023), section 5.1 (skip of 20, EMA 0.95 in the released
        code) and 4.4; its pseudo-Huber loss with 0.001 is that of diffusers' distillation scripts.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-4
    decay_share: float = 0.25
    method: str = "lora"
    rank: int = 64
    alpha: float = 64
    guidance: float | None = None
    solver_steps: int = 50
    ema: float = 0.95
    huber: float = 1e-3
    teacher_steps: int = 25
    draws: int = 1
    resolution_px: int = 512
    seed: int = 42
    precision: str = "fp32"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    device: str = "auto"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in (
            *("steps", "batch_size", "rank", "solver_steps", "teacher_steps", "draws", "resolution_px"),
            "gradient_accumulation",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidConfig(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}.")
        for name in ("learning_rate", "alpha", "huber", "max_gradient_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidConfig(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidConfig(f"weight_decay must be at least 0, got {self.weight_decay!r}.")
        if not 0 <= self.decay_share <= 1:
            raise InvalidConfig(f"decay_share must lie between 0 and 1, got {self.decay_share!r}.")
        if not 0 <= self.ema < 1:
            raise InvalidConfig(f"ema must be at least 0 and below 1, got {self.ema!r}.")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise InvalidConfig(f"guidance must be at least 1, which is none, got {self.guidance!r}.")
        if self.precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.method not in METHODS:
            raise InvalidConfig(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Distillation:
    """A student and how it came to be, as written to its `distillation.json`.

    Attributes:
        folder: the student's pipeline.
        teacher: its folder's name, and the SHA-256 of its components.
        config: the whole configuration; `guidance` is the scale used.
        data: `kind` (drawn or images), count of `prompts` and `images`, and `sha256`.
        happened: mean losses of each `LOSS_WINDOW` steps, seconds, where it was interrupted...
        used: versions, machine and device.
    """

    folder: Path
    teacher: dict[str, str]
    config: dict[str, Any]
    data: dict[str, Any]
    happened: dict[str, Any]
    used: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All but the folder, ready for JSON."""
        fields = asdict(self)
        del fields["folder"]
        return fields


def distill(
    teacher: str | os.PathLike[str],
    output: str | os.PathLike[str],
    prompts: Sequence[str],
    config: DistillConfig,
    *,
    images: str | os.PathLike[str] | None = None,
    on_draw: Callable[[int, int], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    checkpoints: Checkpoints | None = None,
    cache: EncodingCache | None = None,
) -> Distillation:
    """Distil a student from a teacher and write it as a pipeline folder, whole or not at all.

    Each step noises clean latents to a place on the teacher's path, lets the teacher's solver go one place
    down with guidance, and takes the student's clean latents at the first place towards the target's at the
    second. On one machine and the CPU, equal arguments give equal weights, also after an interruption.

    Args:
        teacher: a pipeline folder of any family, or its name on the hub.
        output: the student's folder; must not exist.
        prompts: what the teacher draws to learn from, repeated ones once; left out with `images`.
        config: how.
        images: a folder of captioned images to learn from instead of the teacher's own.
        on_draw: called with the number of images drawn so far and of all.
        on_step: called after each step with its number, from 1, and its loss; what it raises stops the run,
            and a checkpoint of that step is kept. Steps that a checkpoint stands for are not told again.
        checkpoints: where the run's state is kept and what it goes on from; none by default.
        cache: where drawn latents and encodings are kept for other runs; none by default.

    Returns:
        The record of the run.

    Raises:
        BadPipeline: the teacher cannot be loaded.
        BadDataset: the image folder is faulty.
        InvalidConfig: the output exists, there are fewer prompts or images than a batch takes, or the
            configuration does not suit the teacher.
        UnsupportedScheduler: the teacher is a student, or its scheduler has no process known here.
        CheckpointMismatch: the checkpoint to go on from is of another run.
        NonFiniteEncoding: the teacher draws infinite values at this precision.
        NonFiniteLoss: a loss or weight became infinite or NaN; nothing is left behind.

    Source:
        Song et al., "Consistency models" (2023), Algorithm 2; Luo et al., "Latent consistency models"
        (2023), Algorithm 1, with one guidance scale instead of a range of them.
    """
    target = Path(output)
    check_output(target)
    folder = pipeline_folder(teacher)
    check_teacher(folder)
    wanted = list(dict.fromkeys(prompts))
    if images is None:
        _check_count(len(wanted), "prompts", config)
    with LoadedPipeline(folder, device=config.device, precision=config.precision) as loaded:
        began, memory = time.perf_counter(), PeakMemory(loaded.device)
        scheduler = student_scheduler(loaded.pipe.scheduler, loaded.family, config.solver_steps)
        loaded.check_resolution(config.resolution_px)
        guidance = _guidance(loaded, config)
        if images is None:
            data_hash = json_hash(wanted)
        else:
            kept = [image for image in list_captioned_images(images) if not image.held_out]
            _check_count(len(kept), "images", config)
            data_hash = dataset_hash(kept)
        identity = identity_of(loaded, data_hash, config)
        use = CacheUse(cache)
        if images is None:
            dataset = _drawn(loaded, wanted, config, guidance, identity["model"], use, on_draw)
        else:
            dataset = encode_dataset(
                loaded, images, resolution_px=config.resolution_px, seed=config.seed, use=use
            )
        negative = encode_prompts(loaded, [""]).pick([0], loaded.device)
        session = Session(config.steps, checkpoints, identity, began, memory)
        method: Method = Lora(config.rank, config.alpha) if config.method == "lora" else Full()
        with encoders_parked(loaded), attached(loaded, method, config) as parameters:
            side = dataset.latents.pick([0])["latents"].shape[-1]
            path = teacher_path(
                scheduler,
                solver_steps=config.solver_steps,
                tokens=loaded.family.image_tokens(loaded.pipe, side),
                device=loaded.device,
            )
            training = ConsistencyTraining(loaded, parameters, dataset, config, path, guidance, negative)
            session.train(training, on_step)
            training.keep_target()
            weights = _whole_weights(loaded, method)
        losses = session.losses
        record = Distillation(
            target,
            teacher={"name": model_name(folder.resolve()), "sha256": identity["model"]},
            config=config.to_dict() | {"guidance": guidance},
            data={
                "kind": "drawn" if images is None else "images",
                "prompts": len(dataset.conditioning) - 1,
                "images": len(dataset),
                "sha256": data_hash,
            },
            happened={
                "losses": [
                    sum(window) / len(window)
                    for start in range(0, len(losses), LOSS_WINDOW)
                    if (window := losses[start : start + LOSS_WINDOW])
                ],
                "seconds": session.seconds,
                "peak_memory_bytes": session.peak_memory_bytes,
                "trainable_parameters": sum(each.numel() for each in parameters.values()),
                "skipped_steps": session.skipped_steps,
                "resumed_at": session.resumed_at,
                "notes": session.notes,
            },
            used=circumstances(loaded),
        )
        student = plain_denoiser(loaded)
        student.load_state_dict(weights)
        write_student(loaded, student, scheduler, target, record.to_dict())
    return record


class ConsistencyTraining(Training):
    """The training loop with consistency distillation's loss, and a target that follows the student.

    One module serves as student, target and teacher, with three sets of its trained weights: those of now,
    their moving average, and those it started from.

    Args:
        loaded: the pipeline, its method attached.
        parameters: what is trained, by name, still as it was attached.
        dataset: latents and captions.
        config: how.
        path: the teacher's.
        guidance: the teacher's scale.
        negative: one row, the unconditional one.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: EncodedDataset,
        config: DistillConfig,
        path: TeacherPath,
        guidance: float,
        negative: Conditioning,
    ) -> None:
        super().__init__(loaded, parameters, dataset, config)
        self._path, self._guidance, self._negative = path, guidance, negative
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._target = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def step(self, number: int) -> float:
        """See `Training.step`; the target moves after it."""
        config = self._config
        last = config.decay_share * config.steps
        share = min(1.0, (config.steps - number + 1) / last) if last else 1.0
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * share
        loss = super().step(number)
        for name, parameter in self.parameters.items():
            self._target[name].lerp_(parameter.detach(), 1 - config.ema)
        return loss

    def keep_target(self) -> None:
        """Give the student the target's weights."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self._target[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Training.tensors`; the target is among them."""
        return super().tensors() | {f"target/{name}": tensor for name, tensor in self._target.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], **numbers: Any) -> None:
        """See `Training.restore`."""
        super().restore(tensors, **numbers)
        for name, tensor in self._target.items():
            tensor.copy_(tensors[f"target/{name}"])

    def _loss(self, noise: torch.Generator) -> torch.Tensor:
        import torch

        config, path, count = self._config, self._path, self._config.batch_size
        latents, conditioning = self._dataset.batch(self._order.take(count), [True] * count, self._device)
        places = torch.randint(1, len(path) + 1, (count,), generator=noise).to(self._device)
        noisy = path.noised(latents, training_noise(latents, noise), places)
        narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        with torch.autocast(self._device.type, dtype=narrow, enabled=narrow is not None):
            with torch.no_grad():
                output = self._teach(noisy, path.levels[places], conditioning)
                below = path.step(noisy, output, places)
                output = self._predict(
                    _Weighted(self._denoiser, self._target), below, places - 1, conditioning
                )
                target = path.consistent(below, output, places - 1)
            output = self._predict(self._denoiser, noisy, places, conditioning)
            return pseudo_huber(path.consistent(noisy, output, places), target, config.huber)

    def _predict(
        self, denoiser: Any, noisy: torch.Tensor, places: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        loaded, levels = self._loaded, self._path.levels[places]
        return loaded.family.predict(loaded.pipe, denoiser, noisy, levels, conditioning, NO_GUIDANCE).float()

    def _teach(self, noisy: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The teacher's guided output.

        Source:
            Ho and Salimans, "Classifier-free diffusion guidance" (2022), Eq. 6, in the pipelines' scale,
            w + 1.
        """
        import torch

        family, pipe, guidance = self._loaded.family, self._loaded.pipe, self._guidance
        denoiser: Any = _Weighted(self._denoiser, self._start)
        if not family.classifier_free or guidance == NO_GUIDANCE:
            return family.predict(pipe, denoiser, noisy, levels, conditioning, guidance).float()
        count = len(noisy)
        without = conditioning | repeat_row(self._negative, count)
        # Autocast cannot join rows of another half precision than its own, as Sana's text encoder gives them.
        with torch.autocast(noisy.device.type, enabled=False):
            both = {name: torch.cat([rows, without[name]]) for name, rows in conditioning.items()}
        output = family.predict(pipe, denoiser, noisy.repeat(2, 1, 1, 1), levels.repeat(2), both).float()
        guided, plain = output.chunk(2)
        return plain + guidance * (guided - plain)


class _Weighted:
    """A module that computes with other weights than it has."""

    def __init__(self, module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        self._module, self._weights = module, dict(weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.func import functional_call

        return functional_call(self._module, self._weights, args, kwargs)


def pseudo_huber(values: torch.Tensor, targets: torch.Tensor, huber: float) -> torch.Tensor:
    """The mean of sqrt(d^2 + c^2) - c over all differences d.

    Args:
        values: of any shape.
        targets: of the same.
        huber: c.
    """
    return ((values.float() - targets.float()).square() + huber**2).sqrt().mean() - huber


def is_student(folder: str | os.PathLike[str]) -> bool:
    """Whether a pipeline folder holds a consistency-distilled model, ours or another's.

    Args:
        folder: with a `model_index.json`.

    Raises:
        BadPipeline: it has none.
    """
    entry = read_model_index(folder).get("scheduler")
    named = isinstance(entry, list) and entry[-1] in STUDENT_SCHEDULERS
    return named or (Path(folder) / RECORD_FILE).exists()


def check_output(target: Path) -> None:
    """Refuse a student's folder that is there already or cannot be made.

    Raises:
        InvalidConfig: naming it.
    """
    if target.exists() or target.is_symlink():
        raise InvalidConfig(f"{target} exists already; remove it or give another output folder.")
    if target.name == "" or (target.parent.exists() and not target.parent.is_dir()):
        raise InvalidConfig(f"{target} cannot be made a folder; give another output folder.")


def check_teacher(folder: Path) -> None:
    """Refuse a teacher that is a student.

    Raises:
        InvalidConfig: naming it.
        BadPipeline: the folder has no `model_index.json`.
    """
    if is_student(folder):
        raise InvalidConfig(f"{folder} is a student already; give the model that it was distilled from.")


def _check_count(found: int, what: str, config: DistillConfig) -> None:
    if found < config.batch_size:
        raise InvalidConfig(
            f"{found} different {what} are fewer than one batch of {config.batch_size}; give more {what}, "
            "or a smaller batch_size."
        )


def _guidance(loaded: LoadedPipeline, config: DistillConfig) -> float:
    family = loaded.family
    if guidance_width(loaded.pipe) is not None:
        raise InvalidConfig(
            f"{loaded.folder} is told the guidance scale, so it is a student already; give its teacher."
        )
    told = getattr(family.denoiser(loaded.pipe).config, "guidance_embeds", False)
    if not family.classifier_free and not told:
        if config.guidance not in (None, NO_GUIDANCE):
            raise InvalidConfig(f"{loaded.folder} takes no guidance; leave guidance out.")
        return NO_GUIDANCE
    return float(family.default_guidance if config.guidance is None else config.guidance)


def _drawn(
    loaded: LoadedPipeline,
    prompts: Sequence[str],
    config: DistillConfig,
    guidance: float,
    model_hash: str,
    use: CacheUse,
    on_draw: Callable[[int, int], None] | None,
) -> EncodedDataset:
    """The teacher's own images for its prompts, as latents."""
    import torch

    conditioning = encode_prompts(loaded, ["", *prompts], use)
    negative = conditioning.pick([0], loaded.device)
    of_image = [1 + number % len(prompts) for number in range(len(prompts) * config.draws)]
    facts = {
        "what": "drawn",
        "model": model_hash,
        "guidance": guidance,
        **{name: getattr(config, name) for name in ("teacher_steps", "resolution_px", "seed", "precision")},
        "device": loaded.device.type,
    }
    shards = []
    for start in range(0, len(of_image), config.batch_size):
        rows = of_image[start : start + config.batch_size]
        facts |= {"first": start, "prompts": [prompts[row - 1] for row in rows]}
        shard = use.fetch(facts)
        if shard is None:
            with torch.no_grad():
                latents = loaded.family.sample_latents(
                    loaded.pipe,
                    conditioning.pick(rows, loaded.device),
                    negative,
                    steps=config.teacher_steps,
                    guidance=guidance,
                    generators=[
                        seeded_generator("drawn", config.seed, start + number) for number in range(len(rows))
                    ],
                    resolution_px=config.resolution_px,
                )
            if not torch.isfinite(latents).all():
                raise NonFiniteEncoding(
                    f"{loaded.folder} draws infinite values in {loaded.precision}; distil in bf16 or fp32."
                )
            shard = use.store(facts, {"latents": latents.cpu().contiguous()})
        shards.append(shard)
        if on_draw is not None:
            on_draw(start + len(rows), len(of_image))
    with quiet_libraries():
        truncated = loaded.family.count_truncated(loaded.pipe, prompts)
    return EncodedDataset(
        latents=Rows(shards),
        conditioning=conditioning,
        image_conditioning={},
        caption_rows=of_image,
        captioned=len(of_image),
        truncated=truncated,
        aspect={},
    )


def _whole_weights(loaded: LoadedPipeline, method: Method) -> dict[str, torch.Tensor]:
    """The trained denoiser's weights, adapters added to the teacher's own: float32, on the CPU."""
    import torch
    from peft.tuners.lora import LoraLayer

    live: Any = loaded.family.denoiser(loaded.pipe)
    if isinstance(method, Full):
        return {name: tensor.detach().float().cpu() for name, tensor in live.state_dict().items()}
    weights = {name: tensor.float() for name, tensor in plain_denoiser(loaded).state_dict().items()}
    with torch.no_grad():
        for name, layer in live.named_modules():
            if isinstance(layer, LoraLayer):
                for adapter in layer.active_adapters:
                    weights[f"{name}.weight"] += layer.get_delta_weight(adapter).float().cpu()
    return weights


def plain_denoiser(loaded: LoadedPipeline) -> Any:
    """The teacher's denoiser as its folder has it, in single precision, whatever the run's."""
    import diffusers
    import torch

    family = loaded.family
    index = read_model_index(loaded.folder)
    kind = getattr(diffusers, index[family.denoiser_attribute][1])
    with quiet_libraries():
        return kind.from_pretrained(
            loaded.folder / family.denoiser_attribute,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            variant=_variant(loaded.folder),
        )


def _variant(folder: Path) -> str | None:
    index = read_model_index(folder)
    return weight_variant(folder, [name for name, entry in index.items() if isinstance(entry, list)])


def _stored_precision(folder: Path) -> torch.dtype:
    """The floating-point type that a component's weights are stored in."""
    import torch
    from safetensors import safe_open

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                stored = file.get_slice(name).get_dtype()
                if stored.startswith(("F", "BF")):
                    return kinds.get(stored, torch.float32)
    return torch.float32


def write_student(
    loaded: LoadedPipeline, student: Any, scheduler: Any, target: Path, record: Mapping[str, Any]
) -> None:
    """Write a student's folder; what it shares with its teacher takes no room where links can be made.

    Args:
        loaded: the teacher.
        student: its denoiser in single precision, which is stored in the precision of the teacher's.
        scheduler: what it is drawn with.
        target: the folder, which must not exist.
        record: how it came to be, for its `distillation.json`.

    Raises:
        InvalidConfig: the folder exists.
        OSError: it cannot be written; nothing is left behind.
    """
    import torch

    teacher, family = loaded.folder, loaded.family
    attribute = family.denoiser_attribute
    index = read_model_index(teacher)
    # The module's own method, because diffusers' would warn of what is meant here.
    torch.nn.Module.to(student, _stored_precision(teacher / attribute))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")
    scratch.mkdir()
    try:
        for name, entry in index.items():
            if isinstance(entry, list) and name not in (attribute, "scheduler") and entry[0] is not None:
                _share(teacher / name, scratch / name)
        with quiet_libraries():
            student.save_pretrained(scratch / attribute, safe_serialization=True, variant=_variant(teacher))
            scheduler.save_pretrained(scratch / "scheduler")
        _forget_origin(scratch / attribute / "config.json")
        for path in (scratch / attribute).glob("*.safetensors"):
            # The library makes files that their owner alone may read.
            path.chmod((scratch / attribute / "config.json").stat().st_mode & 0o777)
        index["scheduler"] = ["diffusers", type(scheduler).__name__]
        index.pop("_name_or_path", None)
        write_json(scratch / "model_index.json", index)
        write_json(scratch / RECORD_FILE, record)
        check_output(target)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(component: Path, target: Path) -> None:
    """Link a component's files, or copy them where the file system cannot."""
    for file in files_below(component):
        place = target / file.relative_to(component)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(file), place)
        except OSError:
            with suppress(FileNotFoundError):
                place.unlink()
            shutil.copyfile(file, place)


def _forget_origin(config: Path) -> None:
    """Take the folder that a component was loaded from out of its configuration."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
