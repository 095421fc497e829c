"""Fine-tuning of a pipeline's denoiser on a folder of captioned images."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.cache import CacheUse, EncodingCache
from training.checkpoint import (
    Checkpoints,
    DamagedCheckpoint,
    Progress,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from training.encoding import dataset_hash, encode_dataset
from training.errors import InvalidConfig, NonFiniteLoss
from training.files import file_hash, folders_hash, write_json
from training.images import list_captioned_images
from training.loop import Training, attached
from training.memory import PeakMemory, encoders_parked
from training.methods import WEIGHT_FILES, Full, Lora, Method
from training.pipelines import PRECISIONS, LoadedPipeline, opened, read_model_index

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
            `denoiser.safetensors`, see `training.methods`), and then `record.json`; those of an earlier run
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
            identity = _identity(loaded, dataset_hash(list_captioned_images(dataset_folder)), config)
        session = Session(loaded, config, checkpoints, identity, began, memory)
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


@dataclass
class Session:
    """One process's part of a run, which may be taken up where another stopped."""

    loaded: LoadedPipeline
    config: FineTuneConfig
    checkpoints: Checkpoints | None
    identity: dict[str, Any]
    began: float
    memory: PeakMemory
    losses: list[float] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped_steps: int = 0
    compiled: bool = False
    # Of the parts before this one.
    seconds_before: float = 0.0
    peak_before: int = 0

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.began

    @property
    def peak_memory_bytes(self) -> int:
        return max(self.peak_before, self.memory.bytes())

    def train(self, training: Training, on_step: Callable[[int, float], None] | None) -> None:
        """Make the steps that are left, and keep checkpoints of them.

        Raises:
            NonFiniteLoss: see `fine_tune`; the checkpoints are gone.
        """
        try:
            self._train(training, on_step)
        except NonFiniteLoss:
            if self.checkpoints is not None:
                remove_checkpoint(self.checkpoints.folder)
                if self.checkpoints.resume_from is not None:
                    remove_checkpoint(self.checkpoints.resume_from)
            raise

    def _train(self, training: Training, on_step: Callable[[int, float], None] | None) -> None:
        saved = self._take_up(training)
        self.compiled = self.config.compile and training.compile()
        self.notes += training.notes
        last = self.config.steps
        for step in range(len(self.losses) + 1, last + 1):
            self.losses.append(training.step(step))
            if self.checkpoints and (step % self.checkpoints.every_steps == 0 or step == last):
                self._save(training)
                saved = step
            if on_step is not None:
                try:
                    on_step(step, self.losses[-1])
                except BaseException:
                    # A stop that was asked for loses no step; what stopped it is told whatever comes of this.
                    if self.checkpoints and saved != step:
                        with suppress(OSError, NonFiniteLoss):
                            self._save(training)
                    raise
        training.check_finite(last)
        self.skipped_steps = training.skipped_steps

    def _take_up(self, training: Training) -> int | None:
        """Restore the state that the run is to go on from, and return its step; None to start anew."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return None
        resume_from = checkpoints.resume_from
        found = None
        try:
            if resume_from is not None:
                found = read_checkpoint(resume_from, self.identity)
            if found is not None:
                progress, tensors = found
                training.restore(
                    tensors,
                    position=progress.position,
                    skipped_steps=progress.skipped_steps,
                    scaler=progress.scaler,
                )
        except (DamagedCheckpoint, ValueError) as error:
            self.notes.append(f"A damaged checkpoint was left aside, training began anew: {error}")
            found = None
        if found is None:
            remove_checkpoint(checkpoints.folder)
            return None
        self.losses = list(progress.losses)
        self.seconds_before, self.peak_before = progress.seconds, progress.peak_memory_bytes
        self.resumed_at = [*progress.resumed_at, progress.step]
        self.notes = [*progress.notes, *self.notes]
        if resume_from is None or resume_from.resolve() != checkpoints.folder.resolve():
            remove_checkpoint(checkpoints.folder)
            return None
        return progress.step

    def _save(self, training: Training) -> None:
        assert self.checkpoints is not None
        # Weights that no longer are numbers would only fail again.
        training.check_finite(len(self.losses))
        progress = Progress(
            step=len(self.losses),
            losses=self.losses,
            position=training.position,
            skipped_steps=training.skipped_steps,
            scaler=training.scaler,
            seconds=self.seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            resumed_at=self.resumed_at,
            notes=self.notes,
        )
        write_checkpoint(self.checkpoints.folder, self.identity, progress, training.tensors())


def _method(config: FineTuneConfig) -> Method:
    return Lora(config.rank, config.alpha) if config.method == "lora" else Full()


def _identity(loaded: LoadedPipeline, images: str, config: FineTuneConfig) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other stopped."""
    whole = config.to_dict()
    # Where a run is worked on is no part of what it is.
    del whole["device"]
    return whole | {"model": pipeline_hash(loaded), "dataset": images}


def pipeline_hash(loaded: LoadedPipeline) -> str:
    """SHA-256 over the files of a pipeline's components."""
    index = read_model_index(loaded.folder)
    return folders_hash(loaded.folder, [name for name, entry in index.items() if isinstance(entry, list)])


def circumstances(loaded: LoadedPipeline) -> dict[str, Any]:
    """With what a run was made: family, versions, machine and device."""
    import importlib.metadata

    import torch

    packages = ("torch", "diffusers", "transformers", "peft", "safetensors")
    on_gpu = loaded.device.type == "cuda"
    return {
        "family": loaded.family.name,
        "pipeline_class": loaded.family.pipeline_class,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(loaded.device) if on_gpu else str(loaded.device),
        "threads": torch.get_num_threads(),
    }
