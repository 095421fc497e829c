"""The optimisers of fine-tuning, with states that a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import MissingLibrary

if TYPE_CHECKING:
    import torch


def make_optimiser(
    name: str, parameters: Iterable[torch.nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimiser.

    Args:
        name: one of `training.config.OPTIMISERS`.
        parameters: what it trains.
        learning_rate: of AdamW.
        weight_decay: of AdamW.

    Raises:
        MissingLibrary: bitsandbytes is needed and not installed.

    Source:
        `adamw8bit`: Dettmers et al., "8-bit optimizers via block-wise quantization" (2022).
    """
    import torch

    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise MissingLibrary(
            "The 8-bit optimiser needs bitsandbytes: pip install 'matchgraph[quantised]'."
        ) from None
    return AdamW8bit(parameters, lr=learning_rate, weight_decay=weight_decay)


def state_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """One parameter's state as tensors of its own.

    bitsandbytes counts its steps by a number, and its parameters share the tables of what 8 bits mean,
    which a file would not hold twice.
    """
    import torch

    return {
        name: value.clone() if name.startswith("qmap") else torch.as_tensor(value)
        for name, value in state.items()
    }


def from_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The reverse of `state_tensors`."""
    return {
        name: value.item() if value.ndim == 0 and not value.is_floating_point() else value
        for name, value in tensors.items()
    }
