"""Sana and SANA-1.5: a linear transformer on strongly compressed latents, trained by flow matching."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from matchgraph.training.pipelines.families.base import Family
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch


class Sana(Family):
    """`SanaPipeline`.

    The pipeline puts an instruction for its language model before every prompt but the unconditional one.
    Training does the same, with the instruction that the pipeline's own call has by default.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_sana.py` as it stands:
        uniform timesteps, weight 1, no shift, because the script's flow-matching scheduler finds no `shift`
        in the configuration of Sana's sampler. Xie et al., "Sana" (2024).
    """

    name = "sana"
    pipeline_class = "SanaPipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_q", "to_k", "to_v")
    default_steps = 20
    default_guidance = 4.5
    flow_matching = True
    # The prompt length that Sana was trained with (the pipeline's own default).
    max_prompt_tokens = 300
    call_options: ClassVar[Mapping[str, Any]] = {
        # The pipeline insists on its default "" being withdrawn when embeddings are given.
        "negative_prompt": None,
        # Binning would map the size asked for to one of the sizes of the real checkpoints.
        "use_resolution_binning": False,
    }

    def prepare(self, pipe: Any) -> None:
        import torch

        # Neither Gemma nor this autoencoder has the range of half precision; the model cards load both so.
        # The module's own method, because diffusers' would warn of what is meant here.
        if pipe.transformer.dtype == torch.float16:
            for part in (pipe.text_encoder, pipe.vae):
                torch.nn.Module.to(part, torch.bfloat16)
            for block in pipe.transformer.transformer_blocks:
                block.attn1.set_processor(LinearAttention(block.attn1.processor))

    def size_unit_px(self, pipe: Any) -> int:
        # The pipeline's own check, whatever its autoencoder.
        return math.lcm(32, super().size_unit_px(pipe))

    def _instruction(self, pipe: Any) -> list[str]:
        return inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        import torch

        embeddings: list[Any] = [None] * len(prompts)
        masks: list[Any] = [None] * len(prompts)
        for instruction, wanted in ((self._instruction(pipe), True), (None, False)):
            rows = [row for row, prompt in enumerate(prompts) if (prompt != "") == wanted]
            if not rows:
                continue
            encoded, mask, _, _ = pipe.encode_prompt(
                [prompts[row] for row in rows],
                do_classifier_free_guidance=False,
                device=pipe.device,
                max_sequence_length=self._prompt_tokens(pipe),
                complex_human_instruction=instruction,
            )
            for position, row in enumerate(rows):
                embeddings[row], masks[row] = encoded[position], mask[position]
        return {"prompt_embeds": torch.stack(embeddings), "prompt_attention_mask": torch.stack(masks)}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        instruction = "\n".join(self._instruction(pipe))
        return [instruction + prompt.lower().strip() for prompt in prompts]

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        instruction = len(pipe.tokenizer.encode("\n".join(self._instruction(pipe))))
        return [(pipe.tokenizer, instruction + self._prompt_tokens(pipe) - 2)]

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        timesteps = levels * pipe.scheduler.config.num_train_timesteps
        predicted = denoiser(
            hidden_states=noisy,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=timesteps * pipe.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
        # As the pipeline does where the variance is predicted as well.
        if predicted.shape[1] == 2 * noisy.shape[1]:
            predicted = predicted.chunk(2, dim=1)[0]
        return predicted


class LinearAttention:
    """Sana's linear attention, kept in the single precision that diffusers computes it in.

    Autocast would take its products back to half precision, in which the sum that it divides by can be 0.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        with torch.autocast(hidden_states.device.type, enabled=False):
            return self._processor(attn, hidden_states.to(attn.to_q.weight.dtype), *args, **kwargs)


FAMILY = Sana()
