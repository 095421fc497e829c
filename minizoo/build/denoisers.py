"""The ten denoisers: the real ones' classes and options, made small in the order of the real sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.minizoo.build.autoencoders import DC_CHANNELS, KL_CHANNELS

if TYPE_CHECKING:
    from torch import nn

KL_SIDE, DC_SIDE = 8, 4  # of the latents of 32 pixels
CLIP_WIDTH, CLIP_POOLED, TOWER_WIDTH = 128, 64, 128
TIME_WIDTH = 16  # of each of the six sizes that SDXL is told


def sd15() -> nn.Module:
    """A plain U-Net with CLIP states, attention in all but the lowest block."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=KL_SIDE,
        in_channels=KL_CHANNELS,
        out_channels=KL_CHANNELS,
        block_out_channels=(48, 72),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=CLIP_WIDTH,
        attention_head_dim=4,  # as in the real configuration, this is the number of heads
        norm_num_groups=8,
    )


def _sized_unet(pooled: int, **options: Any) -> nn.Module:
    """SDXL's U-Net: no attention in the highest block, several transformer layers in the lowest."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "block_out_channels": (48, 80),
        "transformer_layers_per_block": (1, 2),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "cross_attention_dim": 2 * CLIP_WIDTH,
    }
    return UNet2DConditionModel(
        sample_size=KL_SIDE,
        in_channels=KL_CHANNELS,
        out_channels=KL_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=6 * TIME_WIDTH + pooled,
        **{**settings, **options},
    )


def sdxl() -> nn.Module:
    """SDXL's U-Net, which Juggernaut's is too."""
    return _sized_unet(CLIP_POOLED)


def vega() -> nn.Module:
    """SDXL's with fewer transformer layers and a middle block of one residual block."""
    return _sized_unet(
        CLIP_POOLED,
        block_out_channels=(40, 72),
        transformer_layers_per_block=(1, 1),
        mid_block_type="UNetMidBlock2D",
    )


def kolors() -> nn.Module:
    """SDXL's U-Net, reading a language model's states through a projection."""
    return _sized_unet(
        TOWER_WIDTH,
        # Its pipeline always encodes 256 tokens, so that the width of the projection decides what it costs;
        # the real one halves its language model's as well.
        cross_attention_dim=TOWER_WIDTH // 2,
        encoder_hid_dim=TOWER_WIDTH,
        encoder_hid_dim_type="text_proj",
    )


def pixart() -> nn.Module:
    """A transformer over patches of 2x2 latents that predicts its variance too."""
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=KL_SIDE,
        num_layers=5,
        num_attention_heads=4,
        attention_head_dim=26,
        cross_attention_dim=104,
        caption_channels=TOWER_WIDTH,
        in_channels=KL_CHANNELS,
        out_channels=2 * KL_CHANNELS,
        patch_size=2,
        interpolation_scale=1,
        use_additional_conditions=False,
    )


def _sana(layers: int, qk_norm: str | None) -> nn.Module:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(
        sample_size=DC_SIDE,
        in_channels=DC_CHANNELS,
        out_channels=DC_CHANNELS,
        num_layers=layers,
        num_attention_heads=7,
        attention_head_dim=16,
        num_cross_attention_heads=4,
        cross_attention_head_dim=28,
        cross_attention_dim=112,
        caption_channels=TOWER_WIDTH,
        mlp_ratio=2.5,
        patch_size=1,
        qk_norm=qk_norm,
    )


def sana_small() -> nn.Module:
    """A linear transformer over strongly compressed latents."""
    return _sana(8, None)


def sana_large() -> nn.Module:
    """The same made deeper, with normalised queries and keys, as SANA-1.5 grew from Sana."""
    return _sana(13, "rms_norm_across_heads")


def sd3() -> nn.Module:
    """A transformer that text and image share, with a second attention in its first half."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=KL_SIDE,
        patch_size=2,
        in_channels=KL_CHANNELS,
        out_channels=KL_CHANNELS,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=28,
        caption_projection_dim=112,
        joint_attention_dim=2 * CLIP_WIDTH,
        pooled_projection_dim=2 * CLIP_POOLED,
        pos_embed_max_size=16,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )


def flux() -> nn.Module:
    """Two-stream and one-stream transformer blocks, told the guidance scale."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * KL_CHANNELS,
        num_layers=3,
        num_single_layers=5,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TOWER_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


BUILDERS: Mapping[str, Callable[[], nn.Module]] = {
    "sd15": sd15,
    "sdxl": sdxl,
    "vega": vega,
    "kolors": kolors,
    "pixart": pixart,
    "sana-small": sana_small,
    "sana-large": sana_large,
    "sd3": sd3,
    "flux": flux,
}


def new_denoiser(shape: str, seed: int) -> nn.Module:
    """Make an untrained denoiser.

    Args:
        shape: a key of `BUILDERS`.
        seed: of the initial weights.
    """
    import torch

    torch.manual_seed(seed)
    return BUILDERS[shape]()


def new_scheduler(shape: str) -> Any:
    """Make the scheduler of the real model of that shape, with its own noise schedule.

    Args:
        shape: a key of `BUILDERS`.
    """
    from diffusers import (
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        PNDMScheduler,
    )

    latent_diffusion = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    if shape == "sd15":
        return PNDMScheduler(**latent_diffusion, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    if shape in ("sdxl", "vega"):
        return EulerDiscreteScheduler(**latent_diffusion, timestep_spacing="leading", steps_offset=1)
    if shape == "kolors":
        longer = latent_diffusion | {"beta_end": 0.014, "num_train_timesteps": 1100}
        return EulerDiscreteScheduler(**longer, timestep_spacing="leading", steps_offset=1)
    if shape == "pixart":
        return DPMSolverMultistepScheduler(
            beta_schedule="linear", beta_start=0.0001, beta_end=0.02, algorithm_type="dpmsolver++"
        )
    if shape in ("sana-small", "sana-large"):
        return DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    if shape == "sd3":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
