"""Pipelines that only draw, loaded by a plan of the GPU's memory as those of fine-tuning runs are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import CannotProfile, InsufficientMemory, OutOfMemory
from matchgraph.training.memory.footprint import footprint
from matchgraph.training.memory.plan import EVERYTHING, GIB, MemoryPlan, Work, plan_memory
from matchgraph.training.pipelines.encoding import PROMPT_BATCH, images_together
from matchgraph.training.pipelines.loading import LoadedPipeline, choose_device

if TYPE_CHECKING:
    import torch

# All that a pipeline comes to that is not trained.
STAGES = ("loading", "encoding text", "sampling", "decoding", "scoring")
# How an image is drawn is said where a candidate is added or a student calibrated, not where it is drawn.
OTHERWISE = (
    "draw smaller images or in bf16 (--resolution and --precision of `route variants` or `collaborate "
    "calibrate`), or use a GPU with more memory"
)
WHAT_HELPS = (
    "Give --gpu-memory with less than the GPU has, so that more of the model is offloaded to main memory, "
    f"{OTHERWISE}"
)


def free_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a GPU that this process has or may take, and what of it is taken by its tensors already."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)


def memory_to_draw(device: str, gpu_memory: float | None) -> tuple[int, int] | None:
    """Bytes of a device to stay within, and what of them is taken by this process's tensors already.

    Args:
        device: `auto` or a torch device name.
        gpu_memory: GiB to stay within; by default what is free.

    Returns:
        None where memory is not planned: on a CPU, unless it is given.
    """
    chosen = choose_device(device)
    if chosen.type != "cuda" and gpu_memory is None:
        return None
    free, held = free_memory(chosen) if chosen.type == "cuda" else (EVERYTHING, 0)
    return free if gpu_memory is None else min(free, int(gpu_memory * GIB)), held


def drawing_plan(
    folder: str | os.PathLike[str],
    *,
    budget_bytes: int,
    held_bytes: int,
    resolution_px: int,
    batch_size: int,
    precision: str = "fp32",
) -> MemoryPlan | None:
    """How a model draws within a GPU's memory.

    Args:
        folder: the model's.
        budget_bytes: what of the memory it may take.
        held_bytes: what of that is taken already, by what scores its images.
        resolution_px: side of the images.
        batch_size: the most images to draw at a time.
        precision: of the weights.

    Returns:
        None where the model's configs say too little.
    """
    try:
        found = footprint(folder, precision=precision, resolution_px=resolution_px)
    except CannotProfile:
        return None
    work = Work(
        batch_size=1,
        sampling_batch=batch_size,
        prompt_batch=PROMPT_BATCH,
        image_batch=images_together(resolution_px),
        instrument_bytes=held_bytes,
    )
    return plan_memory(found, budget_bytes, work, stages=STAGES)


@contextmanager
def opened_to_draw(
    folder: str | os.PathLike[str],
    *,
    device: str,
    resolution_px: int,
    batch_size: int,
    precision: str = "fp32",
    gpu_memory: float | None = None,
    within: tuple[int, int] | None = None,
) -> Iterator[LoadedPipeline]:
    """Load a pipeline that only draws, so that it fits the GPU; freed after.

    Args:
        folder: the model's.
        device: `auto` or a torch device name.
        resolution_px: side of the images.
        batch_size: the most images to draw at a time.
        precision: of the weights.
        gpu_memory: GiB of the GPU to stay within; by default what is free.
        within: see `memory_to_draw`; by default what it says now.

    Raises:
        InsufficientMemory: it does not fit, however it is drawn with.
        OutOfMemory: it should, and did not.
        BadPipeline: see `training.pipelines.loading.LoadedPipeline`.
    """
    plan = None
    if (memory := within or memory_to_draw(device, gpu_memory)) is not None:
        budget, held = memory
        plan = drawing_plan(
            folder,
            budget_bytes=budget,
            held_bytes=held,
            resolution_px=resolution_px,
            batch_size=batch_size,
            precision=precision,
        )
    if plan is not None and plan.too_large:
        raise InsufficientMemory(
            f"{os.path.basename(folder)} needs about {plan.peaks[plan.heaviest] / GIB:.1f} GiB for "
            f"{plan.heaviest}, and there are {plan.budget / GIB:.1f}. Either {OTHERWISE}."
        )
    try:
        with LoadedPipeline(
            folder, device=device, precision=precision, placement=None if plan is None else plan.placement
        ) as loaded:
            loaded.drawn_together = None if plan is None else plan.sampling_batch
            yield loaded
    except OutOfMemory as error:
        # Of two pipelines the outer one hears of it as well.
        told = str(error) if WHAT_HELPS in str(error) else f"{error}. {WHAT_HELPS}."
        raise OutOfMemory(error.stage, told) from None


@contextmanager
def opened_pair_to_draw(
    student: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    *,
    device: str,
    gpu_memory: float | None = None,
    teacher_px: int | None = None,
    **options: Any,
) -> Iterator[tuple[LoadedPipeline, LoadedPipeline]]:
    """Load two pipelines that draw in turn and both stay loaded, each in half of what is left.

    Args:
        student: folder of one.
        teacher: folder of the other.
        device: see `opened_to_draw`.
        gpu_memory: likewise, for both together.
        teacher_px: side of the teacher's images, where it is another than the student's.
        options: of `opened_to_draw`, for both.
    """
    within = None
    # Asked once: what the first takes is not to be counted against the second.
    if (memory := memory_to_draw(device, gpu_memory)) is not None:
        budget, held = memory
        within = held + (budget - held) // 2, held
    others = options if teacher_px is None else options | {"resolution_px": teacher_px}
    with (
        opened_to_draw(student, device=device, within=within, **options) as one,
        opened_to_draw(teacher, device=device, within=within, **others) as other,
    ):
        yield one, other
