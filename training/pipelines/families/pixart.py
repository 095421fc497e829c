"""PixArt-Sigma: a diffusion transformer that predicts noise, and mostly also the variance of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from matchgraph.training.pipelines.families.base import Family
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch


class PixArtSigma(Family):
    """`PixArtSigmaPipeline`.

    A denoiser with twice as many output as input channels also predicts the variance. The pipeline drops
    those channels, and so does this loss: the LoRA weights are trained on the noise alone.

    Source:
        The noise's part of the objective of Chen et al., "PixArt-Sigma" (2024), as in the LoRA script of its
        authors' repository (`train_pixart_lora_hf.py`), on the layers of diffusers' own scripts.

    Attributes:
        max_prompt_tokens: the length that it was trained with, the default of the pipeline's call.
    """

    max_prompt_tokens = 300

    name = "pixart"
    pipeline_class = "PixArtSigmaPipeline"
    denoiser_attribute = "transformer"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_steps = 20
    default_guidance = 4.5
    call_options: ClassVar[Mapping[str, Any]] = {
        # The pipeline insists on its default "" being withdrawn when embeddings are given.
        "negative_prompt": None,
        # Binning would map the size asked for to one of the sizes of the real checkpoints.
        "use_resolution_binning": False,
    }

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, mask, _, _ = pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=pipe.device,
            max_sequence_length=self._prompt_tokens(pipe),
        )
        return {"prompt_embeds": embeddings, "prompt_attention_mask": mask}

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:  # noqa: ARG002
        return [prompt.lower().strip() for prompt in prompts]

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        predicted = denoiser(
            noisy,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=levels,
            added_cond_kwargs=self.micro_conditions(pipe, noisy),
            return_dict=False,
        )[0]
        if predicted.shape[1] == 2 * noisy.shape[1]:
            predicted = predicted.chunk(2, dim=1)[0]
        return predicted

    def micro_conditions(self, pipe: Any, noisy: torch.Tensor) -> dict[str, Any]:  # noqa: ARG002
        """What the denoiser is told of the image's size; PixArt-Sigma is told nothing."""
        return {"resolution": None, "aspect_ratio": None}


FAMILY = PixArtSigma()
