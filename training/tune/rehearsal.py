"""A rehearsal: every stage of a run once, at full shape, before hours go into the first of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import NonFiniteEncoding, memory_of
from matchgraph.training.images import CaptionedImage
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.pipelines.samplers import default_drawing
from matchgraph.training.products import rounded_products
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.fine_tuning import FineTuning
from matchgraph.training.tune.finetune import method_of
from matchgraph.training.tune.loop import attached

if TYPE_CHECKING:
    from matchgraph.training.measure.extractors.base import Extractor
    from matchgraph.training.pipelines.loading import LoadedPipeline

# Enough for a sampler to go through all of its parts.
SAMPLING_STEPS = 4


def rehearse(
    loaded: LoadedPipeline,
    dataset_folder: str | os.PathLike[str],
    images: Sequence[CaptionedImage],
    training: FineTuneConfig,
    sampling: SampleConfig,
    extractors: Iterable[Extractor],
) -> None:
    """Encode a batch, make one step, draw and decode one batch in few steps, and look at it.

    Leaves no trace: the pipeline, the adapter's start and all random numbers are as before.

    Args:
        loaded: the pipeline.
        dataset_folder: captioned images.
        images: those of the folder.
        training: how the run trains.
        sampling: how it samples.
        extractors: what scores its images.

    Raises:
        TrainingError: the run could not be carried out, and why: out of memory (`OutOfMemory`), a scheduler
            that states no objective, a loss, image or feature that is not a number.
    """
    import numpy as np
    import torch

    used = [image for image in images if not image.held_out]
    some = used[: training.batch_size * training.gradient_accumulation]
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        data = encode_dataset(
            loaded,
            dataset_folder,
            some,
            resolution_px=training.resolution_px,
            seed=training.seed,
            aspect_buckets=training.aspect_buckets,
        )
        with (
            attached(loaded, method_of(training), training) as parameters,
            placed(loaded, "denoiser", training=True),
            memory_of("training"),
            rounded_products(loaded.device),
        ):
            FineTuning(loaded, parameters, data, replace(training, compile=False)).step(1)
        steps, _ = default_drawing(loaded.pipe, loaded.family.default_steps, loaded.family.default_guidance)
        steps = sampling.drawing.steps or steps
        drawing = replace(sampling.drawing, steps=min(steps, SAMPLING_STEPS))
        batch = replace(sampling, n=min(sampling.n, sampling.batch_size), drawing=drawing)
        drawn = sample_images(loaded, None, [image.caption or "" for image in some], batch)
        for extractor in extractors:
            if not np.isfinite(extractor.features(drawn)).all():
                raise NonFiniteEncoding(
                    f"{extractor.name} gives infinite features for images drawn with {loaded.folder.name}."
                )
