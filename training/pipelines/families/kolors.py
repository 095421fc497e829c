"""Kolors: the U-Net of SDXL with one language model, ChatGLM3, as its text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from matchgraph.training.pipelines.families.sdxl import StableDiffusionXL

if TYPE_CHECKING:
    import torch

# What the pipeline's call always encodes, whatever length it is given.
PROMPT_TOKENS = 256


class Kolors(StableDiffusionXL):
    """`KolorsPipeline`; objective, size conditioning and LoRA layers are SDXL's.

    Source:
        Kolors team, "Kolors" (2024): SDXL's U-Net and objective over 1,100 timesteps. Its authors' LoRA
        script is diffusers' SDXL script with another text encoder.
    """

    name = "kolors"
    pipeline_class = "KolorsPipeline"
    denormalises = False
    load_options: ClassVar[Mapping[str, Any]] = {}
    own_components = frozenset({("kolors", "ChatGLMModel"), ("kolors", "ChatGLMTokenizer")})

    def _encode(self, pipe: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, _, pooled, _ = pipe.encode_prompt(
            prompts,
            device=pipe.device,
            do_classifier_free_guidance=False,
            max_sequence_length=PROMPT_TOKENS,
        )
        return embeddings, pooled

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        return [(pipe.tokenizer, PROMPT_TOKENS)]


FAMILY = Kolors()
