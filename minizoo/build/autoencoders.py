"""The two autoencoders of the ten models: an AutoencoderKL for eight, and Sana's AutoencoderDC for two.

Sana's pipeline class asks for its own autoencoder, which has no posterior; all others share one VAE.
`python -m matchgraph.minizoo.build.autoencoders kl` and `... dc` train them on the corpus of all styles.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.minizoo.build.corpus import HELD_OUT_EVERY, corpus, pixels_to_tensor
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import TRAINING_RESOLUTION_PX, WORK, Pool
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, train

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderDC, AutoencoderKL
    from torch import Tensor

logger = logging.getLogger(__name__)

Kind = Literal["kl", "dc"]
SHARED = WORK / "shared"
CONFIGS: dict[Kind, LoopConfig] = {
    kind: LoopConfig(
        f"autoencoder-{kind}",
        steps=steps,
        batch_size=32,
        learning_rate=2e-3,
        decay_share=0.7,
        ema_decay=0.995,
        checkpoint_every=50,
    )
    for kind, steps in (("kl", 4000), ("dc", 2200))
}
# Two colours, the direction and the place of one edge are eight numbers: what a patch of 4x4 pixels of an
# icon mostly holds. With the four channels of the real VAEs, whose patches show far less, outlines blur.
KL_CHANNELS = 8
DC_CHANNELS = 32
KL_WEIGHT = 4e-5
LOWEST_LOG_VARIANCE = -30.0  # diffusers clamps there
# An autoencoder without a posterior is free to hide an image in digits that a denoiser never gets right;
# noise on its latents while it trains, in shares of their standard deviation, denies it that.
DC_NOISE = 0.1
# Nor is anything else there to keep its latents from growing past what half precision holds.
DC_SCALE_WEIGHT = 0.01


def new_autoencoder(kind: Kind, seed: int) -> AutoencoderKL | AutoencoderDC:
    """Make an untrained autoencoder.

    Args:
        kind: `kl`: 32x32 pixels to 8x8 latents of 8 channels. `dc`: to 4x4 latents of 32 channels, as
            strongly compressed in space, and as weakly in channels, as the real one is beside the others.
        seed: of the initial weights.
    """
    import torch
    from diffusers import AutoencoderDC, AutoencoderKL

    torch.manual_seed(seed)
    if kind == "kl":
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(32, 64, 96),
            layers_per_block=1,
            latent_channels=KL_CHANNELS,
            norm_num_groups=8,
            sample_size=TRAINING_RESOLUTION_PX,
            mid_block_add_attention=False,
        )
    blocks = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    channels, layers, scales = (32, 64, 64, 128), (1, 1, 1, 1), ((), (), (), (5,))
    return AutoencoderDC(
        latent_channels=DC_CHANNELS,
        attention_head_dim=16,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=1.0,
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images and permute the colour channels of half of them.

    Args:
        images: float32, (n, 3, h, w).
        generator: of the draws.

    Returns:
        As many images of the same shape.
    """
    import torch

    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    swap = torch.rand(len(images), generator=generator) < 0.5
    order = torch.randperm(3, generator=generator)
    return torch.where(swap[:, None, None, None], images[:, order], images)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., :, 1:] - images[..., :, :-1]


def _reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    difference = decoded - images
    # Edges carry an icon; a term on them keeps outlines from blurring.
    edges = sum((a - b).abs().mean() for a, b in zip(_gradients(decoded), _gradients(images), strict=True))
    return difference.abs().mean() + difference.square().mean() + edges


def train_autoencoder(kind: Kind, pool: Pool) -> None:
    """Train an autoencoder on the corpus, but for every twentieth icon; goes on where it stopped.

    Args:
        kind: which one.
        pool: the corpus.
    """
    import torch
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    config = CONFIGS[kind]
    images = pixels_to_tensor(pool.pixels)
    training = images[torch.arange(len(images)) % HELD_OUT_EVERY != 0]
    model = new_autoencoder(kind, config.seed).to(memory_format=torch.channels_last)
    # Elsewhere convolutions in bfloat16 are emulated, and seven times as slow as in float32.
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        rows = torch.randint(len(training), (config.batch_size,), generator=generator)
        batch = augment(training[rows], generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            if kind == "kl":
                posterior = DiagonalGaussianDistribution(model.encode(batch).latent_dist.parameters.float())
                decoded, kl = model.decode(posterior.sample(generator)).sample.float(), posterior.kl().mean()
            else:
                latents = model.encode(batch).latent.float()
                noise = torch.randn(latents.shape, generator=generator)
                decoded = model.decode(latents + DC_NOISE * latents.std().detach() * noise).sample.float()
                kl = latents.square().mean().log().square()
        error = _reconstruction_loss(decoded, batch)
        weight = KL_WEIGHT if kind == "kl" else DC_SCALE_WEIGHT
        return {"loss": error + weight * kl, "error": error.detach(), "kl": kl.detach()}

    train(config, model, losses)


def encode(model: AutoencoderKL | AutoencoderDC, images: Tensor, batch_size: int = 64) -> Tensor:
    """Latents without noise, not scaled: float32, (n, channels, h, w)."""
    import torch

    parts = []
    with torch.no_grad():
        for part in images.split(batch_size):
            encoded = model.encode(part)
            parts.append(encoded.latent if "latent" in encoded else encoded.latent_dist.mean)
    return torch.cat(parts)


def narrow_posterior(model: AutoencoderKL) -> None:
    """Make a VAE's posterior its mean, in place.

    Fine-tuning draws latents from the posterior. Those of the real models are narrow (Rombach et al., 2022,
    section 3.1, weigh the KL term by about 1e-6); this one's came out half as wide as the latents vary. That
    is noise which the denoisers, taught from means, have never seen, and would be fine-tuned to draw.

    Args:
        model: the VAE; the rows of its last layer that give the log variance become constant.
    """
    import torch

    with torch.no_grad():
        model.quant_conv.weight[model.config.latent_channels :] = 0
        model.quant_conv.bias[model.config.latent_channels :] = LOWEST_LOG_VARIANCE


def save_autoencoder(kind: Kind, pool: Pool, folder: Path) -> dict[str, Any]:
    """Write an autoencoder from its newest checkpoint in half precision, and measure it on unseen icons.

    Args:
        kind: which one.
        pool: the corpus.
        folder: where to save.

    Returns:
        Mean absolute error in 0..255, peak signal-to-noise ratio in dB, and the scaling factor (1 / standard
        deviation of the corpus's latents), all as loaded from half precision.
    """
    import torch

    config = CONFIGS[kind]
    step, seconds, weights = averaged_weights(config.name)
    model = new_autoencoder(kind, config.seed)
    model.load_state_dict(weights)
    model = model.half().float().eval()
    images = pixels_to_tensor(pool.pixels)
    latents = encode(model, images[::3])
    model.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 5))
    if kind == "kl":
        narrow_posterior(model)
        # SD3's and Flux's pipelines shift every latent, so this cannot be absent.
        model.register_to_config(shift_factor=0.0)
    held_out = images[::HELD_OUT_EVERY]
    with torch.no_grad():
        decoded = model.decode(encode(model, held_out)).sample.clamp(-1, 1)
    difference = (decoded - held_out) * 127.5
    mse = float(difference.square().mean())
    measured = {
        "steps": step,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_icons": len(held_out),
        "mean_absolute_error": round(float(difference.abs().mean()), 2),
        "psnr_db": round(10 * float(torch.log10(torch.tensor(255.0**2 / mse))), 2),
        "latent_mean": round(float(latents.mean()), 4),
        "scaling_factor": model.config.scaling_factor,
    }
    model.half().save_pretrained(folder, safe_serialization=True)
    (WORK / f"{config.name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def load_autoencoder(kind: Kind, root: Path = SHARED) -> AutoencoderKL | AutoencoderDC:
    """Load a trained autoencoder in single precision.

    Args:
        kind: which one.
        root: holds a folder for each.

    Raises:
        StageNotReady: it was not trained yet.
    """
    from diffusers import AutoencoderDC, AutoencoderKL

    folder = root / CONFIGS[kind].name
    if not (folder / "config.json").is_file():
        raise StageNotReady(
            f"no autoencoder in {folder.name}: run `python -m matchgraph.minizoo.build.autoencoders {kind}`"
        )
    kinds = {"kl": AutoencoderKL, "dc": AutoencoderDC}
    return kinds[kind].from_pretrained(folder, local_files_only=True).float().eval()


def main() -> None:
    """Train an autoencoder and save it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=sorted(CONFIGS))
    kind = parser.parse_args().kind
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pool = corpus()
    train_autoencoder(kind, pool)
    logger.info("%s", save_autoencoder(kind, pool, SHARED / CONFIGS[kind].name))


if __name__ == "__main__":
    main()
