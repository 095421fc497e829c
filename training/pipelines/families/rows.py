"""Encodings of prompts as the rows of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


# One row per prompt (or per image) in every tensor, so rows can be cached, picked and dropped without knowing
# the family.
Conditioning = dict[str, "torch.Tensor"]


def repeat_row(negative: Conditioning, count: int) -> Conditioning:
    """Repeat a one-row conditioning `count` times."""
    return {key: value.expand(count, *value.shape[1:]) for key, value in negative.items()}


def without_empty(rows: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """Put zeros into the rows of empty prompts, as pipelines with `force_zeros_for_empty_prompt` do."""
    import torch

    empty = torch.tensor([prompt == "" for prompt in prompts], device=rows.device)
    return rows.masked_fill(empty.view(-1, *[1] * (rows.ndim - 1)), 0.0)
