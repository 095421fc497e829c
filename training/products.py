"""How a GPU multiplies float32: whole, or rounded to TF32, which is faster. The setting is the process's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def whole_products() -> AbstractContextManager[None]:
    """Have products and convolutions of float32 whole inside, as who measures needs them."""
    return _products(tf32=False)


def rounded_products(device: torch.device) -> AbstractContextManager[None]:
    """Have them rounded to TF32 inside, as training and sampling can do with.

    Args:
        device: where it computes; nothing changes unless it is a GPU.
    """
    return _products(tf32=True) if device.type == "cuda" else nullcontext()


@contextmanager
def _products(*, tf32: bool) -> Iterator[None]:
    import torch

    convolutions = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), convolutions.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    convolutions.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        convolutions.allow_tf32 = before[1]
