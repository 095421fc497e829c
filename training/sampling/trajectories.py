"""The path of the latents through a sampler's steps, and how curved it is."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Trajectory:
    """Latents of a call of a pipeline, step by step.

    Attributes:
        points: clean at the end; all of them, or the last alone. Those before the last are scaled so that
            noise is added to the clean latents, or blended with them in a straight line, as the sampler's
            process has it.
    """

    def __init__(self) -> None:
        self.points: list[torch.Tensor] = []

    def clear(self) -> None:
        """Forget the last call, before the next."""
        self.points.clear()

    @property
    def last(self) -> torch.Tensor:
        """What the call ended with and decodes, in the form that it takes latents in."""
        return self.points[-1]


@contextmanager
def followed(scheduler: Any, *, whole: bool = False) -> Iterator[Trajectory]:
    """Keep the latents of a pipeline's calls.

    Args:
        scheduler: the pipeline's; as it was after.
        whole: keep those of every step, at their cost in memory.
    """
    trajectory = Trajectory()
    own = scheduler.step

    @functools.wraps(own)
    def step(output: Any, timestep: Any, sample: Any, *arguments: Any, **named: Any) -> Any:
        if whole:
            del trajectory.points[-1:]
            trajectory.points.append(sample * _unshrunk(scheduler, timestep))
        else:
            trajectory.clear()
        made = own(output, timestep, sample, *arguments, **named)
        trajectory.points.append(made[0])
        return made

    scheduler.step = step
    try:
        yield trajectory
    finally:
        del scheduler.step


def _unshrunk(scheduler: Any, timestep: Any) -> float:
    """What undoes the shrinking of clean latents by samplers that keep their variance.

    Euler's and its kin add noise to latents as they are, and flow matching blends the two in a straight line:
    neither has anything to undo.
    """
    flow = hasattr(scheduler, "scale_noise") or scheduler.config.get("use_flow_sigmas")
    if flow or float(scheduler.init_noise_sigma) != 1:
        return 1.0
    return 1 / math.sqrt(float(scheduler.alphas_cumprod[int(timestep)]))


def curvature(points: Sequence[torch.Tensor]) -> torch.Tensor:
    """How far a path departs from the straight line between its ends.

    Args:
        points: on the path, at least two, each (n, ...).

    Returns:
        float64, (n,): the mean distance of the points from the line, as a share of its length.

    Source:
        Chen et al., "A geometric perspective on diffusion models" (2023), trajectory deviation, as
        Starodubcev et al. (2024), section 3.1 and Figure 6, have it.
    """
    import torch

    path = torch.stack([point.double().flatten(1).cpu() for point in points])
    line = path[-1] - path[0]
    length = line.norm(dim=1)
    along = line / length[:, None]
    offset = path - path[0]
    off = offset - (offset * along).sum(dim=2, keepdim=True) * along
    return off.norm(dim=2).mean(dim=0) / length
