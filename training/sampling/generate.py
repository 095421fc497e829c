"""Sampling images from a pipeline, with or without a LoRA adapter, through the pipeline's own call."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import InvalidConfig, OutOfMemory, memory_of
from matchgraph.training.images import square
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.encoding import PromptRows
from matchgraph.training.pipelines.loading import LoadedPipeline, opened
from matchgraph.training.pipelines.placement import placed, release
from matchgraph.training.pipelines.rollback import Start
from matchgraph.training.pipelines.samplers import caching, default_drawing, drawing_with
from matchgraph.training.pipelines.weights import changes_encoders, load_weights
from matchgraph.training.products import rounded_products
from matchgraph.training.sampling.trajectories import curvature, followed
from matchgraph.training.seeds import seeded_generator

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from matchgraph.training.pipelines.families.rows import Conditioning

# Decoding takes about 0.4 GiB for each image of 512 px in half precision.
DECODED_PIXELS = 8 * 512 * 512


def sample_images(
    model: str | os.PathLike[str] | LoadedPipeline,
    adapter: str | os.PathLike[str] | None,
    prompts: Sequence[str],
    config: SampleConfig,
    *,
    cache: EncodingCache | None = None,
) -> list[Image.Image]:
    """Draw images for prompts.

    Args:
        model: a pipeline folder, or a pipeline kept loaded for several calls.
        adapter: what `fine_tune` trained, LoRA or a whole denoiser (the file, or the folder it wrote);
            None for the plain model.
        prompts: at least one; the empty string is allowed.
        config: how many and how.
        cache: where encodings of prompts are kept for other calls and runs; none by default.

    Returns:
        `config.n` images of mode RGB.

    Raises:
        BadPipeline: the model cannot be loaded.
        BadAdapter: the adapter cannot be loaded into it.
        InvalidConfig: no prompts, or a resolution that does not suit the pipeline.
    """
    return list(stream_images(model, adapter, prompts, config, cache=cache))


def stream_images(
    model: str | os.PathLike[str] | LoadedPipeline,
    adapter: str | os.PathLike[str] | None,
    prompts: Sequence[str],
    config: SampleConfig,
    *,
    cache: EncodingCache | None = None,
    numbers: Sequence[int | str] | None = None,
    controls: Sequence[Image.Image] | None = None,
    control_scale: float = 1.0,
) -> Generator[Image.Image, None, None]:
    """Draw images as `sample_images` does, one batch in memory at a time.

    Close the generator if you stop early, so that the adapter comes off a pipeline that is kept loaded.

    Args:
        model: as for `sample_images`.
        adapter: as for `sample_images`.
        prompts: as for `sample_images`.
        config: as for `sample_images`.
        cache: as for `sample_images`; prompts beyond what fits in memory need one.
        numbers: of the images, `config.n` of them, each of which decides its image's noise with the seed;
            their places by default.
        controls: what a ControlNet is to steer the images by, one for each prompt; scaled and cut to the
            resolution as training images are. Takes a pipeline inside
            `training.pipelines.controlnet.controlled`.
        control_scale: what the ControlNet's residuals are multiplied by; at 0 it does nothing.

    Yields:
        `config.n` images of mode RGB.

    Raises:
        TrainingError: as `sample_images`, when the first image is asked for.
    """
    drawn = stream_batches(
        model,
        adapter,
        prompts,
        config,
        cache=cache,
        numbers=numbers,
        controls=controls,
        control_scale=control_scale,
    )
    with closing(drawn) as batches:
        for batch in batches:
            yield from batch.images


@dataclass(frozen=True, eq=False)
class Batch:
    """Images drawn together.

    Attributes:
        images: n of mode RGB.
        latents: which they were decoded from, (n, ...), in the form that the pipeline's call takes them in.
        curvature: of the way to them, (n,), see `training.sampling.trajectories.curvature`; None if it was
        not
            followed.
    """

    images: Sequence[Image.Image]
    latents: torch.Tensor
    curvature: torch.Tensor | None = None


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, as where fewer were drawn together than asked for."""
    import torch

    ways = [batch.curvature for batch in batches if batch.curvature is not None]
    return Batch(
        [image for batch in batches for image in batch.images],
        torch.cat([batch.latents for batch in batches]),
        torch.cat(ways) if ways else None,
    )


def stream_batches(
    model: str | os.PathLike[str] | LoadedPipeline,
    adapter: str | os.PathLike[str] | None,
    prompts: Sequence[str],
    config: SampleConfig,
    *,
    cache: EncodingCache | None = None,
    numbers: Sequence[int | str] | None = None,
    start: Start | None = None,
    controls: Sequence[Image.Image] | None = None,
    control_scale: float = 1.0,
    encoded: PromptRows | None = None,
    follow: bool = False,
) -> Generator[Batch, None, None]:
    """Draw as `stream_images` does, with the latents, and from pictures where there are any.

    Args:
        model: as for `stream_images`.
        adapter: as for `stream_images`.
        prompts: as for `stream_images`.
        config: as for `stream_images`; of a start, the steps that are made of its share of the schedule.
        cache: as for `stream_images`.
        numbers: as for `stream_images`.
        start: `config.n` pictures to begin with; noise alone by default.
        controls: as for `stream_images`.
        control_scale: as for `stream_images`.
        encoded: the prompts, if the pipeline's encoders had them before; encoded now by default.
        follow: say how curved the images' ways through the steps were; keeps the latents of every step.

    Yields:
        Batches of `config.batch_size`, or of fewer from where that many run out of memory.

    Raises:
        TrainingError: as `stream_images`; InvalidConfig also for a sampler that cannot begin in the middle.
    """
    if not prompts:
        raise InvalidConfig("Sampling takes at least one prompt; give '' to draw without one.")
    drawing = config.drawing
    named = range(config.n) if numbers is None else numbers
    if len(named) != config.n:
        raise InvalidConfig(f"{config.n} images need as many numbers, got {len(named)}.")
    with (
        opened(
            model, device=config.device, precision=drawing.precision, quantisation=config.quantisation
        ) as loaded,
        drawing_with(loaded.pipe, drawing.sampler),
        caching(loaded.pipe, drawing.cache_interval),
        followed(loaded.pipe.scheduler, whole=follow) as trajectory,
    ):
        loaded.check_resolution(drawing.resolution_px)
        family, pipe = loaded.family, loaded.pipe
        _check_controls(pipe, prompts, controls, control_scale, config)
        wanted = [prompts[i % len(prompts)] for i in range(config.n)]
        unload = None if adapter is None else load_weights(pipe, family, adapter)
        try:
            if adapter is not None and changes_encoders(adapter):
                # Neither what others encoded nor what is kept of it is what these encoders make of a prompt.
                encoded, cache = None, None
            encoded = encoded or PromptRows(loaded, wanted, CacheUse(cache))
            negative = encoded.pick([""], loaded.device)
            family.denoiser(pipe).eval()
            draw = partial(_draw, loaded, config, named, encoded, negative, wanted, start)
            first, size = 0, min(config.batch_size, loaded.drawn_together or config.batch_size)
            with placed(loaded, "denoiser", "vae"), _sliced(pipe, loaded.device, config):
                while first < config.n:
                    places = range(first, min(first + size, config.n))
                    further = {}
                    if controls is not None:
                        shown = [controls[i % len(prompts)].convert("RGB") for i in places]
                        further = {
                            "image": [square(image, drawing.resolution_px) for image in shown],
                            "controlnet_conditioning_scale": float(control_scale),
                        }
                    trajectory.clear()
                    images = None
                    try:
                        images = draw(places, further)
                    except OutOfMemory:
                        if len(places) == 1:
                            raise
                    if images is None:
                        # Images do not depend on those beside them, so fewer at a time are the same ones.
                        size = len(places) // 2
                        trajectory.clear()
                        release(loaded.device)
                        continue
                    latents = family.from_steps(pipe, trajectory.last, drawing.resolution_px)
                    yield Batch(images, latents, curvature(trajectory.points) if follow else None)
                    first = places.stop
        finally:
            if unload is not None:
                unload()


def _draw(
    loaded: LoadedPipeline,
    config: SampleConfig,
    named: Sequence[int | str],
    encoded: PromptRows,
    negative: Conditioning,
    wanted: Sequence[str],
    start: Start | None,
    places: range,
    further: Mapping[str, Any],
) -> list[Image.Image]:
    """Draw the images at some places."""
    drawing, family = config.drawing, loaded.family
    steps, guidance = default_drawing(loaded.pipe, family.default_steps, family.default_guidance)
    with memory_of("sampling"), rounded_products(loaded.device):
        return family.sample(
            loaded.pipe,
            encoded.pick([wanted[i] for i in places], loaded.device),
            negative,
            steps=drawing.steps or steps,
            guidance=guidance if drawing.guidance is None else drawing.guidance,
            generators=[image_generator(config.seed, named[i]) for i in places],
            resolution_px=drawing.resolution_px,
            start=None if start is None else start.rows(places),
            start_generators=[seeded_generator("start", config.seed, named[i]) for i in places],
            further=further,
        )


@contextmanager
def _sliced(pipe: Any, device: torch.device, config: SampleConfig) -> Iterator[None]:
    """Let the VAE of a GPU take one image at a time inside where all of a batch would fill its memory."""
    pixels = config.batch_size * config.drawing.resolution_px**2
    if device.type != "cuda" or pixels <= DECODED_PIXELS or getattr(pipe.vae, "use_slicing", True):
        yield
        return
    pipe.vae.enable_slicing()
    try:
        yield
    finally:
        pipe.vae.disable_slicing()


def _check_controls(
    pipe: Any,
    prompts: Sequence[str],
    controls: Sequence[Image.Image] | None,
    scale: float,
    config: SampleConfig,
) -> None:
    takes = getattr(pipe, "controlnet", None) is not None
    if controls is None:
        if takes:
            raise InvalidConfig("This pipeline has a ControlNet: give `controls`, one for each prompt.")
        return
    if not takes:
        raise InvalidConfig(
            "Control images need a pipeline inside `training.pipelines.controlnet.controlled`."
        )
    if len(controls) != len(prompts):
        raise InvalidConfig(f"{len(prompts)} prompts need as many control images, got {len(controls)}.")
    if not (math.isfinite(scale) and scale >= 0):
        raise InvalidConfig(f"control_scale must be at least 0, got {scale!r}.")
    if config.drawing.cache_interval != 1:
        # It would repeat layers that have another step's residuals in them.
        raise InvalidConfig("A ControlNet needs layers that DeepCache skips: leave one of the two out.")


def start_with(
    loaded: LoadedPipeline, images: Sequence[Image.Image], resolution_px: int, strength: float
) -> Start:
    """Pictures for a pipeline to begin with, as SDEdit does.

    Args:
        loaded: the pipeline that is to draw.
        images: n of mode RGB; scaled and cut to squares.
        resolution_px: side of the squares.
        strength: see `training.pipelines.rollback.Start`.

    Raises:
        InvalidConfig: the resolution does not suit the pipeline, or the strength is none.
    """
    import numpy as np
    import torch

    loaded.check_resolution(resolution_px)
    pixels = torch.from_numpy(np.stack([np.asarray(square(image, resolution_px)) for image in images]))
    family = loaded.family
    latents = family.encode_images(loaded.pipe, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    return Start(family.as_called(loaded.pipe, latents), strength)


def image_generator(seed: int, number: int | str) -> torch.Generator:
    """The CPU generator of one image; those of other images and other seeds are unrelated to it."""
    return seeded_generator("image", seed, number)
