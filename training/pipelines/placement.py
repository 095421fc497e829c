"""Where a pipeline's parts are while they are not needed: on its device, or in the computer's memory.

diffusers' own offloading takes a block's weights away after its forward pass, and a backward pass then finds
them gone. Here a block that trains computes its forward pass again with its weights beside it, as gradient
checkpointing does anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

# Lists of repeated blocks, as the networks of diffusers and transformers call them.
BLOCK_LISTS = (
    "transformer_blocks",
    "joint_transformer_blocks",
    "single_transformer_blocks",
    "resnets",
    "layers",
    "block",
)


@dataclass(frozen=True)
class Placement:
    """Where a pipeline's parts are; the fastest way by default.

    Args:
        parked: parts wait in the computer's memory while a stage does not need them.
        encoder_offload: blocks of the text encoders come to the GPU one after another.
        training_offload: blocks of the denoiser do in training, which then checkpoints them.
        sampling_offload: blocks of the denoiser do in sampling.
        vae_slicing: the VAE takes one image at a time.
        vae_tiling: the VAE takes images in tiles, whose seams are blended: pixels change a little.
    """

    parked: bool = False
    encoder_offload: bool = False
    training_offload: bool = False
    sampling_offload: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False

    @property
    def moves(self) -> bool:
        """Whether parts come to the device only when they are needed."""
        return self.parked or self.encoder_offload or self.training_offload or self.sampling_offload


def blocks_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated blocks of a network, which need not be on a GPU all at once; none inside another."""
    import torch

    found: list[torch.nn.Module] = []
    inside: set[str] = set()
    for name, module in network.named_modules():
        if name.rpartition(".")[2] not in BLOCK_LISTS or not isinstance(module, torch.nn.ModuleList):
            continue
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        inside.add(name)
        found.extend(module)
    return found


class Loaded(Protocol):
    """A pipeline kept in memory, see `training.pipelines.loading.LoadedPipeline`."""

    pipe: Any
    family: Family
    device: torch.device
    placement: Placement


def arrange(pipe: Any, placement: Placement, device: torch.device) -> None:
    """Prepare a loaded pipeline for a placement.

    Args:
        pipe: the pipeline, in the computer's memory where parts of it are to move.
        placement: where its parts are to be.
        device: where they compute.
    """
    if placement.moves:
        _say_device(pipe, device)
    if placement.vae_slicing:
        pipe.vae.enable_slicing()
    if placement.vae_tiling:
        pipe.vae.enable_tiling()


def _say_device(pipe: Any, device: torch.device) -> None:
    """Let a pipeline say where it computes: it asks its first component, which may be one that waits."""
    plain, here = type(pipe), property(lambda _: device)
    overridden = {"device": here, "_execution_device": here, "__module__": plain.__module__}
    pipe.__class__ = type(plain.__name__, (plain,), overridden)


@contextmanager
def placed(loaded: Loaded, *needed: str, training: bool = False) -> Iterator[None]:
    """Have the parts of a pipeline that a stage needs on its device inside.

    Args:
        loaded: the pipeline; its `placement` says what waits elsewhere.
        needed: `text` for the text encoders, `vae`, `denoiser`.
        training: whether gradients flow through the denoiser, which then is all that is kept there.
    """
    import torch

    where, pipe = loaded.placement, loaded.pipe
    denoiser = loaded.family.denoiser(pipe)
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    kinds = {name: name if name == "vae" else name.startswith("text_encoder") and "text" for name in networks}
    kinds[loaded.family.denoiser_attribute] = "denoiser"
    wanted = {name: part for name, part in networks.items() if kinds[name] in needed}
    others = [part for name, part in networks.items() if name not in wanted]
    leaving = others if where.parked or training else []
    by_blocks = [
        part
        for name, part in wanted.items()
        if (part is denoiser and (where.training_offload if training else where.sampling_offload))
        or (name.startswith("text_encoder") and where.encoder_offload)
    ]
    with ExitStack() as around:
        if loaded.device.type != "cpu":
            _move(leaving, torch.device("cpu"))
            if training and not where.parked:
                around.callback(_move, others, loaded.device)
        for part in by_blocks:
            around.enter_context(in_turn(part, loaded.device))
        if loaded.device.type != "cpu":
            _move([part for part in wanted.values() if part not in by_blocks], loaded.device)
        yield


@contextmanager
def beside(loaded: Loaded, name: str) -> Iterator[None]:
    """Have one more component on the device inside, while the denoiser trains there.

    Args:
        loaded: the pipeline.
        name: of the component.
    """
    import torch

    if loaded.device.type == "cpu":
        yield
        return
    part, plain = getattr(loaded.pipe, name), type(loaded.pipe)
    try:
        _say_device(loaded.pipe, loaded.device)
        _move([part], loaded.device)
        yield
    finally:
        _move([part], torch.device("cpu"))
        loaded.pipe.__class__ = plain


def _move(parts: Sequence[torch.nn.Module], device: torch.device) -> None:
    import torch

    for part in parts:
        # The module's own method, as diffusers' would warn of half precision on a CPU.
        torch.nn.Module.to(part, device)
    if parts and device.type == "cpu" and torch.cuda.is_available():
        release(torch.device("cuda"))


def release(device: torch.device) -> None:
    """Give back the memory of a GPU that no tensor is in any more."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


class Block:
    """A block whose frozen weights wait in the computer's memory.

    Args:
        module: the block.
        device: where it computes.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self.module, self._device = module, device
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        self._waiting = [(tensor, _pinned(tensor, device)) for tensor in (*frozen, *module.buffers())]
        self.leave()

    def come(self) -> None:
        """Bring the weights to the device."""
        for tensor, waiting in self._waiting:
            tensor.data = waiting.to(self._device, non_blocking=True)

    def leave(self) -> None:
        """Give their memory back; as they are frozen, nothing is copied."""
        for tensor, waiting in self._waiting:
            tensor.data = waiting


@contextmanager
def in_turn(network: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Bring a network's blocks to a device one after another inside, and everything else for good.

    Weights that are trained stay there; a pass with gradients needs `recomputing` as its checkpointing.
    """
    import torch

    modules = blocks_of(network)
    within = {id(value) for module in modules for value in (*module.parameters(), *module.buffers())}
    for value in (*network.parameters(), *network.buffers()):
        if id(value) not in within or value.requires_grad:
            value.data = value.data.to(device)
    blocks = {id(module): Block(module, device) for module in modules}
    handles = []

    def before(module: torch.nn.Module, _: Any) -> None:
        blocks[id(module)].come()

    def after(module: torch.nn.Module, *_: Any) -> None:
        # A backward pass needs the weights; who computes the block again takes them away after it.
        if not torch.is_grad_enabled():
            blocks[id(module)].leave()

    for module in modules:
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    enable = getattr(network, "enable_gradient_checkpointing", None)
    recomputes = bool(getattr(network, "is_gradient_checkpointing", False)) and enable is not None
    if recomputes:
        network.enable_gradient_checkpointing(recomputing(blocks))
    try:
        yield
    finally:
        if recomputes:
            network.enable_gradient_checkpointing()
        for handle in handles:
            handle.remove()
        for block in blocks.values():
            block.leave()


def recomputing(blocks: dict[int, Block]) -> Callable[..., Any]:
    """Gradient checkpointing for blocks whose weights come and leave.

    Args:
        blocks: by the identity of their modules.
    """
    import torch
    from torch.utils import _pytree

    class Recomputed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, module: Any, structure: Any, leaves: list[Any], *tensors: torch.Tensor) -> Any:
            ctx.module, ctx.structure, ctx.leaves = module, structure, leaves
            ctx.save_for_backward(*tensors[:-1])
            device = tensors[-1].device.type
            ctx.autocast = device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            outputs = module(*_filled(structure, leaves, tensors[:-1]))
            ctx.single = isinstance(outputs, torch.Tensor)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            device, enabled, dtype = ctx.autocast
            inputs = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=False)
            ]
            with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
                outputs = ctx.module(*_filled(ctx.structure, ctx.leaves, inputs))
            outputs = (outputs,) if ctx.single else outputs
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if isinstance(output, torch.Tensor) and output.requires_grad and gradient is not None
            ]
            torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            if id(ctx.module) in blocks:
                blocks[id(ctx.module)].leave()
            return None, None, None, *(tensor.grad for tensor in inputs), None

    def call(module: Any, *args: Any) -> Any:
        leaves, structure = _pytree.tree_flatten(args)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        others = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        places = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        # The empty one makes the outputs need a gradient where the block's own weights are all that does.
        last = torch.empty(0, device=tensors[0].device, requires_grad=True)
        return Recomputed.apply(module, structure, list(zip(places, others, strict=True)), *tensors, last)

    def _filled(structure: Any, leaves: list[Any], tensors: Sequence[torch.Tensor]) -> Any:
        given = iter(tensors)
        return _pytree.tree_unflatten([next(given) if is_tensor else v for is_tensor, v in leaves], structure)

    return call


def _pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    held = tensor.data.cpu()
    return held.pin_memory() if device.type == "cuda" else held
