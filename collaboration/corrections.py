"""The corrections by a teacher that are compared, as settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.trials import Grid
from matchgraph.drawing import Drawing
from matchgraph.settings import check_settings, same_setting, setting


@dataclass(frozen=True)
class Corrections:
    """The corrections by the teacher to compare.

    Attributes:
        teacher_steps: denoising steps of the teacher alone and when it draws from noise.
        refine_steps: denoising steps of the teacher when it refines.
        rollbacks: shares of the teacher's schedule that refinement repeats.
        teacher_guidance: guidance scale; None for the pipeline's own.
        teacher_sampler: class of diffusers' scheduler; None for the pipeline's own.
        teacher_resolution_px: side of the teacher's images; None for the student's.
    """

    teacher_steps: tuple[int, ...] = setting(
        (4, 10, 20), "Step counts of the teacher, alone and when it regenerates.", at_least=1
    )
    refine_steps: tuple[int, ...] = setting(
        (2, 4, 8), "Step counts of the teacher when it refines.", at_least=1
    )
    rollbacks: tuple[float, ...] = setting(
        (0.3, 0.5, 0.7, 0.9), "Shares of the teacher's schedule that refinement repeats."
    )
    teacher_guidance: float | None = same_setting(
        Drawing, "guidance", help="Guidance scale of the teacher; by default the pipeline's own."
    )
    teacher_sampler: str | None = same_setting(
        Drawing, "sampler", help="Scheduler of the teacher; by default the pipeline's own."
    )
    teacher_resolution_px: int | None = setting(
        None,
        "Side of the teacher's images, in pixels; by default the student's. What it refines is scaled.",
        at_least=8,
        option="--teacher-resolution",
    )

    def __post_init__(self) -> None:
        check_settings(self, InvalidPlan)

    def grid(self, students: tuple[Drawing, ...], samples: int, seed: int) -> Grid:
        """All of them with some drawings of the student, in the precision of the first.

        Args:
            students: the first is corrected, the others are compared with.
            samples: images of each prompt.
            seed: of the noise.
        """
        side = self.teacher_resolution_px or students[0].resolution_px
        teacher = Drawing(
            None, self.teacher_guidance, self.teacher_sampler, side, precision=students[0].precision
        )
        teachers, refiners = (
            tuple(replace(teacher, steps=steps) for steps in some)
            for some in (self.teacher_steps, self.refine_steps)
        )
        return Grid(students, teachers, self.rollbacks, refiners, samples, seed)


def correction_of(name: str | None, grid: Grid) -> tuple[float | None, Drawing]:
    """Rollback and drawing of a correction by its id; without one, the teacher's fewest steps."""
    for refinement in grid.refinements:
        if refinement.id == name:
            return refinement.rollback, refinement.drawing
    for teacher in grid.teachers:
        if name == f"regenerate@{teacher.name}":
            return None, teacher
    return None, min((*grid.teachers, *grid.refiners), key=lambda drawing: drawing.stated_steps)
