"""Qwen-Image: a transformer on packed latents with a Qwen2.5-VL text encoder, trained by flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.packed import Packed, pack, unpack
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch

# The default of the pipeline's call.
MAX_PROMPT_TOKENS = 512


class QwenImage(Packed):
    """`QwenImagePipeline`: Qwen-Image and Qwen-Image-2512.

    The pipeline puts each prompt into a chat and leaves out the rows of what stands before it. Its call pads
    the prompts of a batch to the longest; rows are padded further here, to be kept, and are cut again.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_qwen_image.py`: uniform
        places on the scheduler's grid, weight 1. The script asks for a shift of 3, which the published
        scheduler, whose shift depends on the size of the image, leaves out of its training grid. A space
        stands for the empty prompt, as on the card of Qwen/Qwen-Image.
    """

    name = "qwen_image"
    pipeline_class = "QwenImagePipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    default_steps = 50
    default_guidance = 4.0
    guided_apart = True
    guidance_argument = "true_cfg_scale"
    negative_prompt = " "
    flow_matching = True
    denormalises = True
    of_video = True

    def prepare(self, pipe: Any) -> None:
        # The pipeline lets its text encoder read twice as much as its call then keeps; no row depends on
        # later ones.
        pipe.tokenizer_max_length = min(MAX_PROMPT_TOKENS, pipe.tokenizer.model_max_length)
        if pipe.transformer.device.type == "meta":
            _read_whole_prompts(pipe)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        import torch

        length = pipe.tokenizer_max_length
        rows, mask = pipe.encode_prompt([prompt or " " for prompt in prompts], device=pipe.device)
        embeddings = rows.new_zeros(len(rows), length, rows.shape[-1])
        embeddings[:, : rows.shape[1]] = rows
        kept = torch.zeros(len(rows), length, dtype=torch.bool, device=rows.device)
        kept[:, : rows.shape[1]] = True if mask is None else mask.bool()
        return {"prompt_embeds": embeddings, "prompt_embeds_mask": kept}

    def as_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return _cut(conditioning) if conditioning else {}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        return [pipe.prompt_template_encode.format(prompt or " ") for prompt in prompts]

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        # What the template puts behind a prompt is cut off first.
        behind = pipe.prompt_template_encode.partition("{}")[2]
        shown = pipe.tokenizer_max_length + pipe.prompt_template_encode_start_idx
        return [(pipe.tokenizer, shown + len(pipe.tokenizer(behind).input_ids))]

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
        count, _, height, width = noisy.shape
        text = _cut(conditioning)
        mask = text["prompt_embeds_mask"]
        predicted = denoiser(
            hidden_states=pack(noisy),
            timestep=levels,
            encoder_hidden_states=text["prompt_embeds"],
            # As the pipeline has it, so that attention needs no mask where there is no padding.
            encoder_hidden_states_mask=None if mask.is_meta or mask.all() else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * count,
            return_dict=False,
        )[0]
        return unpack(predicted, height, width)


def _cut(conditioning: Conditioning) -> Conditioning:
    """Rows cut to the longest prompt among them; on the meta device, which knows no lengths, whole."""
    mask = conditioning["prompt_embeds_mask"]
    longest = mask.shape[1] if mask.is_meta else int(mask.sum(dim=1).max())
    return {
        name: conditioning[name][:, :longest].to(mask.device)
        for name in ("prompt_embeds", "prompt_embeds_mask")
    }


def _read_whole_prompts(pipe: Any) -> None:
    """Let a pipeline on the meta device take every prompt for as long as there is room for."""

    def embed(prompt: list[str], device: Any = None, dtype: Any = None) -> Any:  # noqa: ARG001
        start = pipe.prompt_template_encode_start_idx
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=pipe.tokenizer_max_length + start)
        shown = pipe.text_encoder(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            output_hidden_states=True,
        )
        return shown.hidden_states[-1][:, start:], None

    pipe._get_qwen_prompt_embeds = embed


FAMILY = QwenImage()
