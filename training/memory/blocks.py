"""Repeated blocks of networks on the meta device: each kind is traced once and then stands for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matchgraph.training.memory.tracing import Hull, Tracer, split, tensors_in
from matchgraph.training.pipelines.counting import shapes_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Trained:
    """What a block takes in training, over what was held before it.

    Args:
        alone: of its forward pass without gradients.
        forward: of its forward pass.
        saved: what it keeps for the backward pass, its inputs and outputs left out.
        backward: of its backward pass, with what was saved.
        outputs: what it gives, with shapes in the place of tensors.
        trains: whether gradients flow into it.
    """

    alone: Hull
    forward: Hull
    saved: tuple[int, int]
    backward: Hull
    outputs: Any
    trains: bool


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]
    dtype: Any


class TracedBlocks:
    """Stand-ins for blocks, which take what the first of their kind took.

    Args:
        tracer: follows the pass.
        prepare: called with the first block of each kind before it is trained, to make it trainable.
    """

    def __init__(self, tracer: Tracer, prepare: Callable[[torch.nn.Module], None]) -> None:
        self.seen: list[torch.nn.Module] = []
        self._tracer, self._prepare = tracer, prepare
        self._trained: dict[object, _Trained] = {}
        # Kept, since a block that was made trainable looks different.
        self._kinds: dict[int, object] = {}

    def training(self, checkpointed: bool) -> Callable[..., Any]:
        """What a denoiser calls its blocks by when it is to checkpoint them.

        Args:
            checkpointed: whether it does; blocks keep what they need for the backward pass otherwise.
        """

        def call(block: Any, *args: Any) -> Any:
            # Some denoisers hand over the block's bound method.
            module = getattr(block, "__self__", block)
            self.seen.append(module)
            kind = self._kinds.setdefault(id(module), _kind(module))
            key = kind, shapes_of(args), tuple(tensor.requires_grad for tensor in tensors_in(args))
            if key not in self._trained:
                self._trained[key] = self._train(module, args)
            return self._stand_in(self._trained[key], args, checkpointed)

        return call

    def _train(self, block: torch.nn.Module, args: tuple[Any, ...]) -> _Trained:
        import torch
        from torch.utils import _pytree

        tracer = self._tracer
        self._prepare(block)
        tracer.know([*block.parameters(), *block.buffers()])
        parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
        for parameter in parameters:
            # Gradients are counted with the optimiser.
            parameter.grad = torch.empty_like(parameter)
            tracer.know([parameter.grad])
        leaves = _pytree.tree_map(
            lambda v: v.detach().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v, args
        )
        with tracer.apart() as alone, torch.no_grad():
            block(*leaves)
        before = tracer.held
        with tracer.apart() as forward:
            outputs = block(*leaves)
        given = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors_in(outputs)}
        own = [split(size) for size in given.values()]
        saved = (
            max(tracer.fixed - before[0] - sum(fixed for fixed, _ in own), 0),
            max(tracer.per_row - before[1] - sum(per_row for _, per_row in own), 0),
        )
        shapes = _pytree.tree_map(_shape_of, outputs)
        with_gradient = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
        gradients = [torch.empty_like(tensor) for tensor in with_gradient]
        tracer.know(gradients)
        del outputs
        with tracer.apart() as backward:
            if with_gradient:
                torch.autograd.backward(with_gradient, gradients)
        for parameter in parameters:
            parameter.grad = None
        # The backward pass began with what was saved, and the outer pass holds inputs and outputs itself.
        return _Trained(alone(), forward(), saved, backward().raised(saved), shapes, bool(with_gradient))

    def _stand_in(self, facts: _Trained, args: tuple[Any, ...], checkpointed: bool) -> Any:
        import torch
        from torch.utils import _pytree

        tracer = self._tracer
        if not facts.trains:
            tracer.touch(facts.alone)
            return _made(facts.outputs)
        leaves, structure = _pytree.tree_flatten(facts.outputs)
        places = [place for place, value in enumerate(leaves) if isinstance(value, _Shape)]

        class Block(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: torch.Tensor) -> Any:
                ctx.save_for_backward(*inputs)
                tracer.touch(facts.alone if checkpointed else facts.forward)
                if not checkpointed:
                    tracer.hold(facts.saved)
                return tuple(_made(leaves[place]) for place in places)

            @staticmethod
            def backward(ctx: Any, *_: Any) -> Any:
                if checkpointed:
                    tracer.touch(facts.forward)
                else:
                    tracer.hold((-facts.saved[0], -facts.saved[1]))
                tracer.touch(facts.backward)
                return tuple(
                    torch.empty_like(tensor) if needed else None
                    for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
                )

        # The empty one makes the outputs need a gradient where the block's own weights are all that does.
        inputs = [*tensors_in(args), torch.empty(0, device="meta", requires_grad=True)]
        for place, output in zip(places, Block.apply(*inputs), strict=True):
            leaves[place] = output
        return _pytree.tree_unflatten(leaves, structure)


@contextmanager
def standing_in(tracer: Tracer, blocks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let each kind of block run once inside, without gradients, and stand for the others."""
    from torch.utils import _pytree

    known: dict[object, tuple[Hull, Any]] = {}

    def replaced(block: torch.nn.Module) -> Callable[..., Any]:
        original = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            key = _kind(block), shapes_of((args, kwargs))
            if key in known:
                tracer.touch(known[key][0])
                return _made(known[key][1])
            with tracer.apart() as hull:
                outputs = original(*args, **kwargs)
            known[key] = hull(), _pytree.tree_map(_shape_of, outputs)
            tracer.touch(hull())
            return outputs

        return forward

    for block in blocks:
        block.forward = replaced(block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _shape_of(value: Any) -> Any:
    import torch

    return _Shape(tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def _made(shapes: Any) -> Any:
    """New tensors of some shapes."""
    import torch
    from torch.utils import _pytree

    return _pytree.tree_map(
        lambda v: torch.empty(v.shape, dtype=v.dtype, device="meta") if isinstance(v, _Shape) else v, shapes
    )


def _kind(block: torch.nn.Module) -> object:
    """What blocks that take equally much have in common."""
    return type(block).__name__, tuple(
        (name, tuple(parameter.shape), str(parameter.dtype)) for name, parameter in block.named_parameters()
    )
