"""How an image is drawn: one value for candidates, students, teachers and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matchgraph.errors import Error


class InvalidDrawing(Error, ValueError):
    """Steps, guidance, resolution or caching interval are out of range."""


@dataclass(frozen=True)
class Drawing:
    """How a pipeline draws an image; checked when built.

    Attributes:
        steps: denoising steps; None for the pipeline's default, which is 4 for a student.
        guidance: classifier-free guidance scale, 1 or less for none; None for the pipeline's default, which
            is 1 for a student, as its guidance is inside.
        sampler: class of diffusers' scheduler; None for the pipeline's own.
        resolution_px: side of the image, pixels.
        cache_interval: with DeepCache, the steps from one whole pass of the U-Net to the next; 1 without.

    Raises:
        InvalidDrawing: a value is out of range.
    """

    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    resolution_px: int = 512
    cache_interval: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "resolution_px", "cache_interval"):
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidDrawing(f"{name} is {value!r}: a whole number of at least 1 is needed.")
        if self.guidance is not None:
            if isinstance(self.guidance, bool) or not isinstance(self.guidance, (int, float)):
                raise InvalidDrawing(f"guidance is {self.guidance!r}: a number is needed.")
            if not (math.isfinite(self.guidance) and self.guidance >= 0):
                raise InvalidDrawing(
                    f"guidance is {self.guidance!r}: a finite number of at least 0 is needed."
                )
            object.__setattr__(self, "guidance", float(self.guidance))

    @property
    def name(self) -> str:
        """What is not the pipeline's own, without the resolution: `4`, `10-DDIM-g7.5`, `50-cache3`."""
        parts = ["default" if self.steps is None else str(self.steps)]
        if self.sampler is not None:
            parts.append(self.sampler.removesuffix("Scheduler"))
        if self.guidance is not None:
            parts.append(f"g{self.guidance:g}")
        if self.cache_interval > 1:
            parts.append(f"cache{self.cache_interval}")
        return "-".join(parts)
