"""A GPU of any size for machines without one: tensors have shapes, types and a device, and no values.

They are torch's fake tensors, so types and devices that do not go together fail as on a GPU, and what they
would take is counted: beyond the GPU's size there is a lack of memory. The GPU goes by the name of `meta`,
since a backward pass on another device needs its driver. Who asks a tensor for a value gets one of its type.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch._dynamo
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from matchgraph.training.memory.tracing import as_on_a_gpu
from matchgraph.training.pipelines import loading
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.loading import read_model_index
from matchgraph.training.pipelines.meta import MetaBuilder

GPU = torch.device("meta")
# Those of `computing`.
_MODES: list[TorchFunctionMode] = []


class Card:
    """The GPU.

    Args:
        size: bytes that its tensors may take.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = self.peak = 0
        self._sizes: dict[int, int] = {}

    def take(self, size: int) -> None:
        """Count bytes as taken."""
        if self.held + size > self.size:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
        self.held += size
        self.peak = max(self.peak, self.held)

    def stage(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, self.held
        return peak

    def _made(self, tensor: Any) -> None:
        if not isinstance(tensor, FakeTensor) or tensor.device != GPU:
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self.take(storage.nbytes())
            self._sizes[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        self.held -= self._sizes.pop(key, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let everything inside run on the card; pipelines are loaded from their configs alone."""
        card = self

        class Count(TorchDispatchMode):
            def __torch_dispatch__(
                self, operation: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
            ) -> Any:
                output = operation(*args, **(kwargs or {}))
                for value in _pytree.tree_leaves(output):
                    card._made(value)
                return output

        own = torch.Tensor._make_subclass

        def subclass(kind: type, *args: Any, **kwargs: Any) -> Any:
            # So that a tensor's data can be moved between devices, as it can between those of real ones.
            keys = {"device_for_backend_keys": torch.device("cpu")} if kind is FakeTensor else {}
            return own(kind, *args, **kwargs | keys)

        stand_ins = (
            (torch.Tensor, "_make_subclass", staticmethod(subclass)),
            (torch.nn.Module, "_apply", _apply),
            (torch.nn.Module, "__call__", _called),
            (FakeTensor, "tolist", _list),
            (torch.optim, "AdamW", Moments),
            (loading, "load_pipeline", load_faked),
            # It knows no such device; its rules are around whole steps, see `computing`.
            (torch, "autocast", lambda *_, **__: nullcontext()),
            (torch, "is_autocast_enabled", lambda *_: False),
            (torch, "get_autocast_dtype", lambda *_: torch.bfloat16),
        )
        with ExitStack() as around:
            for owner, name, stand_in in stand_ins:
                around.enter_context(patch.object(owner, name, stand_in))
            around.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            around.enter_context(Count())
            around.enter_context(Values())
            yield


@contextmanager
def computing(narrow: torch.dtype | None = None) -> Iterator[None]:
    """Compute on the card inside, with the types of autocast if there is one."""
    with as_on_a_gpu(narrow), Values():
        _MODES[:] = _get_current_function_mode_stack()
        yield


def load_faked(folder: Path, *, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Stands for `load_pipeline`: the pipeline of a folder's configs."""
    index = read_model_index(folder)
    with unset_fake_temporarily():
        family, pipe = family_of(index), MetaBuilder(Path(folder)).build(index)
    family.prepare(pipe)
    pipe.set_progress_bar_config(disable=True)
    made: dict[torch.Tensor, torch.Tensor] = {}
    for part in pipe.components.values():
        for module in part.modules() if isinstance(part, torch.nn.Module) else ():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        # Some networks share weights.
                        if value not in made:
                            made[value] = _faked(value, dtype, device)
                        held[name] = made[value]
    return pipe, family


def _faked(value: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    empty = torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype, device=device)
    return torch.nn.Parameter(empty, False) if isinstance(value, torch.nn.Parameter) else empty


def _apply(
    network: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> Any:
    """Stands for the method of modules, which would make other parameters of fake ones."""
    with torch.no_grad():
        for module in network.modules() if recurse else [network]:
            for held in (module._parameters, module._buffers):
                for value in held.values():
                    if value is not None:
                        _set_data(value, change(value))
    return network


def _called(network: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stands for the call of modules: a backward pass that computes them again leaves the modes behind."""
    with ExitStack() as around:
        for mode in [] if _get_current_function_mode_stack() else _MODES:
            around.enter_context(mode)
        return network._wrapped_call_impl(*args, **kwargs)


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    torch.Tensor.data.__set__(tensor, value)
    if isinstance(tensor, FakeTensor):
        tensor.fake_device = value.device


class Moments(torch.optim.Optimizer):
    """Stands for AdamW after its first step: with its moments, and gradients as of an earlier pass."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **_: object) -> None:
        super().__init__(parameters, {"lr": 0.0})
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        self.moments = [torch.empty_like(parameter) for parameter in own for _ in range(2)]
        for parameter in own:
            parameter.grad = torch.empty_like(parameter)

    def step(self, closure: Any = None) -> None:
        """Its kernel takes no memory of its own."""


class Values(TorchFunctionMode):
    """Gives values to who asks for them."""

    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function == torch.Tensor.data.__set__:
            return _set_data(*args)
        if function == torch.Tensor.backward:
            # As a method it would leave these modes behind.
            with self:
                return torch.autograd.backward(args[0])
        if function == torch.Tensor.__getitem__:
            return function(args[0], _pytree.tree_map(_place, args[1]))
        if args and isinstance(args[0], FakeTensor) and function in ANSWERS:
            return ANSWERS[function](args[0])
        return function(*args, **kwargs)


def _place(index: Any) -> Any:
    """A number as an index is asked for its value."""
    is_number = isinstance(index, FakeTensor) and index.ndim == 0 and not index.is_floating_point()
    return 0 if is_number and index.dtype != torch.bool else index


def _number(tensor: FakeTensor) -> Any:
    if tensor.constant is not None:
        return tensor.constant.item()
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 0


def _list(tensor: FakeTensor) -> Any:
    # Of whole numbers, which are sizes and places, the least that serves as either.
    return _pytree.tree_map(lambda _: _number(tensor) or 1, np.empty(tuple(tensor.shape)).tolist())


def _array(tensor: FakeTensor) -> np.ndarray:
    return np.full(tuple(tensor.shape), _number(tensor), str(tensor.dtype).removeprefix("torch."))


ANSWERS: dict[Any, Callable[[FakeTensor], Any]] = {
    torch.Tensor.__bool__: lambda tensor: bool(_number(tensor)) if tensor.constant is not None else True,
    torch.Tensor.__float__: lambda tensor: float(_number(tensor)),
    torch.Tensor.__int__: lambda tensor: int(_number(tensor)),
    torch.Tensor.__index__: lambda tensor: int(_number(tensor)),
    torch.Tensor.item: _number,
    torch.Tensor.numpy: _array,
    torch.Tensor.__array__: _array,
    torch.Tensor.nonzero: lambda tensor: torch.zeros(1, tensor.ndim, dtype=torch.long, device=tensor.device),
}
