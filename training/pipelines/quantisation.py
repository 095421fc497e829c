"""Frozen weights in fewer bits: the linear layers of a denoiser's blocks, dequantised for each pass.

A pipeline is loaded as ever and quantised after, so that all checks of its files come first. int8 needs torch
alone, nf4 the kernels of bitsandbytes. The layers of diffusers' back ends are not used: torchao's keep the
dequantised weight of each layer for the backward pass, which then takes more than plain weights do, and the
8-bit ones of bitsandbytes round activations as well and cannot leave a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from matchgraph.training.config import EXACT
from matchgraph.training.errors import InvalidConfig, MissingLibrary, first_line, is_out_of_memory
from matchgraph.training.pipelines.placement import blocks_of

if TYPE_CHECKING:
    import torch

# Values of nf4 that have one scale; QLoRA's.
NF4_BLOCK = 64
# Of a row of zeros.
SMALLEST = 1e-12


def quantise(denoiser: torch.nn.Module, kind: str, device: torch.device | None = None) -> None:
    """Quantise the linear layers of a denoiser's blocks, which stay where they are.

    Args:
        denoiser: as it was loaded; on the meta device, layers take the bytes that they would.
        kind: one of `training.config.QUANTISATIONS`; nothing is done for `none`.
        device: does the work, a layer at a time; by default where the layers are.

    Raises:
        MissingLibrary: bitsandbytes is not installed.
        InvalidConfig: it cannot work on the device.

    Source:
        `nf4`: Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs" (2023), section 3, without
        double quantisation. `int8`: one scale for each row, the largest of its values by 127.
    """
    if kind == EXACT:
        return
    layers = _layers(denoiser)
    for holder, name, linear in layers:
        home = linear.weight.device
        try:
            setattr(holder, name, _quantised_linear()(linear.to(device or home), kind).to(home))
        except ImportError:
            raise MissingLibrary(
                f"Weights in {kind} need bitsandbytes: pip install 'matchgraph[quantised]'."
            ) from None
        except (RuntimeError, NotImplementedError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise InvalidConfig(
                f"{device or home} cannot make {kind} weights: {first_line(error)}"
            ) from error


def _layers(denoiser: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """The layers that are quantised, each with the module that has it and its name there."""
    import torch

    # Those that diffusers itself would not narrow.
    kept = tuple(getattr(denoiser, "_keep_in_fp32_modules", None) or ())
    return [
        (holder, name, child)
        for block in blocks_of(denoiser)
        for path, holder in block.named_modules()
        for name, child in holder.named_children()
        if type(child) is torch.nn.Linear and not any(part in f"{path}.{name}" for part in kept)
    ]


@cache
def _quantised_linear() -> Any:
    """The class of quantised layers."""
    import torch

    class Dequantised(torch.autograd.Function):
        """Dequantises the weight once more in the backward pass instead of keeping it."""

        @staticmethod
        def forward(ctx: Any, rows: torch.Tensor, layer: Any) -> torch.Tensor:
            ctx.layer, ctx.dtype = layer, rows.dtype
            weight = layer.dense_weight()
            made = torch.nn.functional.linear(rows.to(weight.dtype), weight, layer.bias)
            # As autocast has it, or else as the rows are.
            narrowed = not rows.is_meta and torch.is_autocast_enabled(rows.device.type)
            return made if narrowed or rows.is_meta else made.to(rows.dtype)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            weight = ctx.layer.dense_weight()
            return (gradient.to(weight.dtype) @ weight).to(ctx.dtype), None

    class QuantisedLinear(torch.nn.Linear):
        def __init__(self, linear: torch.nn.Linear, kind: str) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.kind, self.dtype = kind, linear.weight.dtype
            stored, scales = _stored(linear.weight.detach(), kind)
            self.weight = torch.nn.Parameter(stored, requires_grad=False)
            self.register_buffer("scales", scales)
            self.bias = linear.bias

        def dense_weight(self) -> torch.Tensor:
            """The weight, but for what fewer bits leave out; (out, in)."""
            shape = torch.Size((self.out_features, self.in_features))
            if self.weight.is_meta:
                return torch.empty(shape, dtype=self.dtype, device="meta")
            if self.kind == "int8":
                # Multiplied in float32 and rounded once: scales in bf16 put whole rows off by up to 0.4 %.
                dense = torch.empty(shape, dtype=self.dtype, device=self.weight.device)
                return torch.mul(self.weight, self.scales, out=dense)
            from bitsandbytes.functional import QuantState, dequantize_4bit

            state = QuantState(self.scales, shape, blocksize=NF4_BLOCK, quant_type="nf4", dtype=self.dtype)
            return dequantize_4bit(self.weight, state)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return Dequantised.apply(rows, self)

    return QuantisedLinear


def _stored(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in fewer bits, and its scales."""
    import torch

    if kind == "int8":
        scales = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST) / 127
        return (weight / scales).round().to(torch.int8), scales
    if weight.is_meta:
        packed = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8, device="meta")
        return packed, torch.empty(-(-weight.numel() // NF4_BLOCK), device="meta")
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
    return packed, state.absmax
