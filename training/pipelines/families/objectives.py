"""Training objectives of diffusion models: how latents are noised, and what the denoiser is to predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from matchgraph.training.errors import UnsupportedScheduler

if TYPE_CHECKING:
    import torch

# What the process of an EDM scheduler depends on.
EDM_FIELDS = (
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "sigma_schedule",
    "num_train_timesteps",
    "prediction_type",
    "rho",
)
Density: TypeAlias = Literal["uniform", "logit_normal"]


def training_noise(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise in the shape of `latents`, drawn on the CPU and moved to their device."""
    import torch

    return torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(latents.device)


def diffuse(
    scheduler: Any, latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise latents to uniformly drawn timesteps of a variance-preserving process, and give what to predict.

    Args:
        scheduler: the pipeline's scheduler; its `alphas_cumprod` and `prediction_type` are used, so any
            sampler of the same process (PNDM, DDIM, DPM-Solver...) can stand there.
        latents: float32, (n, channels, h, w).
        generator: CPU generator.

    Returns:
        The noised latents sqrt(a_t) x + sqrt(1 - a_t) noise, the timesteps (n,), and the target: the noise
        (epsilon) or the velocity sqrt(a_t) noise - sqrt(1 - a_t) x (v_prediction).

    Raises:
        UnsupportedScheduler: the scheduler has no `alphas_cumprod`, or predicts something else.

    Source:
        Ho et al., "Denoising diffusion probabilistic models" (2020), Eq. 4 and 14; Salimans and Ho,
        "Progressive distillation" (2022), appendix D, for the velocity.
    """
    import torch

    prediction = getattr(scheduler.config, "prediction_type", "epsilon")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or prediction not in ("epsilon", "v_prediction"):
        raise UnsupportedScheduler(
            f"{type(scheduler).__name__} with prediction_type {prediction!r} cannot be trained by this "
            "family; give the pipeline a scheduler with epsilon or v_prediction."
        )
    timesteps = torch.randint(0, len(alphas), (len(latents),), generator=generator)
    noise = training_noise(latents, generator)
    kept = alphas[timesteps.to(alphas.device)].to(latents.device, torch.float32).view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    target = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    return noisy, timesteps.to(latents.device), target


def min_snr_weights(scheduler: Any, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights of losses at timesteps of a variance-preserving process, (n,).

    Args:
        scheduler: see `diffuse`.
        timesteps: (n,).
        gamma: bound of the signal-to-noise ratio.

    Source:
        Hang et al., "Efficient diffusion training via min-SNR weighting strategy" (2023), section 3.4: its
        weights are of the squared error of the image, here of noise or velocity.
    """
    alphas = scheduler.alphas_cumprod
    kept = alphas[timesteps.to(alphas.device)].to(timesteps.device).float()
    ratio = kept / (1 - kept)
    velocity = scheduler.config.prediction_type == "v_prediction"
    return ratio.clamp(max=gamma) / (ratio + 1 if velocity else ratio)


def is_edm(scheduler: Any) -> bool:
    """Whether a scheduler is one of Karras et al.'s process, by its class."""
    return type(scheduler).__name__.startswith("EDM")


def denoise(
    scheduler: Any, latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor, slice], torch.Tensor]]:
    """Noise latents to uniformly drawn places of an EDM scheduler's grid; what to predict is the latents.

    Args:
        scheduler: of diffusers' EDM schedulers; only its configuration is read.
        latents: float32, (n, channels, h, w).
        generator: CPU generator.

    Returns:
        The denoiser's input c_in (x + sigma noise), its times c_noise (n,), and a function that makes
        denoised latents c_skip (x + sigma noise) + c_out F of its output F for some of the rows.

    Source:
        Karras et al., "Elucidating the design space" (2022), Table 1; unweighted, as diffusers'
        `train_dreambooth_lora_sdxl.py` has it for such schedulers.
    """
    import diffusers
    import torch

    config = scheduler.config
    process = diffusers.EDMEulerScheduler(**{name: config[name] for name in EDM_FIELDS})
    places = torch.randint(0, config["num_train_timesteps"], (len(latents),), generator=generator)
    noise = training_noise(latents, generator)
    sigmas = process.sigmas[places].to(latents.device).view(-1, 1, 1, 1)
    noisy = latents + sigmas * noise

    def denoised(outputs: torch.Tensor, rows: slice) -> torch.Tensor:
        return process.precondition_outputs(noisy[rows], outputs, sigmas[rows])

    return process.precondition_inputs(noisy, sigmas), process.precondition_noise(sigmas.flatten()), denoised


def draw_sigmas(scheduler: Any, count: int, generator: torch.Generator, density: Density) -> torch.Tensor:
    """Draw noise levels of the scheduler's training grid.

    Args:
        scheduler: the pipeline's flow-matching scheduler; only its configuration is read, since sampling
            overwrites the grid it holds.
        count: how many to draw.
        generator: CPU generator.
        density: of the position on the grid before it is shifted; `logit_normal` is the sigmoid of a
            standard normal number.

    Returns:
        float32, (count,), each in (0, 1], with the static shift of a `FlowMatchEulerDiscreteScheduler`
        applied. A dynamic shift depends on the size of the picture to be drawn, and a `flow_shift` is one
        of the sampler; neither shapes the training grid.

    Raises:
        UnsupportedScheduler: the scheduler is not a flow-matching one.

    Source:
        diffusers' `compute_density_for_timestep_sampling` and the grid of `FlowMatchEulerDiscreteScheduler`,
        which the training scripts build from the pipeline's own scheduler configuration; Esser et al.,
        "Scaling rectified flow transformers" (2024), section 3.1 (logit-normal density) and 5.3.2 (shift).
    """
    import torch

    config = scheduler.config
    if "num_train_timesteps" not in config or not ("shift" in config or config.get("use_flow_sigmas")):
        raise UnsupportedScheduler(
            f"{type(scheduler).__name__} is not a flow-matching scheduler; give the pipeline a "
            "FlowMatchEulerDiscreteScheduler."
        )
    grid = config.num_train_timesteps
    if density == "uniform":
        position = torch.rand(count, generator=generator)
    else:
        position = torch.sigmoid(torch.randn(count, generator=generator))
    index = (position * grid).long().clamp(max=grid - 1)
    sigmas = (grid - index).float() / grid
    if config.get("use_dynamic_shifting", False):
        return sigmas
    shift = config.get("shift", 1.0)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def rectified_flow(
    scheduler: Any,
    latents: torch.Tensor,
    generator: torch.Generator,
    density: Density,
    *,
    from_noise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move latents along the straight line towards noise, and give the velocity to predict.

    Args:
        scheduler: see `draw_sigmas`.
        latents: float32, (n, channels, h, w).
        generator: CPU generator.
        density: see `draw_sigmas`.
        from_noise: what is drawn is the share of the image; the level of noise is the rest.

    Returns:
        The latents (1 - sigma) x + sigma noise, the sigmas (n,), and the velocity noise - x.

    Raises:
        UnsupportedScheduler: see `draw_sigmas`.

    Source:
        Liu et al., "Flow straight and fast" (2022), Eq. 1; Esser et al. (2024), Eq. 13.
    """
    sigmas = draw_sigmas(scheduler, len(latents), generator, density).to(latents.device)
    if from_noise:
        sigmas = 1 - sigmas
    noise = training_noise(latents, generator)
    mix = sigmas.view(-1, 1, 1, 1)
    return (1 - mix) * latents + mix * noise, sigmas, noise - latents
