"""AuraFlow: a transformer with blocks of two streams and of one, trained by flow matching."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family, trained_positions
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class AuraFlow(Family):
    """`AuraFlowPipeline`: AuraFlow 0.1 to 0.3.

    Padding is zeros in the prompt's embeddings, which the denoiser sees: it takes no mask.

    Source:
        Objective of the authors' minRF (`rf.py`): velocity at logit-normal times, weight 1; here on the
        scheduler's shifted grid, as for SD3. LoRA layers are those of diffusers' own scripts.
    """

    name = "aura_flow"
    pipeline_class = "AuraFlowPipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    default_steps = 50
    default_guidance = 3.5
    flow_matching = True
    # The default of the pipeline's call.
    max_prompt_tokens = 256
    density = "logit_normal"

    def prepare(self, pipe: Any) -> None:
        if pipe.transformer.device.type == "meta":
            _read_without_positions(pipe.text_encoder)

    def position_table(self, folder: Path) -> tuple[int, int] | None:
        """See `Family.position_table`; diffusers takes others' for those beyond it, and has the default."""
        return trained_positions(folder, math.isqrt, default=1024)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, *_ = pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=pipe.device,
            max_sequence_length=self._prompt_tokens(pipe),
        )
        return {"prompt_embeds": embeddings}

    def as_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        # The call wants a mask beside embeddings, and makes no use of it.
        return {
            argument: value
            for name, rows in conditioning.items()
            for argument, value in ((name, rows), ("prompt_attention_mask", rows.new_ones(len(rows), 1)))
        }

    def predict(
        self,
        pipe: Any,  # noqa: ARG002
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """See `Family.predict`."""
        return denoiser(
            noisy,
            encoder_hidden_states=conditioning["prompt_embeds"],
            timestep=levels,  # the transformer itself scales it by the length of the grid
            return_dict=False,
        )[0]


def _read_without_positions(text_encoder: Any) -> None:
    """Let a text encoder on the meta device leave out what only other stand-in tokenizers' encoders read."""
    own = text_encoder.forward

    def forward(*arguments: Any, position_ids: Any = None, **named: Any) -> Any:  # noqa: ARG001
        return own(*arguments, **named)

    text_encoder.forward = forward


FAMILY = AuraFlow()
