"""Another sampler for a pipeline than the one its folder names, of the same noise process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from training.errors import InvalidConfig


@contextmanager
def drawing_with(pipe: Any, name: str | None) -> Iterator[None]:
    """Let a pipeline draw with a sampler; it has its own again after.

    Args:
        pipe: the pipeline.
        name: class of diffusers' scheduler, such as DPMSolverMultistepScheduler; None for the pipeline's own.

    Raises:
        InvalidConfig: there is no such class, or it is not of the pipeline's noise process.
    """
    own = pipe.scheduler
    if name is None or name == type(own).__name__:
        yield
        return
    fitting = {each.__name__: each for each in own.compatibles}
    if name not in fitting:
        raise InvalidConfig(
            f"{name!r} is no sampler for {type(own).__name__}: use one of {', '.join(sorted(fitting))}."
        )
    pipe.scheduler = fitting[name].from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
