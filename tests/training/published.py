"""Configurations of published models, as far as they differ from the defaults of their classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOW = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
# Of Qwen2.5-VL-7B-Instruct.
QWEN25_VL_7B = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
}


@dataclass(frozen=True)
class Published:
    """A published model.

    Args:
        index: classes of its components, by name.
        configs: what differs from the classes' defaults, by component.
        depths: entries of the denoiser's config that are numbers of layers.
        billions: parameters of the denoiser, as the source states them.
    """

    index: dict[str, list[str]]
    configs: dict[str, dict[str, Any]]
    depths: dict[str, int]
    billions: float


# Of Qwen3-4B, as deep as FLUX.2-klein reads it.
QWEN3_4B = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
# Of google/t5-v1_1-xxl, one layer.
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_heads": 64,
    "num_layers": 1,
    "feed_forward_proj": "gated-gelu",
}
# Of Stable Diffusion and of FLUX.1, which others took over.
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
FLUX_VAE = {
    **VAE,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
MODELS = {
    # fal/AuraFlow-v0.3: "6.8B".
    "aura_flow": Published(
        index={
            "scheduler": FLOW,
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "LlamaTokenizerFast"],
            "transformer": ["diffusers", "AuraFlowTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        configs={
            "text_encoder": T5_XXL | {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
            "transformer": {"pos_embed_max_size": 9216},
            "vae": VAE,
        },
        depths={"num_mmdit_layers": 4, "num_single_dit_layers": 32},
        billions=6.8,
    ),
    # lodestones/Chroma1-HD: "8.9B parameter".
    "chroma": Published(
        index={
            "scheduler": FLOW,
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "ChromaTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        configs={"text_encoder": T5_XXL, "vae": FLUX_VAE},
        depths={"num_layers": 19, "num_single_layers": 38},
        billions=8.9,
    ),
    # black-forest-labs/FLUX.2-dev: "32 billion parameter"; the classes' defaults are its configuration.
    "flux2_dev": Published(
        index={
            "scheduler": FLOW,
            "text_encoder": ["transformers", "Mistral3ForConditionalGeneration"],
            "tokenizer": ["transformers", "PixtralProcessor"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
        configs={"scheduler": {"use_dynamic_shifting": True, "shift": 3.0}},
        depths={"num_layers": 8, "num_single_layers": 48},
        billions=32.2,
    ),
    # black-forest-labs/FLUX.2-klein-base-4B: "4 billion parameters".
    "flux2_klein": Published(
        index={
            "scheduler": FLOW,
            "text_encoder": ["transformers", "Qwen3ForCausalLM"],
            "tokenizer": ["transformers", "Qwen2TokenizerFast"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
        configs={
            "scheduler": {"use_dynamic_shifting": True, "shift": 3.0},
            "text_encoder": QWEN3_4B,
            "transformer": {
                "num_attention_heads": 24,
                "joint_attention_dim": 7680,
                "guidance_embeds": False,
            },
        },
        depths={"num_layers": 5, "num_single_layers": 20},
        billions=3.88,
    ),
    # PixArt-alpha/PixArt-XL-2-1024-MS. Chen et al., "PixArt-alpha" (2023), Table 2: 0.6B.
    "pixart_alpha": Published(
        index={
            "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "PixArtTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        configs={
            "text_encoder": T5_XXL,
            "transformer": {"sample_size": 128, "caption_channels": 4096},
            "vae": VAE,
        },
        depths={"num_layers": 28},
        billions=0.61,
    ),
    # Qwen/Qwen-Image. Wu et al., "Qwen-Image technical report" (2025), section 2: 20B.
    "qwen_image": Published(
        index={
            "scheduler": FLOW,
            "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "QwenImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLQwenImage"],
        },
        configs={"scheduler": {"use_dynamic_shifting": True}, "text_encoder": QWEN25_VL_7B},
        depths={"num_layers": 60},
        billions=20.4,
    ),
}


def write(name: str, folder: Path) -> Path:
    """Write a published model's folder without weights, of one layer where its transformers have many."""
    from matchgraph.training.pipelines.families import FAMILIES

    model = MODELS[name]
    for part in model.index:
        config = dict(model.configs.get(part, {}))
        if part == "transformer":
            config |= dict.fromkeys(model.depths, 1)
        if "text_config" in config:
            config["text_config"] = config["text_config"] | {"num_hidden_layers": 1}
        (folder / part).mkdir(parents=True)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / file).write_text(json.dumps(config))
    index = {"_class_name": FAMILIES[name][0], **model.index}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
