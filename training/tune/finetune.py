"""Fine-tuning of a pipeline's denoiser on a folder of captioned images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import memory_of
from matchgraph.training.files import file_hash, write_json
from matchgraph.training.images import CaptionedImage, list_captioned_images
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.encoding import dataset_hash, encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline, opened
from matchgraph.training.pipelines.memory import PeakMemory
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.products import rounded_products
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.fine_tuning import FineTuning
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import WEIGHT_FILES, Full, Lora, Method
from matchgraph.training.tune.session import Session, circumstances, identity_of
from matchgraph.training.tune.validation import Validation, Validator

RECORD_FILE = "record.json"


@dataclass(frozen=True)
class FineTuneRecord:
    """One run in three blocks, as written to `record.json`.

    Attributes:
        adapter: the weights file.
        asked: model, dataset and the whole configuration.
        happened: seconds, losses per step, counts of images and captions, what was cropped and the aspect
            buckets, peak memory, use of the cache, where it was interrupted, the weights' SHA-256.
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
        """Wall time of all parts of the run that count; loading of the pipeline and looks left out."""
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
    images: Sequence[CaptionedImage] | None = None,
    validation: Validation | None = None,
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
            and a checkpoint of that step is kept. It is not called for steps that a checkpoint covers.
        checkpoints: where the run's state is kept and what it goes on from; none by default.
        cache: where encodings of images and captions are kept for other runs; none by default.
        images: those of the folder, where they were listed before; listed now by default.
        validation: when to look at the run while it trains; never by default. It changes nothing of the run.

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
    with opened(
        model, device=config.device, precision=config.precision, quantisation=config.quantisation
    ) as loaded:
        began, memory = time.perf_counter(), PeakMemory(loaded.device)
        images = list_captioned_images(dataset_folder) if images is None else images
        identity = {}
        if checkpoints is not None:
            identity = identity_of(loaded, dataset_hash(images), config)
        session = Session(config.steps, checkpoints, identity, began, memory, compiling=config.compile)
        use = CacheUse(cache)
        encode = partial(
            encode_dataset,
            loaded,
            dataset_folder,
            resolution_px=config.resolution_px,
            seed=config.seed,
            use=use,
            aspect_buckets=config.aspect_buckets,
        )
        dataset = encode(images)
        encoding_seconds = time.perf_counter() - began
        validated, validated_on = None, ""
        if validation is not None:
            chosen, validated_on = validation.images(images)
            validated = encode(chosen)
            session.looking_seconds = time.perf_counter() - began - encoding_seconds
        out.mkdir(parents=True, exist_ok=True)
        for name in (RECORD_FILE, *WEIGHT_FILES):
            (out / name).unlink(missing_ok=True)
        method = method_of(config)
        with (
            attached(loaded, method, config) as parameters,
            placed(loaded, "denoiser", training=True),
            rounded_products(loaded.device),
        ):
            trainable = sum(parameter.numel() for parameter in parameters.values())
            with memory_of("training"):
                training = FineTuning(loaded, parameters, dataset, config)
                if validation is not None and validated is not None:
                    session.validate = Validator(validation, loaded, training, validated, config)
                session.train(training, on_step)
                training.keep_average()
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
                "validations": session.validations,
                "validated_on": validated_on,
                "skipped_steps": session.skipped_steps,
                "resumed_at": session.resumed_at,
                "notes": session.notes,
                "adapter_sha256": file_hash(adapter),
            },
            used=circumstances(loaded) | {"compiled": session.compiled},
        )
    write_json(out / RECORD_FILE, record.to_dict())
    return record


def method_of(config: FineTuneConfig) -> Method:
    """What of the denoiser a configuration trains."""
    return Lora(config.rank, config.alpha) if config.method == "lora" else Full()
