"""Fine-tuning of a pipeline's denoiser on a folder of captioned images."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matchgraph.training.errors import InvalidConfig
from matchgraph.training.files import file_hash, write_json
from matchgraph.training.images import list_captioned_images
from matchgraph.training.memory import PeakMemory, encoders_parked
from matchgraph.training.pipelines.loading import PRECISIONS, LoadedPipeline, opened
from matchgraph.training.tune.cache import CacheUse, EncodingCache
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.encoding import dataset_hash, encode_dataset
from matchgraph.training.tune.loop import Training, attached
from matchgraph.training.tune.methods import WEIGHT_FILES, Full, Lora, Method
from matchgraph.training.tune.session import Session, circumstances, identity_of

RECORD_FILE = "record.json"
METHODS = ("lora", "full")


@dataclass(frozen=True)
class FineTuneConfig:
    """What to train and how; checked when built.

    Steps, batch size, learning rate and optimiser default to those of Match & Choose, section 5.1; it does
    not give the LoRA rank, and has neither warm-up nor a learning-rate schedule.

    Attributes:
        steps: optimiser steps.
        batch_size: images per forward pass; may exceed the dataset, which then comes more than once.
        learning_rate: of AdamW, constant.
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        resolution_px: images are scaled and cut to a square of this side.
        seed: decides start values, data order, timesteps, noise and which captions are dropped.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        precision: of the frozen weights and of the arithmetic, `fp32`, `bf16` or `fp16`; trained weights and
            their gradients are always float32. In fp16 the loss is scaled, on the CPU as on a GPU, and a step
            whose gradients overflow leaves the weights alone; bf16 needs neither.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are clipped to this norm.
        device: `auto` or a torch device name.
        gradient_accumulation: forward passes per step, so a step sees this many times `batch_size` images.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        method: `lora`, or `full` to train all weights of the denoiser; rank and alpha then mean nothing.
        compile: run the denoiser through torch.compile; a failure to compile is noted, and trained without.
    """

    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-5
    rank: int = 16
    alpha: float = 16
    resolution_px: int = 512
    seed: int = 42
    caption_dropout: float = 0.1
    precision: str = "fp32"
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    device: str = "auto"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    method: str = "lora"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank", "resolution_px", "gradient_accumulation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidConfig(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}.")
        for name in ("learning_rate", "alpha", "max_gradient_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidConfig(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidConfig(f"weight_decay must be at least 0, got {self.weight_decay!r}.")
        if not 0 <= self.caption_dropout <= 1:
            raise InvalidConfig(f"caption_dropout must lie between 0 and 1, got {self.caption_dropout!r}.")
        if self.precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.method not in METHODS:
            raise InvalidConfig(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        for name in ("gradient_checkpointing", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidConfig(f"{name} must be true or false, got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FineTuneRecord:
    """One run in three blocks, as written to `record.json`.

    Attributes:
        adapter: the weights file.
        asked: model, dataset and the whole configuration.
        happened: seconds, losses per step, counts of images and captions, what was cropped, peak memory, use
            of the cache, where it was interrupted, the weights' SHA-256.
        used: versions, machine and device.
    """

    adapter: Path
    asked: dict[str, Any]
    happened: dict[str, Any]
    used: dict[str, Any]

    @property
    def losses(self) -> list[float]:
        """Loss of each step, in order."""
        return self.happened["losses"]

    @property
    def seconds(self) -> float:
        """Wall time of all parts of the run that count, loading of the pipeline left out."""
        return self.happened["seconds"]

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights file."""
        return self.happened["adapter_sha256"]

    def to_dict(self) -> dict[str, Any]:
        """The three blocks, ready for JSON."""
        return {"asked": self.asked, "happened": self.happened, "used": self.used}


def fine_tune(
    model: str | os.PathLike[str] | LoadedPipeline,
    dataset_folder: str | os.PathLike[str],
    config: FineTuneConfig,
    out_dir: str | os.PathLike[str],
    on_step: Callable[[int, float], None] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    cache: EncodingCache | None = None,
) -> FineTuneRecord:
    """Train an adapter, or all of the denoiser's weights, and save them.

    Two runs with one configuration on one machine and the CPU give the same bytes, also where one of them was
    interrupted and taken up again from a checkpoint.

    Args:
        model: a pipeline folder, or a pipeline kept loaded for several runs.
        dataset_folder: captioned images, see `training.images.list_captioned_images`.
        config: what to train.
        out_dir: gets `pytorch_lora_weights.safetensors`, written by the pipeline class's own writer (or
            `denoiser.safetensors`, see `training.tune.methods`), and then `record.json`; those of an earlier
            run
            are removed when training starts.
        on_step: called after each step with its number, from 1, and its loss; what it raises stops the run,
            and a checkpoint of that step is kept. Steps that a checkpoint stands for are not told again.
        checkpoints: where the run's state is kept and what it goes on from; none by default.
        cache: where encodings of images and captions are kept for other runs; none by default.

    Returns:
        The record of the run.

    Raises:
        BadPipeline: the model cannot be loaded.
        BadDataset: the dataset folder is faulty.
        BadImage: one of its images is.
        InvalidConfig: the configuration does not suit the pipeline.
        CheckpointMismatch: the checkpoint to go on from is of another configuration, model or dataset.
        NonFiniteEncoding: the VAE fails at this precision.
        NonFiniteLoss: a loss or gradient is infinite or NaN; neither weights nor checkpoints are left behind,
            those of `resume_from` included, which would only lead there again.
    """
    out = Path(out_dir)
    with opened(model, device=config.device, precision=config.precision) as loaded:
        began, memory = time.perf_counter(), PeakMemory(loaded.device)
        identity = {}
        if checkpoints is not None:
            identity = identity_of(loaded, dataset_hash(list_captioned_images(dataset_folder)), config)
        session = Session(config.steps, checkpoints, identity, began, memory, compiling=config.compile)
        use = CacheUse(cache)
        dataset = encode_dataset(
            loaded, dataset_folder, resolution_px=config.resolution_px, seed=config.seed, use=use
        )
        encoding_seconds = time.perf_counter() - began
        out.mkdir(parents=True, exist_ok=True)
        for name in (RECORD_FILE, *WEIGHT_FILES):
            (out / name).unlink(missing_ok=True)
        method = _method(config)
        with encoders_parked(loaded), attached(loaded, method, config) as parameters:
            trainable = sum(parameter.numel() for parameter in parameters.values())
            session.train(Training(loaded, parameters, dataset, config), on_step)
            adapter = method.save(loaded, out)
        images_per_step = config.batch_size * config.gradient_accumulation
        record = FineTuneRecord(
            adapter,
            asked={
                "model": str(loaded.folder),
                "dataset": os.fspath(dataset_folder),
                "config": config.to_dict(),
            },
            happened={
                "seconds": session.seconds,
                "encoding_seconds": encoding_seconds,
                "peak_memory_bytes": session.peak_memory_bytes,
                "images": len(dataset),
                "captioned": dataset.captioned,
                "captions_truncated": dataset.truncated,
                "aspect": dataset.aspect,
                "cache": use.counts(),
                "epochs": config.steps * images_per_step / len(dataset),
                "images_per_step": images_per_step,
                "trainable_parameters": trainable,
                "losses": session.losses,
                "skipped_steps": session.skipped_steps,
                "resumed_at": session.resumed_at,
                "notes": session.notes,
                "adapter_sha256": file_hash(adapter),
            },
            used=circumstances(loaded) | {"compiled": session.compiled},
        )
    write_json(out / RECORD_FILE, record.to_dict())
    return record


def _method(config: FineTuneConfig) -> Method:
    return Lora(config.rank, config.alpha) if config.method == "lora" else Full()
