"""PixArt-alpha: PixArt-Sigma with shorter prompts, and told of sizes where it was made for 1024 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.pixart import PixArtSigma

if TYPE_CHECKING:
    import torch

# By this size of latents the pipeline knows a denoiser that takes micro-conditions.
TOLD_LATENT_SIDE = 128


class PixArtAlpha(PixArtSigma):
    """`PixArtAlphaPipeline`.

    Source:
        The noise's part of the objective of Chen et al., "PixArt-alpha" (2023), as in the LoRA script of its
        authors' repository (`train_pixart_lora_hf.py`), which also tells the size of the training images.
    """

    name = "pixart_alpha"
    pipeline_class = "PixArtAlphaPipeline"
    max_prompt_tokens = 120

    def micro_conditions(self, pipe: Any, noisy: torch.Tensor) -> dict[str, Any]:
        if pipe.transformer.config.sample_size != TOLD_LATENT_SIDE:
            return super().micro_conditions(pipe, noisy)
        count, _, height, width = noisy.shape
        sides = noisy.new_tensor([height * pipe.vae_scale_factor, width * pipe.vae_scale_factor])
        return {
            "resolution": sides.repeat(count, 1),
            "aspect_ratio": noisy.new_full((count, 1), height / width),
        }


FAMILY = PixArtAlpha()
