"""FLUX.2-dev: FLUX.2 with a Mistral text encoder, and the guidance scale as an input of the transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.chat import MARK
from matchgraph.training.pipelines.families.flux2 import Flux2Klein, grid

if TYPE_CHECKING:
    import torch

# The default of the training script, below that of the pipeline's call.
TRAINING_GUIDANCE = 3.5


class Flux2Dev(Flux2Klein):
    """`Flux2Pipeline`: FLUX.2-dev, drawing from text alone.

    The pipeline shows its text encoder each prompt in a chat, behind a system message of its own.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_flux2.py`: the mean of the
        VAE's posterior, uniform places on the scheduler's grid, weight 1, and an embedded guidance of 3.5.
        These layers are in the blocks of two streams only.
    """

    name = "flux2_dev"
    pipeline_class = "Flux2Pipeline"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    classifier_free = False

    def prepare(self, pipe: Any) -> None:
        super().prepare(pipe)
        if pipe.transformer.device.type == "meta":
            # The pipeline reads the shape of the picture from positions' values; here it is a square.
            pipe._unpack_latents_with_ids = lambda tokens, _: grid(tokens, *[math.isqrt(tokens.shape[1])] * 2)

    def from_call(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:
        return self.from_steps(pipe, latents, side_px)

    def _prompt_tokens(self, pipe: Any) -> int:
        return int(min(self.max_prompt_tokens, _text_tokenizer(pipe).model_max_length))

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        chats = format_input(list(prompts), system_message=pipe.system_message)
        return pipe.tokenizer.apply_chat_template(chats, tokenize=False)

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        # The template has the special tokens.
        tokenizer = partial(_text_tokenizer(pipe), add_special_tokens=False)
        behind = self.shown_prompts(pipe, [MARK])[0].rpartition(MARK)[2]
        return [(tokenizer, self._prompt_tokens(pipe) + len(tokenizer(behind).input_ids))]

    def embedded_guidance(self, rows: torch.Tensor, guidance: float | None) -> torch.Tensor:
        return rows.new_full((len(rows),), TRAINING_GUIDANCE if guidance is None else guidance)


def _text_tokenizer(pipe: Any) -> Any:
    """The tokenizer in the pipeline's processor of texts and pictures."""
    return getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)


FAMILY = Flux2Dev()
