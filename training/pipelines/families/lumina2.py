"""Lumina-Image 2.0: one transformer over text and image, trained by flow matching from noise to image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family, number_shift
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch

# Stands between the pipeline's instruction and the prompt.
PROMPT_MARK = " <Prompt Start> "
PATCH = 2


class Lumina2(Family):
    """`Lumina2Pipeline`: Lumina-Image 2.0.

    The pipeline puts an instruction for its language model before every prompt but the unconditional one, and
    training does the same.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_lumina2.py`: uniform places
        on the scheduler's grid, weight 1. The grid's shifted sigma is the share of the image there and not of
        the noise, as the model counts its time. Qin et al., "Lumina-Image 2.0" (2025).
    """

    name = "lumina2"
    pipeline_class = "Lumina2Pipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    default_steps = 30
    default_guidance = 4.0
    guided_apart = True
    flow_matching = True
    # The pipeline's own default.
    max_prompt_tokens = 256
    counts_from_noise = True

    def prepare(self, pipe: Any) -> None:
        number_shift(pipe)
        if pipe.transformer.device.type == "meta":
            _read_whole_prompts(pipe.transformer.rope_embedder)

    def size_unit_px(self, pipe: Any) -> int:
        # The pipeline's own check.
        return math.lcm(8, pipe.vae_scale_factor * PATCH)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, masks = pipe._get_gemma_prompt_embeds(
            self.shown_prompts(pipe, prompts),
            device=pipe.device,
            max_sequence_length=self._prompt_tokens(pipe),
        )
        return {"prompt_embeds": embeddings, "prompt_attention_mask": masks}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        return [pipe.system_prompt + PROMPT_MARK + prompt if prompt else "" for prompt in prompts]

    def predict(
        self,
        pipe: Any,  # noqa: ARG002
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """See `Family.predict`; the denoiser's time and velocity go from noise to image."""
        return -denoiser(
            hidden_states=noisy,
            timestep=1 - levels,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            return_dict=False,
        )[0]


def _read_whole_prompts(rope_embedder: Any) -> None:
    """Let a network on the meta device take prompts as long as their rows; their masks have no values."""
    own = rope_embedder.forward

    def forward(hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        import torch

        return own(hidden_states, torch.ones(attention_mask.shape, dtype=torch.long, device="cpu"))

    rope_embedder.forward = forward


FAMILY = Lumina2()
