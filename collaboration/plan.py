"""How student and teacher draw, and the cost of an image of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.drawing import Drawing

if TYPE_CHECKING:
    from matchgraph.training.pipelines.loading import LoadedPipeline


@dataclass(frozen=True)
class Correction:
    """How the teacher corrects a rejected image.

    Attributes:
        drawing: how it draws; its steps are given.
        rollback: share of its schedule that it repeats from the student's image (refinement); None to
            start from noise (regeneration).

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
        return f"{how}@{self.drawing.name}"


@dataclass(frozen=True)
class Plan:
    """How student and teacher work together.

    Attributes:
        student: how the student draws; its steps are given.
        correction: what the teacher does, also at a resolution of its own; what it refines is scaled to that.
        seed: decides all noise: with an image's number the student's, the teacher's and that of refinement.
        batch_size: images drawn at a time, by either.
        strength: for editing, the share of the schedule that is repeated; None to draw from noise.
        control_scale: what a ControlNet's residuals are multiplied by, where there is one.
    """

    student: Drawing
    correction: Correction
    seed: int = 0
    batch_size: int = 8
    strength: float | None = None
    control_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.strength is not None and not 0 < self.strength < 1:
            raise InvalidPlan(f"The strength of an edit must be above 0 and below 1, got {self.strength!r}.")
        check_drawings([self.student])
        check_drawings([self.correction.drawing])


def check_drawings(drawings: Sequence[Drawing]) -> None:
    """Make sure that drawings of one model can be compared, and that their steps can be counted.

    Raises:
        InvalidPlan: resolutions or precisions differ, or a number of steps is missing.
    """
    if any(drawing.steps is None for drawing in drawings):
        raise InvalidPlan("Student and teacher need a number of steps each.")
    if len(sides := {drawing.resolution_px for drawing in drawings}) > 1:
        raise InvalidPlan(f"All drawings of one model need one resolution, got {sorted(sides)} pixels.")
    if len(precisions := {drawing.precision for drawing in drawings}) > 1:
        raise InvalidPlan(f"All drawings of one model need one precision, got {sorted(precisions)}.")


def price(loaded: LoadedPipeline, drawing: Drawing) -> float:
    """TFLOP of the denoiser for one image, as candidates of routing are priced, and of a ControlNet that
    steers it.

    Encoding and decoding are left out on both sides: text encoders and VAE cost the same for both, and
    little.

    Args:
        loaded: the pipeline.
        drawing: how it draws; of a refinement, the steps that are made.

    Raises:
        TrainingError: the folder cannot be priced.
    """
    from matchgraph.training.pipelines.profile import profiler_of

    controlnet = loaded.pipe.components.get("controlnet")
    profiler = profiler_of(loaded.folder, None if controlnet is None else controlnet.config)
    # Weights of half the size take as many operations.
    asked = {name: value for name, value in asdict(drawing).items() if name != "precision"}
    profile = profiler.price(**asked)
    return float(profile.parts["denoising"] + profile.parts["control"])
