"""Operations of networks on torch's meta device, where tensors have shapes and no values."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def keep_scheduler_in_place(scheduler: Any) -> None:
    """Let a scheduler give its timesteps, whose number counts, and leave the latents alone: the arithmetic on
    them needs values and is nothing beside a forward.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step

    @functools.wraps(set_timesteps)
    def on_cpu(*args: Any, device: object = None, **kwargs: Any) -> None:  # noqa: ARG001
        set_timesteps(*args, device="cpu", **kwargs)

    @functools.wraps(step)
    def stay(_output: Any, _timestep: Any, sample: Any, *_args: Any, **_kwargs: Any) -> tuple[Any]:
        return (sample,)

    scheduler.set_timesteps = on_cpu
    scheduler.step = stay
    scheduler.scale_model_input = lambda sample, *_: sample


@contextmanager
def counting() -> Iterator[Any]:
    """Count the operations inside; what it gives returns (all but fused attention, fused attention)."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    attention = torch.nn.functional.scaled_dot_product_attention

    class FusedAttention(TorchFunctionMode):
        """Skips fused attention, which meta tensors would split into products that look like any
        other, and counts it by its two products: of queries with keys, and of their weights with values.
        """

        flop = 0

        def __torch_function__(
            self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if function is not attention:
                return function(*args, **kwargs)
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            query, key, value = named["query"], named["key"], named["value"]
            self.flop += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            return query.new_empty((*query.shape[:-1], value.shape[-1]))

    fused = FusedAttention()
    with FlopCounterMode(display=False) as counter, fused:
        yield lambda: (counter.get_total_flops(), fused.flop)


def on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: on_meta(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_meta(item) for item in value)
    return value


def shapes_of(value: Any) -> object:
    """What of a method's inputs its cost can depend on, as a dictionary key."""
    import torch

    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, dict):
        return tuple((key, shapes_of(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(shapes_of(item) for item in value)
    return repr(value)


def batch_size_of(value: Any) -> int:
    """Batch size of the largest tensor among a method's inputs."""
    import torch

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    return max(
        (tensor for tensor in tensors(value) if tensor.ndim > 1), key=lambda tensor: tensor.numel()
    ).shape[0]
