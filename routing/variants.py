"""Candidates to route to: a model at several numbers of steps, each with what an image costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matchgraph.graphdb.prompts import Variant

if TYPE_CHECKING:
    from matchgraph.training.config import SampleConfig

BATCH = 32


def variant_id(
    model: str, steps: int, sampler: str | None = None, guidance: float | None = None, cache_interval: int = 1
) -> str:
    """A variant's id, in which only what is not the model's own is named: `sdxl@20`, `sdxl@50-DDIM-g7.5`,
    `sdxl@50-cache3`.
    """
    parts = [str(steps)]
    if sampler is not None:
        parts.append(sampler.removesuffix("Scheduler"))
    if guidance is not None:
        parts.append(f"g{guidance:g}")
    if cache_interval > 1:
        parts.append(f"cache{cache_interval}")
    return f"{model}@{'-'.join(parts)}"


def variants_of(
    model: str,
    folder: str | os.PathLike[str],
    steps: Sequence[int],
    *,
    resolution_px: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    cache_interval: int = 1,
) -> list[Variant]:
    """Make candidates of a model, priced from its configuration.

    An image costs what the denoiser's calls do, classifier-free guidance included and the products within
    fused attention left out (protocol `paper` of `training.pipelines.profile`): text encoders and VAE cost
    the same
    whatever is chosen. Under this protocol SDXL at 1024 pixels costs the paper's figures within 0.5 %.

    Args:
        model: the model's id.
        folder: of its pipeline.
        steps: numbers of denoising steps.
        resolution_px: side of the images; 512, or the pipeline's own where that is smaller, by default.
        guidance: guidance scale; the pipeline's own by default.
        sampler: class of diffusers' scheduler; the pipeline's own by default.
        cache_interval: see `training.pipelines.samplers.caching`.

    Raises:
        TrainingError: the folder cannot be priced, or the sampler or caching does not fit.

    Source:
        CATImage, Table 2: 11.97 TFLOP for a step of SDXL.
    """
    from matchgraph.training.pipelines.profile import PipelineProfiler

    profiler = PipelineProfiler(folder)
    made = []
    for count in sorted(set(steps)):
        profile = profiler.price(
            steps=count,
            guidance=guidance,
            resolution_px=resolution_px,
            sampler=sampler,
            cache_interval=cache_interval,
        )
        made.append(
            Variant(
                variant_id(model, count, sampler, guidance, cache_interval),
                model,
                count,
                profile.parts["denoising"],
                sampler,
                guidance,
                profile.resolution_px,
                cache_interval,
            )
        )
    return made


def sampling_of(variant: Variant, count: int, seed: int) -> SampleConfig:
    """How a candidate draws.

    Args:
        variant: the candidate.
        count: images.
        seed: of their noise.
    """
    from matchgraph.training.config import SampleConfig

    return SampleConfig(
        count,
        variant.steps,
        variant.guidance,
        seed,
        variant.resolution_px,
        BATCH,
        sampler=variant.sampler,
        cache_interval=variant.cache_interval,
    )
