"""Published models whose steps and guidance are not those of their pipeline's class, above all of few steps.

A pipeline's class knows nothing of it: SDXL-Turbo is a `StableDiffusionXLPipeline`, whose call would take 50
steps at guidance 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from matchgraph.training.errors import InvalidConfig

# Of models distilled by consistency: few steps, with the guidance inside.
STUDENT_SCHEDULERS = ("LCMScheduler", "FlowMatchLCMScheduler")
STUDENT_STEPS = 4
STUDENT_GUIDANCE = 1.0
# Entries of a scheduler's configuration that say how its pipeline is drawn; diffusers keeps what it does not
# know there.
STEPS_ENTRY, GUIDANCE_ENTRY = "few_steps", "few_steps_guidance"
TRAILING_SAMPLERS = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
# Names of folders and repositories -> steps and guidance. Sources: the model cards of stabilityai/sd-turbo,
# stabilityai/sdxl-turbo (1 step without guidance), black-forest-labs/FLUX.1-schnell and
# stabilityai/stable-diffusion-3.5-large-turbo (4 steps without guidance), and that of
# diffusers' ZImagePipeline for Tongyi-MAI/Z-Image-Turbo (8). Of many steps: the settings of the publisher's
# `sd3_infer.py` for stable-diffusion-3.5-large (not those of its medium, 50 at 5.0, since Match & Choose
# priced that by its pipeline's defaults), and the cards of playground-v2-1024px-aesthetic and -v2.5.
MANY_STEPS: tuple[tuple[re.Pattern[str], int, float], ...] = (
    (re.compile(r"(stable[-_]diffusion[-_]|sd)3\.5[-_]large$", re.IGNORECASE), 40, 4.5),
    (re.compile(r"playground[-_]v2", re.IGNORECASE), 50, 3.0),
)
MODELS: tuple[tuple[re.Pattern[str], int, float], ...] = (
    (re.compile(r"sd(xl)?[-_]turbo", re.IGNORECASE), 1, 0.0),
    (re.compile(r"flux\.?1[-_]schnell", re.IGNORECASE), 4, 0.0),
    (re.compile(r"z[-_]image[-_]turbo", re.IGNORECASE), 8, 0.0),
    (re.compile(r"(stable[-_]diffusion[-_]|sd)3\.5[-_]large[-_]turbo", re.IGNORECASE), 4, 0.0),
    *MANY_STEPS,
)


@dataclass(frozen=True)
class FewSteps:
    """How published weights of few steps are drawn.

    Attributes:
        steps: of each image.
        guidance: the scale, 0 for none.
        sampler: class of diffusers' scheduler, which takes its steps from the end of the noise process
            (`timestep_spacing="trailing"`).
    """

    steps: int
    guidance: float
    sampler: str

    def scheduler(self, own: Any) -> Any:
        """The scheduler, with the noise process of a teacher's, and the entries that say how to draw.

        Args:
            own: the teacher's.
        """
        import diffusers

        made = getattr(diffusers, self.sampler).from_config(
            own.config, timestep_spacing="trailing", clip_sample=False
        )
        made.register_to_config(**{STEPS_ENTRY: self.steps, GUIDANCE_ENTRY: self.guidance})
        return made


# Names of weight files -> sampler. Sources: the model cards of ByteDance/SDXL-Lightning (Euler, trailing) and
# ByteDance/Hyper-SD (DDIM, trailing), both without guidance; Lin et al., "SDXL-Lightning" (2024); Ren et al.,
# "Hyper-SD" (2024).
WEIGHTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"sdxl[-_]lightning[-_]([248])step", re.IGNORECASE), "EulerDiscreteScheduler"),
    (re.compile(r"hyper-sd(?:xl|15)-([248])steps?-lora", re.IGNORECASE), "DDIMScheduler"),
)
# Of the same makers, and drawn in yet other ways: of one step, with guidance, or on flows.
NOT_KNOWN = re.compile(r"sdxl[-_]lightning|hyper-(sd|flux)", re.IGNORECASE)


def of_weights(name: str) -> FewSteps | None:
    """How weights are drawn that their file's name says to be of few steps.

    Args:
        name: of the file, or of the repository.

    Returns:
        None for any other name.

    Raises:
        InvalidConfig: they are of a kind whose sampler is none of diffusers' with trailing steps.
    """
    for pattern, sampler in WEIGHTS:
        if found := pattern.search(name):
            return FewSteps(int(found[1]), 0.0, sampler)
    if NOT_KNOWN.search(name):
        raise InvalidConfig(
            f"{name}: these weights take a sampler that is not known here, and draw badly with another. "
            "Give those of 2, 4 or 8 steps without guidance (sdxl_lightning_4step..., "
            "Hyper-SDXL-4steps-lora), under their own name."
        )
    return None


def of_pipeline(pipe: Any, name: str) -> tuple[int, float] | None:
    """Steps and guidance of a published pipeline that its class does not know; None of another.

    Args:
        pipe: the pipeline.
        name: of its folder or repository.
    """
    config = pipe.scheduler.config
    if STEPS_ENTRY in config:
        return int(config[STEPS_ENTRY]), float(config[GUIDANCE_ENTRY])
    if type(pipe.scheduler).__name__ in STUDENT_SCHEDULERS:
        return None
    for pattern, steps, guidance in MODELS:
        if pattern.search(name):
            return steps, guidance
    # FLUX.2-klein says so itself; the source of steps and guidance is the card of FLUX.2-klein-4B.
    if pipe.config.get("is_distilled"):
        return 4, 1.0
    # FLUX.1-schnell under another name: without a guidance input, and on the grid that is not shifted.
    denoiser: Any = getattr(pipe, "transformer", None)
    if (
        type(denoiser).__name__ == "FluxTransformer2DModel"
        and denoiser.config.guidance_embeds is False
        and config.get("shift") == 1.0
        and not config.get("use_dynamic_shifting")
    ):
        return 4, 0.0
    # SD-Turbo and SDXL-Turbo under another name. Models of velocity whose noise ends without signal have
    # trailing steps as well, and take many.
    if (
        type(pipe.scheduler).__name__ in TRAILING_SAMPLERS
        and config.get("timestep_spacing") == "trailing"
        and config.get("prediction_type") == "epsilon"
        and not config.get("rescale_betas_zero_snr")
    ):
        return 1, 0.0
    return None
