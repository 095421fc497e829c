"""A student and its teacher: calibrated and drawing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.drawing import Drawing
from matchgraph.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from matchgraph.collaboration import workflow as collaboration_workflow
    from matchgraph.graphdb.distillation import Calibration
    from matchgraph.graphdb.runner import Runner


class Collaboration:
    """A student that draws, and its teacher, which improves what is rejected. Made by `Graph.collaborate`.

    Attributes:
        student: id of the student.
    """

    def __init__(
        self,
        runner: Runner,
        student: str,
        probe: str,
        device: str,
        following: Callable[[], AbstractContextManager[Progress]],
    ) -> None:
        from matchgraph.collaboration.pairs import Oracle

        self.student = student
        self._runner, self._following = runner, following
        self._oracle = Oracle(probe, device=device)

    def calibrate(
        self,
        teacher: str,
        *,
        steps: int,
        guidance: float | None = None,
        resolution_px: int | None = None,
        precision: str = "fp32",
        metric: str = "clip_score",
        prompts_file: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> Calibration:
        """Measure the scores of the student's images, and store them in the graph.

        Args:
            teacher: id of the teacher.
            steps: the student's denoising steps.
            guidance: its guidance scale; the pipeline's own by default.
            resolution_px: side of its images; the pipeline's own by default.
            precision: of weights and arithmetic, of the teacher too: `fp32`, `bf16` or `fp16`.
            metric: quality metric that judges.
            prompts_file: one prompt per line; the graph's validation prompts by default.
            seed: of the noise.

        Raises:
            Error: a pipeline folder is missing, or there are no prompts.

        Example:
            >>> pair = graph.collaborate("tiny-sdxl-lcm")
            >>> pair.calibrate(
            ...     "tiny-sdxl", steps=2, guidance=1, resolution_px=32, prompts_file="prompts.txt"
            ... ).samples
            2
        """
        from matchgraph.collaboration import workflow

        with self._following() as on_progress:
            return workflow.calibrate(
                self._runner,
                self.student,
                teacher,
                Drawing(steps, guidance, precision=precision),
                self._oracle,
                resolution_px=resolution_px,
                metric=metric,
                prompts_file=None if prompts_file is None else Path(prompts_file),
                seed=seed,
                on_progress=on_progress,
            )

    def generate(
        self,
        prompts: Sequence[str],
        out: str | os.PathLike[str],
        *,
        percentile: float | None = None,
        teacher_steps: int | None = None,
        teacher_resolution_px: int | None = None,
        seed: int = 0,
    ) -> list[collaboration_workflow.Drawn]:
        """Draw prompts: the student first, the teacher where the score is below the threshold.

        Args:
            prompts: at least one.
            out: folder for the images.
            percentile: of the student's scores that an image must reach; the tuned one by default.
            teacher_steps: denoising steps of the teacher; the tuned ones by default.
            teacher_resolution_px: side of the teacher's images; the tuned one, or the student's, by default.
            seed: of the noise.

        Returns:
            The images with who drew them and why, by prompt.

        Raises:
            Error: the student is not calibrated, or neither tuned nor given a percentile and steps.

        Example:
            >>> pair = graph.collaborate("tiny-sdxl-lcm")
            >>> drawn = pair.generate(["a red apple"], "images", percentile=50, teacher_steps=4)
            >>> drawn[0].path.suffix
            '.png'
        """
        from matchgraph.collaboration import workflow

        drawn = workflow.generate(
            self._runner,
            self.student,
            prompts,
            Path(out),
            self._oracle,
            k=percentile,
            teacher_steps=teacher_steps,
            teacher_resolution_px=teacher_resolution_px,
            seed=seed,
        )
        return sorted(drawn, key=lambda image: image.outcome.place)
