"""Stable Diffusion XL: a U-Net that also takes the sizes of its training images as input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from matchgraph.training.buckets import Shape
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.families.base import Family
from matchgraph.training.pipelines.families.objectives import denoise, is_edm
from matchgraph.training.pipelines.families.rows import Conditioning, without_empty
from matchgraph.training.pipelines.samplers import guidance_embedding

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# Row of each image among those that `image_conditioning` gives.
TIME_IDS = "time_ids"


class StableDiffusionXL(Family):
    """`StableDiffusionXLPipeline`: SDXL, its fine-tunes such as Juggernaut, Segmind-Vega, Playground v2.5.

    Source:
        Objective, size conditioning and LoRA layers are those of diffusers'
        `train_text_to_image_lora_sdxl.py`; Podell et al., "SDXL" (2023), section 2.2. With an EDM scheduler,
        as Playground v2.5 has, the objective is that of diffusers' `train_dreambooth_lora_sdxl.py`, see
        `objectives.denoise`.
    """

    name = "sdxl"
    pipeline_class = "StableDiffusionXLPipeline"
    denoiser_attribute = "unet"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_steps = 50
    default_guidance = 5.0
    # A watermark, drawn into each picture where its package is installed, would be measured as the model's.
    load_options: ClassVar[Mapping[str, Any]] = {"add_watermarker": False}
    denormalises = True

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, pooled = self._encode(pipe, prompts)
        if pipe.config.force_zeros_for_empty_prompt:
            embeddings, pooled = without_empty(embeddings, prompts), without_empty(pooled, prompts)
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    def _encode(self, pipe: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, _, pooled, _ = pipe.encode_prompt(
            prompts, device=pipe.device, do_classifier_free_guidance=False
        )
        return embeddings, pooled

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        tokenizers = (pipe.tokenizer, pipe.tokenizer_2)
        return [(each, each.model_max_length) for each in tokenizers if each is not None]

    def image_conditioning(self, pipe: Any, sizes: Sequence[Shape], shapes: Sequence[Shape]) -> Conditioning:
        """Original size, corner of the cut and size shown, as the pipeline has them: height before width."""
        import torch

        rows = []
        for (width, height), (wide, high) in zip(sizes, shapes, strict=True):
            scale = max(wide / width, high / height)
            top, left = (height * scale - high) / 2, (width * scale - wide) / 2
            rows.append([height, width, round(top), round(left), high, wide])
        return {TIME_IDS: torch.tensor(rows, dtype=torch.float32, device=pipe.device)}

    def has_min_snr(self, folder: Path) -> bool:
        """See `Family.has_min_snr`."""
        try:
            text = (folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
        except OSError:  # the folder is on another machine
            return True
        return not str(json.loads(text).get("_class_name")).startswith("EDM")

    def loss(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        conditioning: Conditioning,
        generator: torch.Generator,
        rows: slice = slice(None),
        snr_gamma: float | None = None,
    ) -> torch.Tensor:
        """See `Family.loss`."""
        if not is_edm(pipe.scheduler):
            return super().loss(pipe, denoiser, latents, conditioning, generator, rows, snr_gamma)
        if snr_gamma is not None:
            raise InvalidConfig("min-SNR is not for the EDM process: leave --snr-gamma out for this model.")
        import torch

        noisy, levels, denoised = denoise(pipe.scheduler, latents, generator)
        shown = {name: values[rows] for name, values in conditioning.items()}
        predicted = self.predict(pipe, denoiser, noisy[rows], levels[rows], shown)
        return torch.nn.functional.mse_loss(denoised(predicted.float(), rows), latents[rows])

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """See `Family.predict`; images of unknown size count as uncut."""
        sizes = conditioning.get(TIME_IDS)
        if sizes is None:
            high, wide = (side * pipe.vae_scale_factor for side in noisy.shape[-2:])
            shapes = [(wide, high)] * len(noisy)
            sizes = self.image_conditioning(pipe, shapes, shapes)[TIME_IDS]
        return denoiser(
            noisy,
            levels,
            conditioning["prompt_embeds"],
            timestep_cond=guidance_embedding(pipe, noisy, guidance),
            added_cond_kwargs={"text_embeds": conditioning["pooled_prompt_embeds"], "time_ids": sizes},
            return_dict=False,
        )[0]


FAMILY = StableDiffusionXL()
