"""Stable Diffusion: a U-Net that predicts noise (or velocity) with one CLIP text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family
from matchgraph.training.pipelines.families.rows import Conditioning
from matchgraph.training.pipelines.samplers import guidance_embedding

if TYPE_CHECKING:
    import torch


class StableDiffusion(Family):
    """`StableDiffusionPipeline`, and latent consistency models of it under their own class.

    Source:
        Objective and LoRA layers are those of diffusers' `train_text_to_image_lora.py`: the mean squared
        error of the noise, or of the velocity where the scheduler says so, at uniformly drawn timesteps.
    """

    name = "sd"
    pipeline_class = "StableDiffusionPipeline"
    denoiser_attribute = "unet"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_steps = 50
    default_guidance = 7.5

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, _ = pipe.encode_prompt(prompts, pipe.device, 1, False)
        return {"prompt_embeds": embeddings}

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> torch.Tensor:
        embedded = guidance_embedding(pipe, noisy, guidance)
        return denoiser(
            noisy, levels, conditioning["prompt_embeds"], timestep_cond=embedded, return_dict=False
        )[0]


FAMILY = StableDiffusion()
