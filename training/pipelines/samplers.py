"""Other ways for a pipeline to draw than the one its folder names: another sampler of the same noise process,
or fewer whole passes of the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig
from matchgraph.training.files import folder_name
from matchgraph.training.pipelines.few_steps import (
    STUDENT_GUIDANCE,
    STUDENT_SCHEDULERS,
    STUDENT_STEPS,
    of_pipeline,
)

if TYPE_CHECKING:
    import torch

# For students whose U-Net embeds the scale, and which were distilled over a range of scales: the default
# of diffusers' LatentConsistencyModelPipeline. They never learnt a scale of 1.
EMBEDDED_GUIDANCE = 8.5


def default_drawing(pipe: Any, steps: int, guidance: float) -> tuple[int, float]:
    """Default steps and guidance of a pipeline.

    Args:
        pipe: the pipeline.
        steps: its class' default.
        guidance: likewise.

    Returns:
        These, except for a model of few steps, which the class does not know about: those of
        `few_steps.of_pipeline`; of a consistency-distilled student 4 steps, and guidance 1 for none, or
        `EMBEDDED_GUIDANCE` if the U-Net embeds the scale.
    """
    if (own := of_pipeline(pipe, folder_name(pipe.name_or_path or ""))) is not None:
        return own
    if type(pipe.scheduler).__name__ in STUDENT_SCHEDULERS:
        return STUDENT_STEPS, EMBEDDED_GUIDANCE if guidance_width(pipe) else STUDENT_GUIDANCE
    return steps, guidance


def guidance_width(pipe: Any) -> int | None:
    """Width of the guidance embedding of a pipeline's U-Net; None if it has none.

    Such a U-Net takes one forward pass per step: diffusers' pipelines skip classifier-free guidance, and
    embed the scale minus 1 (w of the source, which is 0 for no guidance).

    Source:
        Meng et al., "On distillation of guided diffusion models" (2022); Luo et al., "Latent consistency
        models" (2023), section 4.2.
    """
    return getattr(getattr(getattr(pipe, "unet", None), "config", None), "time_cond_proj_dim", None)


def guidance_embedding(pipe: Any, rows: torch.Tensor, guidance: float | None) -> torch.Tensor | None:
    """The guidance embedding for a pipeline's U-Net; None if it takes none.

    Args:
        pipe: with a U-Net.
        rows: latents, (n, ...), whose device and precision are meant.
        guidance: the scale, 1 for none; None for `EMBEDDED_GUIDANCE`.

    Returns:
        (n, width).
    """
    width = guidance_width(pipe)
    if width is None:
        return None
    scales = rows.new_full((len(rows),), (EMBEDDED_GUIDANCE if guidance is None else guidance) - 1)
    return pipe.get_guidance_scale_embedding(scales.cpu(), embedding_dim=width).to(rows)


@contextmanager
def drawing_with(pipe: Any, name: str | None) -> Iterator[None]:
    """Let a pipeline draw with a sampler; it has its own again after.

    Args:
        pipe: the pipeline.
        name: class of diffusers' scheduler, such as DPMSolverMultistepScheduler; None for the pipeline's own.

    Raises:
        InvalidConfig: there is no such class, or it is not of the pipeline's noise process.
    """
    own = pipe.scheduler
    if name is None or name == type(own).__name__:
        yield
        return
    fitting = {each.__name__: each for each in own.compatibles}
    # Latents have no bounds to be clipped to, which some samplers would do by default.
    changes: dict[str, Any] = {"clip_sample": own.config.get("clip_sample", False)}
    if "shift" in own.config or own.config.get("use_flow_sigmas"):
        fitting, changes = _flow_solvers(own)
    if name not in fitting:
        raise InvalidConfig(
            f"{name!r} is not a sampler for {type(own).__name__}: use one of {', '.join(sorted(fitting))}."
        )
    pipe.scheduler = fitting[name].from_config(own.config, **changes)
    try:
        yield
    finally:
        pipe.scheduler = own


def _flow_solvers(own: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Solvers of flow matching beside Euler's, which diffusers does not list, and what makes them such."""
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    solvers = {each.__name__: each for each in (DPMSolverMultistepScheduler, UniPCMultistepScheduler)}
    shift = own.config.get("shift", own.config.get("flow_shift"))
    return solvers, {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


@contextmanager
def caching(pipe: Any, interval: int) -> Iterator[Callable[[], bool]]:
    """Let a pipeline's U-Net compute its deep layers only every few steps, and reuse them between.

    Args:
        pipe: the pipeline; its U-Net is as before after.
        interval: steps from one whole pass to the next; 1 for all of them.

    Yields:
        What says whether the step under way is a whole pass.

    Raises:
        InvalidConfig: the denoiser is not a U-Net, or the package is not installed.

    Source:
        Ma et al., "DeepCache: Accelerating Diffusion Models for Free" (CVPR 2024), by its authors' package,
        whose first skip branch is kept.
    """
    if interval == 1:
        yield lambda: True
        return
    from diffusers import UNet2DConditionModel

    if not isinstance(getattr(pipe, "unet", None), UNet2DConditionModel):
        raise InvalidConfig(f"{type(pipe).__name__} has no U-Net, and DeepCache needs one: leave it out.")
    try:
        from DeepCache import DeepCacheSDHelper
    except ModuleNotFoundError:
        raise InvalidConfig("DeepCache is not installed: pip install 'matchgraph[caching]'.") from None
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield lambda: helper.cur_timestep % interval == 0
    finally:
        helper.disable()
