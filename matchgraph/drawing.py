"""How an image is drawn: one value for candidates, students, teachers and samples."""

from __future__ import annotations

from dataclasses import dataclass

from matchgraph.errors import Error
from matchgraph.settings import check_settings, setting

# Name -> torch's.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class InvalidDrawing(Error, ValueError):
    """Steps, guidance, resolution, caching interval or precision are out of range."""


@dataclass(frozen=True)
class Drawing:
    """How a pipeline draws an image; checked when built.

    Attributes:
        steps: denoising steps; None for the pipeline's default, which is 4 for a student.
        guidance: classifier-free guidance scale, 1 or less for none; None for the pipeline's default, which
            is 1 for a student, as its guidance is distilled into it.
        sampler: class of diffusers' scheduler; None for the pipeline's own.
        resolution_px: side of the image, pixels.
        cache_interval: with DeepCache, the steps between two full passes of the U-Net; 1 without.
        precision: of the weights and of the arithmetic; a VAE that overflows in half precision decodes in
            float32 all the same.

    Raises:
        InvalidDrawing: a value is out of range.
    """

    steps: int | None = setting(None, "Denoising steps.", at_least=1)
    guidance: float | None = setting(None, "Guidance scale; by default the pipeline's own.", at_least=0)
    sampler: str | None = setting(
        None, "Scheduler of diffusers; by default the pipeline's own.", metavar="CLASS"
    )
    resolution_px: int = setting(512, "Side of the images, in pixels.", at_least=8, option="--resolution")
    cache_interval: int = setting(
        1, "With DeepCache (U-Nets only): steps between two full passes.", at_least=1
    )
    precision: str = setting(
        "fp32", "Precision of weights and arithmetic.", choices=tuple(PRECISIONS), identity="changed"
    )

    def __post_init__(self) -> None:
        check_settings(self, InvalidDrawing)
        if self.guidance is not None:
            object.__setattr__(self, "guidance", float(self.guidance))

    @property
    def stated_steps(self) -> int:
        """The steps, of a drawing whose steps have been checked to be given."""
        assert self.steps is not None
        return self.steps

    @property
    def name(self) -> str:
        """What is not the default, without the resolution: `4`, `10-DDIM-g7.5`, `50-cache3`, `20-bf16`."""
        parts = ["default" if self.steps is None else str(self.steps)]
        if self.sampler is not None:
            parts.append(self.sampler.removesuffix("Scheduler"))
        if self.guidance is not None:
            parts.append(f"g{self.guidance:g}")
        if self.cache_interval > 1:
            parts.append(f"cache{self.cache_interval}")
        if self.precision != "fp32":
            parts.append(self.precision)
        return "-".join(parts)
