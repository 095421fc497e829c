"""Draw from a noised picture instead of from noise alone: what SDEdit and refinement do.

The picture's latents are noised to a level of the sampler's own schedule, and the sampler goes on from there.

Source:
    Meng et al., "SDEdit" (2021), Algorithm 1; Starodubcev et al., "Your Student is Better Than Expected"
    (2024), section 3.2 (improvement step).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Start:
    """Pictures to begin with.

    Attributes:
        latents: clean ones, in the form that the pipeline's call takes them in; (n, ...).
        strength: share of the schedule that is drawn again, above 0 and below 1: the rollback.
    """

    latents: torch.Tensor
    strength: float

    def __post_init__(self) -> None:
        if not 0 < self.strength < 1:
            raise InvalidConfig(f"The rollback must be above 0 and below 1, got {self.strength!r}.")

    def rows(self, places: Sequence[int]) -> Start:
        """Some of the pictures."""
        return Start(self.latents[list(places)], self.strength)


@contextmanager
def rolled_back(scheduler: Any, steps: int, strength: float) -> Iterator[int]:
    """Let a sampler's schedule be the end of a longer one.

    The longer one has as many steps as are needed for its last `steps` to be the share `strength` of it,
    rounded: 0.5 and 4 steps are the last 4 of 8. A schedule of few steps that lead (SDXL's) begins well below
    noise alone, so there the picture is felt however far it is rolled back.

    Args:
        scheduler: the pipeline's; as it was after.
        steps: that are made.
        strength: see `Start`.

    Yields:
        Steps to ask the pipeline's call for.

    Raises:
        InvalidConfig: the sampler's steps are not one call of the denoiser each, each for itself.
    """
    config = scheduler.config
    most = config.get("original_inference_steps", config["num_train_timesteps"])
    total = min(max(steps, round(steps / strength)), max(steps, most))
    own = scheduler.set_timesteps

    # Pipelines look at the method's parameters before they call it.
    @functools.wraps(own)
    def set_timesteps(*arguments: Any, **named: Any) -> None:
        own(*arguments, **named)
        if len(scheduler.timesteps) != total or hasattr(scheduler, "order_list"):
            raise InvalidConfig(
                f"{type(scheduler).__name__} cannot begin in the middle of its schedule: draw with another "
                "sampler, such as DPMSolverMultistepScheduler."
            )
        scheduler.timesteps = scheduler.timesteps[total - steps :]
        if getattr(scheduler, "sigmas", None) is not None and len(scheduler.sigmas) == total + 1:
            scheduler.sigmas = scheduler.sigmas[total - steps :]

    scheduler.set_timesteps = set_timesteps
    try:
        yield total
    finally:
        del scheduler.set_timesteps


class _ScheduleMade(Exception):
    """Ends a call of a pipeline whose schedule is made."""


def noised(
    scheduler: Any, latents: torch.Tensor, generators: Sequence[torch.Generator], call: Callable[[], object]
) -> torch.Tensor:
    """Noise latents to the level at which a sampler is to begin.

    Args:
        scheduler: the pipeline's, inside `rolled_back`.
        latents: clean, (n, ...).
        generators: n CPU generators of the noise.
        call: calls the pipeline. It alone knows what its schedule depends on (Flux shifts it by the size of
            the picture), so it is let go as far as making it, and no further.

    Returns:
        What to give the pipeline's call as `latents`, of the shape and on the device of `latents`.
    """
    import torch

    made = scheduler.set_timesteps

    @functools.wraps(made)
    def stop(*arguments: Any, **named: Any) -> None:
        made(*arguments, **named)
        raise _ScheduleMade

    scheduler.set_timesteps = stop
    try:
        call()
    except _ScheduleMade:
        pass
    finally:
        scheduler.set_timesteps = made
    each = [torch.randn(latents.shape[1:], generator=generator) for generator in generators]
    noise = torch.stack(each).to(latents)
    level = scheduler.timesteps[:1].to(latents.device).expand(len(latents))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(latents, level, noise)
    # Pipelines scale what they are given as if it were noise alone.
    return scheduler.add_noise(latents, noise, level) / scheduler.init_noise_sigma
