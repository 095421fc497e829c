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
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    # Meta tensors go through torch's Python references, a millisecond each. What most layers are needs only
    # a shape: these keep their input's.
    pointwise = {F.layer_norm, F.group_norm, F.rms_norm, F.silu, F.gelu, F.relu, F.dropout}

    class Shortcuts(TorchFunctionMode):
        """Gives linear layers, norms and activations their output's shape, and counts the products.

        Fused attention, which meta tensors would split into products that look like any other, is counted
        apart, by its two products: of queries with keys, and of their weights with values.
        """

        linear = attention = 0

        def __torch_function__(
            self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if function is F.scaled_dot_product_attention:
                named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
                query, key, value = named["query"], named["key"], named["value"]
                products = query.shape[-1] + value.shape[-1]
                self.attention += 2 * query.shape[:-1].numel() * key.shape[-2] * products
                return _shaped(query, (*query.shape[:-1], value.shape[-1]))
            if function is F.linear:
                tensor, weight = args[:2]
                if tensor.shape[-1] != weight.shape[-1]:
                    raise RuntimeError(f"a layer of {weight.shape[-1]} inputs gets {tensor.shape[-1]}")
                self.linear += 2 * tensor.numel() * len(weight)
                return _shaped(tensor, (*tensor.shape[:-1], len(weight)))
            if function in pointwise:
                return _shaped(args[0], args[0].shape)
            return function(*args, **kwargs)

    class Counter(TorchDispatchMode):
        """Counts every other product by torch's own formulas."""

        flop = 0

        def __torch_dispatch__(
            self, operation: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            output = operation(*args, **kwargs)
            if (formula := flop_registry.get(operation.overloadpacket)) is not None:
                self.flop += formula(*args, **kwargs, out_val=output)
            return output

    shortcuts, counter = Shortcuts(), Counter()
    with counter, shortcuts:
        yield lambda: (shortcuts.linear + counter.flop, shortcuts.attention)


def _shaped(like: Any, shape: Any) -> Any:
    return like.new_empty(shape)


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
    """Batch size of inputs, (args, kwargs): that of the largest tensor, or of a list in the first place."""
    import torch

    # Z-Image's denoiser takes an image a tensor.
    if value[0] and isinstance(value[0][0], list):
        return len(value[0][0])

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    return max(
        (tensor for tensor in tensors(value) if tensor.ndim > 1), key=lambda tensor: tensor.numel()
    ).shape[0]
