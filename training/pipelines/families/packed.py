"""What families have in common whose denoiser takes latents packed two by two, a token for each patch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family

if TYPE_CHECKING:
    import torch


class Packed(Family):
    """Pipelines that pack latents themselves, which the denoiser's patch size does not say."""

    def size_unit_px(self, pipe: Any) -> int:
        return math.lcm(8, 2 * pipe.vae_scale_factor)

    def image_tokens(self, pipe: Any, latent_side: int) -> int:  # noqa: ARG002
        return (latent_side // 2) ** 2

    def as_called(self, pipe: Any, latents: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return pack(latents)

    def from_call(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:
        side = side_px // pipe.vae_scale_factor
        return unpack(latents, side, side)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Turn (n, channels, h, w) into (n, h/2 * w/2, 4 * channels): a token for each two-by-two patch."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Turn what `pack` gives back into (n, channels, height, width)."""
    count, _, values = tokens.shape
    patches = tokens.reshape(count, height // 2, width // 2, values // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(count, values // 4, height, width)


def positions(rows: int, columns: int) -> torch.Tensor:
    """Position of each token, (rows * columns, 3): 0, row, column."""
    import torch

    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()
