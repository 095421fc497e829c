"""FLUX.2: a transformer on latents of patches, whose statistics the VAE keeps, trained by flow matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import Family
from matchgraph.training.pipelines.families.chat import in_chat, tokens_behind
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch

# The most single blocks that a published model has (FLUX.2-dev); names of those that others lack do no harm.
MAX_SINGLE_BLOCKS = 48


class Flux2Klein(Family):
    """`Flux2KleinPipeline`: FLUX.2-klein, distilled or not, drawing from text alone.

    Latents are kept as the denoiser has them: patches of two by two as channels, normalised by the running
    statistics of the VAE's batch norm.

    Source:
        Objective and LoRA layers are those of diffusers' `train_dreambooth_lora_flux2_klein.py`: the mean of
        the VAE's posterior, uniform places on the scheduler's grid, weight 1, no guidance input.
    """

    name = "flux2_klein"
    pipeline_class = "Flux2KleinPipeline"
    denoiser_attribute = "transformer"
    lora_targets = (
        "to_k",
        "to_q",
        "to_v",
        "to_out.0",
        "to_qkv_mlp_proj",
        *(f"single_transformer_blocks.{number}.attn.to_out" for number in range(MAX_SINGLE_BLOCKS)),
    )
    default_steps = 50
    default_guidance = 4.0
    guided_apart = True
    flow_matching = True
    # The default of the pipeline's call.
    max_prompt_tokens = 512

    def prepare(self, pipe: Any) -> None:
        if pipe.transformer.device.type == "meta":
            _read_with_cache(pipe.text_encoder)

    def size_unit_px(self, pipe: Any) -> int:
        return math.lcm(8, 2 * pipe.vae_scale_factor)

    def image_tokens(self, pipe: Any, latent_side: int) -> int:  # noqa: ARG002
        return latent_side**2

    def latent_shape(self, pipe: Any, side_px: int) -> tuple[int, ...]:
        channels, height, width = self.vae_shape(pipe, side_px)
        return 4 * channels, height // 2, width // 2

    def encode_images(
        self,
        pipe: Any,
        pixels: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """See `Family.encode_images`; always the mean of the posterior, as the training script has it."""
        return _normalised(pipe.vae, super().encode_images(pipe, pixels))

    def from_call(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:  # noqa: ARG002
        return _normalised(pipe.vae, latents.float())

    def from_steps(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:
        return grid(latents, *self.latent_shape(pipe, side_px)[1:])

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, _ = pipe.encode_prompt(
            prompts, device=pipe.device, max_sequence_length=self._prompt_tokens(pipe)
        )
        return {"prompt_embeds": embeddings}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:
        return in_chat(pipe.tokenizer, prompts, thinking=False)

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        return [(pipe.tokenizer, self._prompt_tokens(pipe) + tokens_behind(pipe.tokenizer, thinking=False))]

    def predict(
        self,
        pipe: Any,  # noqa: ARG002
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """See `Family.predict`."""
        height, width = noisy.shape[-2:]
        embeddings = conditioning["prompt_embeds"]
        predicted = denoiser(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=levels,  # the transformer itself scales it by the length of the grid
            guidance=self.embedded_guidance(noisy, guidance),
            encoder_hidden_states=embeddings,
            txt_ids=_positions(1, 1, embeddings.shape[1]).to(noisy.device),
            img_ids=_positions(height, width, 1).to(noisy.device),
            return_dict=False,
        )[0]
        return grid(predicted, height, width)

    def embedded_guidance(self, rows: torch.Tensor, guidance: float | None) -> torch.Tensor | None:  # noqa: ARG002
        """The scale of each row as an input of the denoiser; None, as there is no such input."""
        return None


def grid(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Turn tokens, (n, h * w, channels), into (n, channels, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def _positions(rows: int, columns: int, words: int) -> torch.Tensor:
    """Position of each token, (tokens, 4): 0 for the one image, row, column, place in the text."""
    import torch

    axes = (torch.arange(count) for count in (1, rows, columns, words))
    return torch.cartesian_prod(*axes)


def _read_with_cache(text_encoder: Any) -> None:
    """Let a text encoder on the meta device keep a cache: without one it looks at positions' values."""
    own = text_encoder.forward

    def forward(**named: Any) -> Any:
        return own(**named | {"use_cache": True})

    text_encoder.forward = forward


def _normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Patches of two by two as channels, (n, 4 * channels, h / 2, w / 2), of mean 0 and deviation 1."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    patches = patches.reshape(count, 4 * channels, height // 2, width // 2)
    mean, variance = (
        values.to(latents.device, latents.dtype).view(1, -1, 1, 1)
        for values in (vae.bn.running_mean, vae.bn.running_var)
    )
    return (patches - mean) / (variance + vae.config.batch_norm_eps).sqrt()


FAMILY = Flux2Klein()
