"""How student and teacher are to draw, and what an image of either costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.collaboration.errors import InvalidPlan

if TYPE_CHECKING:
    from matchgraph.training.config import SampleConfig
    from matchgraph.training.pipelines.loading import LoadedPipeline


@dataclass(frozen=True)
class Drawing:
    """How a model draws.

    Attributes:
        steps: denoising steps that it makes.
        guidance: guidance scale; None for the pipeline's own.
        sampler: class of diffusers' scheduler; None for the pipeline's own.
    """

    steps: int
    guidance: float | None = None
    sampler: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise InvalidPlan(f"Steps must be a whole number of at least 1, got {self.steps!r}.")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise InvalidPlan(f"Guidance must be a number of at least 0, got {self.guidance!r}.")

    @property
    def id(self) -> str:
        """Its name, in which only what is not the pipeline's own is named: `4`, `10-DDIM-g7.5`."""
        parts = [str(self.steps)]
        if self.sampler is not None:
            parts.append(self.sampler.removesuffix("Scheduler"))
        if self.guidance is not None:
            parts.append(f"g{self.guidance:g}")
        return "-".join(parts)

    def sampling(
        self, count: int, *, seed: int, resolution_px: int, batch_size: int, precision: str
    ) -> SampleConfig:
        """How so many images are drawn; see `training.config.SampleConfig`."""
        from matchgraph.training.config import SampleConfig

        return SampleConfig(
            n=count,
            steps=self.steps,
            guidance=self.guidance,
            seed=seed,
            resolution_px=resolution_px,
            batch_size=batch_size,
            precision=precision,
            sampler=self.sampler,
        )


@dataclass(frozen=True)
class Correction:
    """What the teacher does to an image that was rejected.

    Attributes:
        drawing: how it draws.
        rollback: share of its schedule that it draws anew from the student's image (refinement); None to
            begin with noise alone (regeneration).

    Source:
        Starodubcev et al. (2024), section 3.2, improvement step.
    """

    drawing: Drawing
    rollback: float | None = None

    def __post_init__(self) -> None:
        if self.rollback is not None and not 0 < self.rollback < 1:
            raise InvalidPlan(f"The rollback must be above 0 and below 1, got {self.rollback!r}.")

    @property
    def id(self) -> str:
        """Its name: `regenerate@10`, `refine-0.5@4`."""
        how = "regenerate" if self.rollback is None else f"refine-{self.rollback:g}"
        return f"{how}@{self.drawing.id}"


@dataclass(frozen=True)
class Plan:
    """How student and teacher work together.

    Attributes:
        student: how the student draws.
        correction: what the teacher does.
        seed: decides all noise: with an image's number the student's, the teacher's and that of refinement.
        resolution_px: side of the images.
        batch_size: images drawn at a time, by either.
        strength: of pictures to edit, the share of the schedule that is drawn anew; None to draw from noise.
        control_scale: what a ControlNet's residuals are multiplied by, where there is one.
    """

    student: Drawing
    correction: Correction
    seed: int = 0
    resolution_px: int = 512
    batch_size: int = 8
    strength: float | None = None
    control_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 < self.strength < 1:
            raise InvalidPlan(f"The strength of an edit must be above 0 and below 1, got {self.strength!r}.")


def price(loaded: LoadedPipeline, drawing: Drawing, resolution_px: int) -> float:
    """TFLOP of the denoiser for one image, as candidates of routing are priced, and of a ControlNet that
    steers it.

    Encoding and decoding are left out on both sides: text encoders and VAE cost the same whoever draws, and
    little.

    Args:
        loaded: the pipeline.
        drawing: how it draws; of a refinement, the steps that are made.
        resolution_px: side of the image.

    Raises:
        TrainingError: the folder cannot be priced.
    """
    from matchgraph.training.pipelines.profile import PipelineProfiler

    controlnet = loaded.pipe.components.get("controlnet")
    profile = PipelineProfiler(loaded.folder, None if controlnet is None else controlnet.config).price(
        steps=drawing.steps, guidance=drawing.guidance, resolution_px=resolution_px, sampler=drawing.sampler
    )
    return float(profile.parts["denoising"] + profile.parts["control"])
