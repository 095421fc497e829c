"""Candidates to route to: a model at several numbers of steps, each with what an image costs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import Variant


def variants_of(
    model: str,
    folder: str | os.PathLike[str],
    steps: Sequence[int],
    *,
    resolution_px: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    cache_interval: int = 1,
    precision: str = "fp32",
) -> list[Variant]:
    """Make candidates of a model, priced from its configuration.

    A candidate's id names the model and what is not the model's own: `sdxl@20`, `sdxl@50-DDIM-g7.5`.

    An image costs what the denoiser's calls do, classifier-free guidance included and the products within
    fused attention left out (protocol `paper` of `training.pipelines.profile`): text encoders and VAE cost
    the same
    whatever is chosen. Under this protocol SDXL at 1024 pixels costs the paper's figures within 0.5 %.

    Args:
        model: the model's id.
        folder: of its pipeline.
        steps: numbers of denoising steps.
        resolution_px: side of the images; the pipeline's own by default.
        guidance: guidance scale; the pipeline's own by default.
        sampler: class of diffusers' scheduler; the pipeline's own by default.
        cache_interval: see `training.pipelines.samplers.caching`.
        precision: of weights and arithmetic; it leaves the cost as it is.

    Raises:
        TrainingError: the folder cannot be priced, or the sampler or caching does not fit.

    Source:
        CATImage, Table 2: 11.97 TFLOP for a step of SDXL.
    """
    from matchgraph.training.pipelines.profile import profiler_of

    profiler = profiler_of(folder)
    made = []
    for count in sorted(set(steps)):
        profile = profiler.price(
            steps=count,
            guidance=guidance,
            resolution_px=resolution_px or profiler.native_px,
            sampler=sampler,
            cache_interval=cache_interval,
        )
        drawing = Drawing(count, guidance, sampler, profile.resolution_px, cache_interval, precision)
        made.append(Variant(f"{model}@{drawing.name}", model, drawing, profile.parts["denoising"]))
    return made


def by_pipeline(variants: Iterable[Variant]) -> list[list[Variant]]:
    """Group candidates that one loaded pipeline draws: those of a model in one precision.

    Args:
        variants: drawn by pipelines of the graph; one that comes again counts once.
    """
    groups: dict[tuple[str, str], list[Variant]] = {}
    for variant in dict.fromkeys(variants):
        groups.setdefault((variant.model, variant.require_drawing().precision), []).append(variant)
    return list(groups.values())
