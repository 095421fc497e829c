"""Consistency distillation: a student that draws in one to eight steps what its teacher draws in many.

The student is the teacher's own pipeline with other denoiser weights and diffusers' scheduler for
consistency models, so whatever loads and draws the one does so with the other. The teacher's guidance is
distilled into it: it is drawn without (guidance 1), with one forward of the denoiser for each step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.progress import OnWork, Work, no_work
from matchgraph.training.config import DistillConfig
from matchgraph.training.errors import CannotProfile, InvalidConfig, NonFiniteEncoding
from matchgraph.training.files import folder_name, json_hash
from matchgraph.training.images import list_captioned_images
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.encoding import (
    EncodedDataset,
    Rows,
    dataset_hash,
    encode_dataset,
    encode_prompts,
)
from matchgraph.training.pipelines.hub import pipeline_folder
from matchgraph.training.pipelines.loading import (
    LoadedPipeline,
    quiet_libraries,
)
from matchgraph.training.pipelines.memory import PeakMemory
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.pipelines.samplers import guidance_width
from matchgraph.training.products import rounded_products
from matchgraph.training.seeds import seeded_generator
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.consistency import student_scheduler, teacher_path
from matchgraph.training.tune.consistency_training import NO_GUIDANCE, ConsistencyTraining
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import Full, Lora, Method
from matchgraph.training.tune.session import Session, circumstances, identity_of
from matchgraph.training.tune.student_folder import check_output, check_teacher, plain_denoiser, write_student

if TYPE_CHECKING:
    import torch


# Losses in the record are means over this many steps.
LOSS_WINDOW = 50


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
    on_work: OnWork = no_work,
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
        on_work: called with what the teacher is about to draw; not where its cost cannot be counted.
        on_draw: called with the number of images drawn so far and of all.
        on_step: called after each step with its number, from 1, and its loss; what it raises stops the run,
            and a checkpoint of that step is kept. It is not called for steps that a checkpoint covers.
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
            dataset = _drawn(loaded, wanted, config, guidance, identity["model"], use, on_work, on_draw)
        else:
            dataset = encode_dataset(
                loaded, images, resolution_px=config.resolution_px, seed=config.seed, use=use
            )
        negative = encode_prompts(loaded, [""]).pick([0], loaded.device)
        session = Session(config.steps, checkpoints, identity, began, memory)
        method: Method = Lora(config.rank, config.alpha) if config.method == "lora" else Full()
        with (
            attached(loaded, method, config) as parameters,
            placed(loaded, "denoiser", training=True),
            rounded_products(loaded.device),
        ):
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
            teacher={"name": folder_name(folder.resolve()), "sha256": identity["model"]},
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


def _check_count(found: int, what: str, config: DistillConfig) -> None:
    if found < config.batch_size:
        raise InvalidConfig(
            f"{found} different {what} are fewer than one batch of {config.batch_size}; give more {what}, "
            "or a smaller batch size."
        )


def _guidance(loaded: LoadedPipeline, config: DistillConfig) -> float:
    family = loaded.family
    if guidance_width(loaded.pipe) is not None:
        raise InvalidConfig(
            f"{loaded.folder} takes the guidance scale as an input, so it is a student already; give "
            "its teacher."
        )
    embeds_guidance = getattr(family.denoiser(loaded.pipe).config, "guidance_embeds", False)
    if not family.classifier_free and not embeds_guidance:
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
    on_work: OnWork,
    on_draw: Callable[[int, int], None] | None,
) -> EncodedDataset:
    """The teacher's own images for its prompts, as latents."""
    import torch

    from matchgraph.training.pipelines.profile import profiler_of

    of_image = [1 + number % len(prompts) for number in range(len(prompts) * config.draws)]
    drawing: dict[str, Any] = {
        "steps": config.teacher_steps,
        "guidance": guidance,
        "resolution_px": config.resolution_px,
    }
    with suppress(CannotProfile):
        cost = profiler_of(loaded.folder).price(**drawing).parts["denoising"]
        on_work(Work(len(of_image), len(of_image) * cost))
    conditioning = encode_prompts(loaded, ["", *prompts], use)
    negative = conditioning.pick([0], loaded.device)
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
                    generators=[
                        seeded_generator("drawn", config.seed, start + number) for number in range(len(rows))
                    ],
                    **drawing,
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
