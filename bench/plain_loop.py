"""The work of fine-tuning and sampling as diffusers' own scripts do it, to be measured against.

Written after the structure of diffusers' `train_text_to_image_lora*.py` and `train_dreambooth_lora_*.py` with
their default settings: an accelerate loop over a DataLoader that decodes, encodes images with the VAE and
captions with the text encoders in each step; and the pipeline's call with prompts. Adapters are attached and
saved, and prompts are as long, as on the other side, so that the denoisers have the same to do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from PIL import Image
from torchvision import transforms

from matchgraph.training.images import CaptionedImage, list_captioned_images
from matchgraph.training.pipelines.adapters import attach_adapter, detach_adapter, save_adapter
from matchgraph.training.tune.loop import purpose_generator

if TYPE_CHECKING:
    from matchgraph.training.config import FineTuneConfig
    from matchgraph.training.pipelines.families.rows import Conditioning
    from matchgraph.training.pipelines.loading import LoadedPipeline


class CaptionedFolder(torch.utils.data.Dataset):
    """Images made square by torchvision, each time they are asked for."""

    def __init__(self, images: Sequence[CaptionedImage], resolution_px: int) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.Resize(resolution_px, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(resolution_px),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        image = self.images[number]
        return self.transform(Image.open(image.path).convert("RGB")), image.caption or ""


def train(loaded: LoadedPipeline, dataset: Path, config: FineTuneConfig, out: Path) -> list[float]:
    """Fine-tune with LoRA for the steps asked for, save the adapter, and return the losses."""
    pipe, family = loaded.pipe, loaded.family
    torch.manual_seed(config.seed)
    mixed = {"fp32": "no"}.get(config.precision, config.precision)
    accelerator = Accelerator(mixed_precision=mixed, cpu=loaded.device.type == "cpu")
    parameters = attach_adapter(
        pipe,
        family,
        rank=config.rank,
        alpha=config.alpha,
        generator=purpose_generator(config.seed, "adapter"),
    )
    try:
        loader = torch.utils.data.DataLoader(
            CaptionedFolder(list_captioned_images(dataset), config.resolution_px),
            shuffle=True,
            batch_size=config.batch_size,
            collate_fn=lambda rows: (torch.stack([row[0] for row in rows]), [row[1] for row in rows]),
        )
        optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = get_scheduler("constant", optimizer=optimiser)
        denoiser, optimiser, loader, schedule = accelerator.prepare(
            family.denoiser(pipe), optimiser, loader, schedule
        )
        denoiser.train()
        objective = OBJECTIVES[family.name]
        losses: list[float] = []
        while len(losses) < config.steps:
            for pixels, captions in loader:
                with accelerator.accumulate(denoiser):
                    with torch.no_grad():
                        latents = encode_images(pipe, pixels.to(loaded.device))
                        text = family.encode_prompts(pipe, captions)
                    loss = objective(pipe, denoiser, latents, text)
                    average = accelerator.gather(loss.repeat(config.batch_size)).mean()
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(parameters, config.max_gradient_norm)
                    optimiser.step()
                    schedule.step()
                    optimiser.zero_grad()
                losses.append(average.item())
                if len(losses) == config.steps:
                    break
        accelerator.unwrap_model(denoiser, keep_fp32_wrapper=False)
        save_adapter(pipe, family, out)
    finally:
        accelerator.free_memory()
        detach_adapter(pipe, family)
        family.denoiser(pipe).eval()
    return losses


def sample(
    loaded: LoadedPipeline,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    *,
    batch_size: int,
    steps: int,
    guidance: float,
    resolution_px: int,
) -> list[Image.Image]:
    """Draw an image for each prompt through the pipeline's call, a number of prompts at a time."""
    images: list[Image.Image] = []
    length = prompt_length(loaded)
    # Prompts are given as text here, so the call's own empty negative prompt is right.
    options = {name: value for name, value in loaded.family.call_options.items() if name != "negative_prompt"}
    for start in range(0, len(prompts), batch_size):
        images += loaded.pipe(
            prompt=list(prompts[start : start + batch_size]),
            generator=list(generators[start : start + batch_size]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=resolution_px,
            width=resolution_px,
            **length,
            **options,
        ).images
    return images


def encode_images(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What each script does first in a step."""
    encoded = pipe.vae.encode(pixels.to(pipe.vae.dtype))
    latents = encoded.latent if "latent" in encoded else encoded.latent_dist.sample()
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    return (latents - shift) * pipe.vae.config.scaling_factor


def prompt_length(loaded: LoadedPipeline) -> dict[str, int]:
    """The option of the pipeline's call that makes its prompts as long as those of our side."""
    if loaded.family.name in ("sd", "sdxl", "kolors"):
        return {}
    tokens = loaded.family.encode_prompts(loaded.pipe, [""])["prompt_embeds"].shape[1]
    # Stable Diffusion 3 puts the tokens of T5 behind those of CLIP.
    clip = loaded.pipe.tokenizer.model_max_length if loaded.family.name == "sd3" else 0
    return {"max_sequence_length": tokens - clip}


def _noised(pipe: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn_like(latents)
    steps = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, steps, (len(latents),), device=latents.device).long()
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    return scheduler.add_noise(latents, noise, timesteps), timesteps, target


def _flowed(
    pipe: Any, latents: torch.Tensor, density: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(copy.deepcopy(dict(pipe.scheduler.config)))
    noise = torch.randn_like(latents)
    position = compute_density_for_timestep_sampling(
        weighting_scheme=density, batch_size=len(latents), logit_mean=0.0, logit_std=1.0, mode_scale=1.29
    )
    index = (position * scheduler.config.num_train_timesteps).long()
    timesteps = scheduler.timesteps[index].to(latents.device)
    sigmas = scheduler.sigmas[index].to(latents.device, latents.dtype).view(-1, 1, 1, 1)
    return (1.0 - sigmas) * latents + sigmas * noise, timesteps, sigmas, noise - latents


def _squared_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.mse_loss(predicted.float(), target.float(), reduction="mean")


def _sd(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, target = _noised(pipe, latents)
    return _squared_error(denoiser(noisy, timesteps, text["prompt_embeds"], return_dict=False)[0], target)


def _sdxl(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, target = _noised(pipe, latents)
    side = latents.shape[-1] * pipe.vae_scale_factor
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(latents), device=latents.device)
    added = {"text_embeds": text["pooled_prompt_embeds"], "time_ids": sizes}
    predicted = denoiser(noisy, timesteps, text["prompt_embeds"], added_cond_kwargs=added, return_dict=False)[
        0
    ]
    return _squared_error(predicted, target)


def _pixart(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, target = _noised(pipe, latents)
    predicted = denoiser(
        noisy,
        encoder_hidden_states=text["prompt_embeds"],
        encoder_attention_mask=text["prompt_attention_mask"],
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    if predicted.shape[1] == 2 * latents.shape[1]:
        predicted = predicted.chunk(2, 1)[0]
    return _squared_error(predicted, target)


def _sd3(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, _, target = _flowed(pipe, latents, "logit_normal")
    predicted = denoiser(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=text["prompt_embeds"],
        pooled_projections=text["pooled_prompt_embeds"],
        return_dict=False,
    )[0]
    return _squared_error(predicted, target)


def _sana(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, _, target = _flowed(pipe, latents, "none")
    predicted = denoiser(
        hidden_states=noisy,
        encoder_hidden_states=text["prompt_embeds"],
        encoder_attention_mask=text["prompt_attention_mask"],
        timestep=timesteps,
        return_dict=False,
    )[0]
    return _squared_error(predicted, target)


def _flux(pipe: Any, denoiser: Any, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    noisy, timesteps, _, target = _flowed(pipe, latents, "none")
    count, channels, height, width = latents.shape
    guidance = None
    if pipe.transformer.config.guidance_embeds:
        guidance = torch.full((count,), 3.5, device=latents.device)
    ids = pipe._prepare_latent_image_ids(count, height // 2, width // 2, latents.device, latents.dtype)
    predicted = denoiser(
        hidden_states=pipe._pack_latents(noisy, count, channels, height, width),
        timestep=timesteps / 1000,
        guidance=guidance,
        pooled_projections=text["pooled_prompt_embeds"],
        encoder_hidden_states=text["prompt_embeds"],
        txt_ids=torch.zeros(text["prompt_embeds"].shape[1], 3, device=latents.device),
        img_ids=ids,
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    predicted = pipe._unpack_latents(predicted, height * scale, width * scale, scale)
    return _squared_error(predicted, target)


OBJECTIVES: dict[str, Callable[[Any, Any, torch.Tensor, Conditioning], torch.Tensor]] = {
    "sd": _sd,
    "sdxl": _sdxl,
    "kolors": _sdxl,
    "pixart": _pixart,
    "sana": _sana,
    "sd3": _sd3,
    "flux": _flux,
}
