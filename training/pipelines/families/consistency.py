"""Sampling in few steps from a flow that was distilled to consistency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def as_student(scheduler: Any, steps: int, generators: Sequence[torch.Generator]) -> Iterator[dict[str, Any]]:
    """What the multistep sampler of a consistency-distilled flow needs that pipelines do not give it.

    Some pipelines hand no generator to their scheduler's step, whose noise would then come from torch's
    global one. And by itself the scheduler shifts the ends of its grid twice and puts its last step next to
    noise level 0, where nothing is left to do; the even levels are those that Flux's pipeline asks for.

    Args:
        scheduler: the pipeline's; one of another class is left alone.
        steps: denoising steps.
        generators: of the images.

    Yields:
        Further arguments of the pipeline's call.
    """
    if type(scheduler).__name__ != "FlowMatchLCMScheduler":
        yield {}
        return
    # Others may have put something in its place, which is to be there again after.
    before = vars(scheduler).get("step")
    scheduler.step = partial(scheduler.step, generator=list(generators))
    try:
        yield {"sigmas": [1 - step / steps for step in range(steps)]}
    finally:
        del scheduler.step
        if before is not None:
            scheduler.step = before
