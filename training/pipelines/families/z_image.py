"""Z-Image: a single-stream transformer with a Qwen3 text encoder, trained by flow matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family, number_shift
from matchgraph.training.pipelines.families.chat import in_chat, tokens_behind
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch

# The pipeline's own default.
MAX_PROMPT_TOKENS = 512
PATCH = 2


class ZImage(Family):
    """`ZImagePipeline`: Z-Image, and Z-Image-Turbo, which takes few steps without guidance.

    Its guidance scale is one less than others': the difference is added to the conditional output, and 0 is
    none. Prompts are of different lengths, and the denoiser is told no padding: rows are padded to one length
    to be kept, with a mask by which they are cut again.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_z_image.py`: uniform places
        on the scheduler's grid, weight 1.
    """

    name = "z_image"
    pipeline_class = "ZImagePipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    default_steps = 50
    default_guidance = 5.0
    flow_matching = True
    max_prompt_tokens = MAX_PROMPT_TOKENS

    def prepare(self, pipe: Any) -> None:
        number_shift(pipe)
        if pipe.transformer.device.type == "meta":
            _read_whole_prompts(pipe)
            _take_equal_rows(pipe.transformer)

    def size_unit_px(self, pipe: Any) -> int:
        return math.lcm(8, pipe.vae_scale_factor * PATCH)

    def image_tokens(self, pipe: Any, latent_side: int) -> int:  # noqa: ARG002
        return (latent_side // PATCH) ** 2

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        import torch

        length = self._prompt_tokens(pipe)
        rows, _ = pipe.encode_prompt(
            prompts, pipe.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        embeddings = rows[0].new_zeros(len(rows), length, rows[0].shape[-1])
        mask = torch.zeros(len(rows), length, dtype=torch.bool, device=rows[0].device)
        for place, row in enumerate(rows):
            embeddings[place, : len(row)] = row
            mask[place, : len(row)] = True
        return {"prompt_embeds": embeddings, "prompt_attention_mask": mask}

    def as_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {"prompt_embeds": _cut(conditioning)} if conditioning else {}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        return in_chat(pipe.tokenizer, prompts, thinking=True)

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        return [(pipe.tokenizer, self._prompt_tokens(pipe) + tokens_behind(pipe.tokenizer, thinking=True))]

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
        import torch

        frames = denoiser(list(noisy[:, :, None]), 1 - levels, _cut(conditioning), return_dict=False)[0]
        return -torch.stack(frames).squeeze(2)


def _cut(conditioning: Conditioning) -> list[torch.Tensor]:
    """The rows of prompts without their padding; on the meta device, which knows no lengths, whole."""
    pairs = zip(conditioning["prompt_embeds"], conditioning["prompt_attention_mask"], strict=True)
    return [row if row.is_meta else row[mask.to(row.device)] for row, mask in pairs]


def _read_whole_prompts(pipe: Any) -> None:
    """Let a pipeline on the meta device take every prompt for as long as there is room for."""

    def encode(
        prompt: list[str],
        device: Any = None,
        prompt_embeds: Any = None,
        max_sequence_length: int = MAX_PROMPT_TOKENS,
    ) -> Any:
        if prompt_embeds is not None:
            return prompt_embeds
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=max_sequence_length)
        shown = pipe.text_encoder(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device).bool(),
            output_hidden_states=True,
        )
        return list(shown.hidden_states[-2])

    pipe._encode_prompt = encode


def _take_equal_rows(transformer: Any) -> None:
    """Let a transformer on the meta device handle one image for all of a batch, which are of one size there.

    It takes images apart one by one; so many small tensors would not be seen to grow with the batch.
    """
    patchify, unify, unpatchify = (
        getattr(transformer, name) for name in ("patchify_and_embed", "_build_unified_sequence", "unpatchify")
    )

    def patchify_one(images: list[Any], prompts: list[Any], *sizes: int) -> tuple[list[Any], ...]:
        return tuple(part * len(images) for part in patchify(images[:1], prompts[:1], *sizes))

    def unify_one(images: Any, image_freqs: Any, *rest: Any) -> tuple[Any, ...]:
        count = len(images)
        first = [part if part is None or isinstance(part, bool) else part[:1] for part in rest[:-1]]
        joint, freqs, mask, noise = unify(images[:1], image_freqs[:1], *first, rest[-1])
        return joint.repeat(count, 1, 1), freqs.repeat(count, 1, 1), mask, noise

    def unpatchify_one(rows: list[Any], sizes: list[Any], *rest: Any) -> list[Any]:
        return unpatchify(rows[:1], sizes[:1], *rest) * len(rows)

    transformer.patchify_and_embed = patchify_one
    transformer._build_unified_sequence = unify_one
    transformer.unpatchify = unpatchify_one


FAMILY = ZImage()
