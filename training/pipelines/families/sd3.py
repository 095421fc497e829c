"""Stable Diffusion 3 and 3.5: a multimodal transformer trained by rectified flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family, number_shift, trained_positions
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# The pipeline's own default for the T5 part of the prompt.
MAX_T5_TOKENS = 256


class StableDiffusion3(Family):
    """`StableDiffusion3Pipeline`: SD 3 and SD 3.5.

    Source:
        LoRA layers are those of diffusers' `train_dreambooth_lora_sd3.py`. So is the objective with
        `--precondition_outputs 0`: the script's default would weight each squared error by sigma squared,
        which the paper does not. Esser et al., "Scaling rectified flow transformers" (2024), section 3.1 with
        m = 0 and s = 1: the density of the timesteps is the weighting.
    """

    name = "sd3"
    pipeline_class = "StableDiffusion3Pipeline"
    denoiser_attribute = "transformer"
    lora_targets = (
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "attn.to_k",
        "attn.to_out.0",
        "attn.to_q",
        "attn.to_v",
    )
    default_steps = 28
    default_guidance = 7.0
    flow_matching = True
    density = "logit_normal"

    def prepare(self, pipe: Any) -> None:
        number_shift(pipe)

    def position_table(self, folder: Path) -> tuple[int, int] | None:
        """See `Family.position_table`; the default is diffusers'."""
        return trained_positions(folder, int, default=96)

    def _t5_tokens(self, pipe: Any) -> int:
        # Without T5 the pipeline puts a block of zeros in its place; it need be no longer than the CLIP part.
        if pipe.text_encoder_3 is None:
            return pipe.tokenizer.model_max_length
        return min(MAX_T5_TOKENS, pipe.tokenizer_3.model_max_length)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, _, pooled, _ = pipe.encode_prompt(
            prompts,
            None,
            None,
            device=pipe.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._t5_tokens(pipe),
        )
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        limits = [(tokenizer, tokenizer.model_max_length) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
        if pipe.text_encoder_3 is not None:
            limits.append((pipe.tokenizer_3, self._t5_tokens(pipe)))
        return limits

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        return denoiser(
            hidden_states=noisy,
            timestep=levels * pipe.scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]


FAMILY = StableDiffusion3()
