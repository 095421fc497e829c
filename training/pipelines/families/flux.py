"""FLUX.1: a transformer on packed latents, trained by flow matching, with the guidance scale as an input."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import number_shift
from matchgraph.training.pipelines.families.packed import Packed, pack, positions, unpack
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# The pipeline's own default, and the most that it takes.
MAX_T5_TOKENS = 512
# Of FLUX.1-schnell and what was made of it, as diffusers' page on Flux says.
MAX_T5_TOKENS_WITHOUT_GUIDANCE = 256
# In blocks of two streams; attention in the others.
ATTENTION_AND_FEED_FORWARD = (
    "attn.to_k",
    "attn.to_q",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)


class Flux(Packed):
    """`FluxPipeline`: FLUX.1-dev, and FLUX.1-schnell, which has no guidance input.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_flux.py`: uniform timesteps,
        weight 1, and an embedded guidance of 3.5 where the model has that input.
    """

    name = "flux"
    pipeline_class = "FluxPipeline"
    denoiser_attribute = "transformer"
    lora_targets = ATTENTION_AND_FEED_FORWARD
    default_steps = 28
    default_guidance = 3.5
    classifier_free = False
    flow_matching = True

    def prepare(self, pipe: Any) -> None:
        number_shift(pipe)
        if not pipe.transformer.config.guidance_embeds:
            # Read by all that sets or prices the length of prompts; no file of the model says it.
            tokenizer = pipe.tokenizer_2
            tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_T5_TOKENS_WITHOUT_GUIDANCE)

    def prompt_limit(self, folder: Path) -> float:
        """See `Family.prompt_limit`."""
        try:
            config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
        except OSError:  # the folder is on another machine
            return math.inf
        return math.inf if config.get("guidance_embeds") else MAX_T5_TOKENS_WITHOUT_GUIDANCE

    def _t5_tokens(self, pipe: Any) -> int:
        return min(MAX_T5_TOKENS, pipe.tokenizer_2.model_max_length)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, pooled, _ = pipe.encode_prompt(
            prompts, device=pipe.device, max_sequence_length=self._t5_tokens(pipe)
        )
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        return [
            (pipe.tokenizer, pipe.tokenizer.model_max_length),
            (pipe.tokenizer_2, self._t5_tokens(pipe)),
        ]

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """See `Family.predict`; the scale is an input of the denoiser, where it has one."""
        import torch

        count, _, height, width = noisy.shape
        embeddings = conditioning["prompt_embeds"]
        scales = None
        if pipe.transformer.config.guidance_embeds:
            scale = self.default_guidance if guidance is None else guidance
            scales = torch.full((count,), scale, device=noisy.device)
        predicted = denoiser(
            hidden_states=pack(noisy),
            timestep=levels,  # the transformer itself scales it by the length of the grid
            guidance=scales,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=noisy.device),
            img_ids=positions(height // 2, width // 2).to(noisy.device),
            return_dict=False,
        )[0]
        return unpack(predicted, height, width)


FAMILY = Flux()
