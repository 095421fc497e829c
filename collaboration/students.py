"""Distil students from a teacher, in a run that can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.progress import OnWork, no_work
from matchgraph.training.prompt_files import read_prompts

if TYPE_CHECKING:
    from matchgraph.training.config import DistillConfig
    from matchgraph.training.images import DatasetFolder
    from matchgraph.training.tune.distill import Distillation

# Beside the student's folder while it is not finished: checkpoints, and what the teacher drew.
WORK_SUFFIX = ".partial"
CACHE_BYTES = 64 << 30


def distill_student(
    teacher: Path,
    out: Path,
    config: DistillConfig,
    *,
    prompts_file: Path | None = None,
    images: DatasetFolder | None = None,
    checkpoint_steps: int = 100,
    resume: bool = True,
    on_work: OnWork = no_work,
    on_draw: Callable[[int, int], None] = lambda *_: None,
    on_step: Callable[[int, float], None] = lambda *_: None,
) -> Distillation:
    """Distil a student; see `training.tune.distill.distill`.

    Args:
        teacher: a pipeline folder, or OWNER/NAME on the hub.
        out: the student's folder; `<out>.partial` keeps the run until it is finished.
        config: how.
        prompts_file: one prompt on each line, which the teacher draws to be learnt from.
        images: folder of captioned images to learn from instead.
        checkpoint_steps: steps from one checkpoint to the next.
        resume: continue from the checkpoint if there is one; else it is removed.
        on_work: called with what the teacher is about to draw.
        on_draw: called with the images that the teacher has drawn and how many it draws.
        on_step: called with each step and its loss.

    Raises:
        InvalidPlan: neither prompts nor images are given, or both.
        BadPromptFile, TrainingError: something about the inputs or the teacher.
    """
    from matchgraph.training.pipelines.cache import EncodingCache
    from matchgraph.training.tune.checkpoint import Checkpoints
    from matchgraph.training.tune.distill import distill

    if (prompts_file is None) == (images is None):
        raise InvalidPlan("A student is distilled on either prompts or images: give one of the two.")
    prompts = [] if prompts_file is None else read_prompts(prompts_file).texts
    work = out.with_name(out.name + WORK_SUFFIX)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    made = distill(
        teacher,
        out,
        prompts,
        config,
        images=images,
        on_work=on_work,
        on_draw=on_draw,
        on_step=on_step,
        checkpoints=Checkpoints(work, checkpoint_steps, resume_from=work),
        cache=EncodingCache(work / "cache", CACHE_BYTES),
    )
    shutil.rmtree(work, ignore_errors=True)
    return made
