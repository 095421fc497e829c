"""Peak memory of networks on torch's meta device, where tensors have shapes and no values.

Sizes are kept in two parts, one that is fixed and one for each row of the batch: a pass is traced once, at a
batch size that is a prime no layer's width is a multiple of, and gives the peak of every batch size.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# The batch size of traced passes. Whatever has a multiple of so many bytes has one row for each of the batch.
TRACED_ROWS = 1009


@dataclass(frozen=True)
class Hull:
    """The peak of a pass as a function of the number of rows: the highest of some straight lines.

    Args:
        lines: bytes that are fixed and bytes for each row, of the moments that can be the peak.
    """

    lines: tuple[tuple[int, int], ...] = ((0, 0),)

    @classmethod
    def over(cls, points: Iterable[tuple[int, int]]) -> Hull:
        """The hull of any moments; moments that are the peak of no number of rows are left out."""
        kept: list[tuple[int, int]] = []
        # By falling share of each row: one is kept if it is fixed higher than all before it.
        for fixed, per_row in sorted(set(points), key=lambda point: (-point[1], -point[0])):
            if not kept or fixed > kept[-1][0]:
                kept.append((fixed, per_row))
        return cls(tuple(kept) or ((0, 0),))

    def at(self, rows: int) -> int:
        """Peak in bytes with so many rows."""
        return max(fixed + per_row * rows for fixed, per_row in self.lines)

    def raised(self, by: tuple[int, int]) -> Hull:
        """The hull of the same pass while something else is held as well."""
        return Hull(tuple((fixed + by[0], per_row + by[1]) for fixed, per_row in self.lines))


class Tracer:
    """Follows what is allocated and freed inside `watching`.

    Storages that were there before count as nothing: parameters are counted by who knows where they are.
    """

    def __init__(self) -> None:
        self.fixed = self.per_row = 0
        self._points: set[tuple[int, int]] = {(0, 0)}
        self._sizes: dict[int, int] = {}
        # Kept, so that no other storage takes their place.
        self._known: list[torch.UntypedStorage] = []

    @property
    def held(self) -> tuple[int, int]:
        """What is held now: bytes that are fixed, and bytes for each row."""
        return self.fixed, self.per_row

    def hull(self) -> Hull:
        """The peak so far."""
        return Hull.over(self._points)

    def know(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave storages out of the count."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = 0
                self._known.append(storage)

    def touch(self, hull: Hull) -> None:
        """Note a pass whose peak is known."""
        self._points.update((self.fixed + fixed, self.per_row + per_row) for fixed, per_row in hull.lines)

    @contextmanager
    def apart(self) -> Iterator[Callable[[], Hull]]:
        """Follow something beside the pass; gives its hull, over what was held before, as it stands."""
        before, points = self.held, self._points
        mine = self._points = {before}
        try:
            yield lambda: Hull.over((fixed - before[0], row - before[1]) for fixed, row in mine)
        finally:
            self._points = points

    def hold(self, size: tuple[int, int]) -> None:
        """Count something of a known size as held; a negative one ends that."""
        self.fixed += size[0]
        self.per_row += size[1]
        self._points.add(self.held)

    def _allocated(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.hold(split(storage.nbytes()))
            weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        fixed, per_row = split(self._sizes.pop(key, 0))
        self.fixed -= fixed
        self.per_row -= per_row

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count inside."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        tracer = self

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self, operation: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
            ) -> Any:
                output = operation(*args, **(kwargs or {}))
                for value in output if isinstance(output, tuple | list) else (output,):
                    if isinstance(value, torch.Tensor):
                        tracer._allocated(value)
                return output

        with Watch():
            yield


def split(size: int) -> tuple[int, int]:
    """A storage's size as fixed bytes and bytes for each row."""
    return (0, size // TRACED_ROWS) if size % TRACED_ROWS == 0 else (size, 0)


@contextmanager
def as_on_a_gpu(narrow: torch.dtype | None) -> Iterator[None]:
    """Let meta tensors take the types and attention kernels that a GPU's would.

    Autocast knows no meta device, so its rules for CUDA are followed here. Attention is counted as a fused
    kernel has it, which keeps its inputs, its output and one number for each query; meta tensors would
    compute all products of queries and keys.

    Args:
        narrow: what autocast narrows to; None without it.
    """
    with _mode(narrow):
        yield


def _mode(narrow: torch.dtype | None) -> Any:
    import torch
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode

    tensor = torch.Tensor
    attention = F.scaled_dot_product_attention
    # As far as denoisers use them; see "CUDA Ops that can autocast" in torch's reference of `torch.amp`.
    narrowed = {
        *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, attention),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
        *(tensor.matmul, tensor.__matmul__, tensor.mm, tensor.bmm, tensor.addmm, tensor.baddbmm),
    }
    widened = {
        *(F.layer_norm, F.group_norm, F.softmax, torch.softmax, tensor.softmax, F.mse_loss),
        *(torch.pow, tensor.pow, tensor.__pow__, torch.rsqrt, tensor.rsqrt, torch.exp, tensor.exp),
        *(torch.sum, tensor.sum, torch.norm, tensor.norm),
    }

    class GpuRules(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if narrow is not None and (function in narrowed or function in widened):
                source, target = (torch.float32, narrow) if function in narrowed else (narrow, torch.float32)

                def cast(value: Any) -> Any:
                    is_source = isinstance(value, tensor) and value.dtype == source
                    return value.to(target) if is_source else value

                args = tuple(map(cast, args))
                kwargs = {name: cast(value) for name, value in kwargs.items()}
            if function is attention:
                named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
                return _fused_attention(named["query"], named["key"], named["value"])
            return function(*args, **kwargs)

    return GpuRules()


def _fused_attention(query: Any, key: Any, value: Any) -> Any:
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            output = query.new_empty((*query.shape[:-1], value.shape[-1]))
            sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, output, sums)
            return output

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])

    return Fused.apply(query, key, value)


def tensors_in(values: Any) -> Sequence[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]
