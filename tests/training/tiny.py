"""Random-weight pipelines of every family at the smallest size, in the layout of the real ones.

Every component has the class that the released model has; text encoders come with tokenizers of letters,
built here, so that nothing is fetched.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOKENS = 16
RESOLUTION_PX = 32
CHANNELS = 4
WIDTH = 32  # of every text encoder
POOLED = 16  # of a CLIP text encoder with projection
LATENTS_MEAN, LATENTS_STD = [0.1, -0.2, 0.0, 0.3], [1.5, 0.7, 1.0, 2.0]  # of VAEs that state them
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def tokenizer() -> Any:
    """A byte-level CLIP tokenizer without merges: each letter is a token."""
    from transformers import CLIPTokenizer

    vocabulary = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)}, merges=[], model_max_length=TOKENS
    )


def text_config(**changes: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=POOLED,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **changes,
    )


def t5_tokenizer() -> Any:
    """A T5 tokenizer of letters."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=TOKENS)


T5_SIZES = {
    "vocab_size": 30,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}


def t5(width: int = WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**T5_SIZES, d_model=width))


def gemma_tokenizer() -> Any:
    """A Gemma tokenizer of letters, for which each line of Sana's instruction is one token more."""
    from diffusers import SanaPipeline
    from transformers import GemmaTokenizer

    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokens = GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        add_bos_token=True,
        model_max_length=TOKENS,
    )
    tokens.add_tokens(lines)
    return tokens


def gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=40,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=2048,
            query_pre_attn_scalar=16,
            sliding_window=4096,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )


def chat_tokenizer() -> Any:
    """A Qwen tokenizer of letters, with a chat template."""
    from transformers import Qwen2Tokenizer

    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "Ġ"]
    chat = Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=TOKENS,
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    chat.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    return chat


def glm_tokenizer() -> Any:
    """A ChatGLM tokenizer around a sentencepiece model of letters."""
    import sentencepiece
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    with file.open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(LETTERS)]),
            model_writer=model,
            model_type="char",
            vocab_size=30,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    return ChatGLMTokenizer(str(file))


def glm() -> Any:
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    model = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=48,
            hidden_size=WIDTH,
            ffn_hidden_size=64,
            kv_channels=16,
            num_attention_heads=2,
            seq_length=256,
            multi_query_attention=True,
            multi_query_group_num=1,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    # The class leaves its memory as it finds it, since real weights always follow.
    for name, parameter in model.named_parameters():
        torch.nn.init.ones_(parameter) if "layernorm" in name else torch.nn.init.normal_(parameter, std=0.3)
    return model


def vae(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": CHANNELS,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "scaling_factor": 0.7,
            "sample_size": RESOLUTION_PX,
        }
        | changes
    )


def dc_vae() -> Any:
    """Sana's autoencoder, which has no posterior to draw from."""
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=CHANNELS,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.7,
    )


def sd(prediction_type: str = "epsilon") -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(1)
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=8,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def conditioned_unet(pooled: int, **changes: Any) -> Any:
    """A U-Net that is told of sizes and a pooled prompt, as SDXL's and Kolors' are."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (2, 4),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "norm_num_groups": 4,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + pooled,
        }
        | changes
    )


def euler(**changes: Any) -> Any:
    from diffusers import EulerDiscreteScheduler

    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return EulerDiscreteScheduler(**options, timestep_spacing="leading", steps_offset=1, **changes)


def sdxl(
    prediction_type: str = "epsilon",
    mid_block_type: str = "UNetMidBlock2DCrossAttn",
    force_zeros_for_empty_prompt: bool = True,
    edm: bool = False,
) -> Any:
    """SDXL; Segmind-Vega is the same with a middle block without attention (`UNetMidBlock2D`), and Playground
    v2.5 with a scheduler of the EDM process (`edm`).
    """
    from diffusers import EDMDPMSolverMultistepScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(4)
    return StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=conditioned_unet(POOLED, cross_attention_dim=2 * WIDTH, mid_block_type=mid_block_type),
        scheduler=(
            EDMDPMSolverMultistepScheduler(prediction_type=prediction_type)
            if edm
            else euler(prediction_type=prediction_type)
        ),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
    )


def kolors() -> Any:
    from diffusers import KolorsPipeline

    torch.manual_seed(5)
    return KolorsPipeline(
        vae=vae(force_upcast=True),
        text_encoder=glm(),
        tokenizer=glm_tokenizer(),
        unet=conditioned_unet(
            WIDTH, cross_attention_dim=24, encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj"
        ),
        scheduler=euler(num_train_timesteps=1100),
    )


def pixart(learned_sigma: bool = True) -> Any:
    from diffusers import PixArtSigmaPipeline

    torch.manual_seed(2)
    return PixArtSigmaPipeline(**pixart_parts(8, learned_sigma))


def pixart_alpha(sample_size: int = 128) -> Any:
    """PixArt-alpha for 1024 pixels; those for less have a smaller `sample_size` and are told no sizes."""
    from diffusers import PixArtAlphaPipeline

    torch.manual_seed(14)
    return PixArtAlphaPipeline(**pixart_parts(sample_size))


def pixart_parts(sample_size: int, learned_sigma: bool = True) -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(),
        "vae": vae(),
        "transformer": PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            in_channels=CHANNELS,
            out_channels=2 * CHANNELS if learned_sigma else CHANNELS,
            cross_attention_dim=24,
            caption_channels=WIDTH,
            sample_size=sample_size,
            patch_size=2,
        ),
        "scheduler": DPMSolverMultistepScheduler(
            beta_schedule="linear", beta_start=0.0001, beta_end=0.02, algorithm_type="dpmsolver++"
        ),
    }


def sana(qk_norm: str | None = None) -> Any:
    """Sana; SANA-1.5 is the same with `qk_norm="rms_norm_across_heads"`."""
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(6)
    return SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=gemma(),
        vae=dc_vae(),
        transformer=SanaTransformer2DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            mlp_ratio=2.5,
            sample_size=8,
            patch_size=1,
            qk_norm=qk_norm,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def sd3(shift: float = 3.0, t5_encoder: bool = True) -> Any:
    """SD 3.5 medium, with dual attention in its first block; `t5_encoder=False` leaves T5 out."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(3)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * POOLED,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae(),
        text_encoder=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(2 * WIDTH) if t5_encoder else None,
        tokenizer_3=t5_tokenizer() if t5_encoder else None,
    )


def flux(guidance_embeds: bool = True) -> Any:
    """FLUX.1-dev; FLUX.1-schnell is the same without embedded guidance."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    torch.manual_seed(7)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * CHANNELS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )


def aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(15)
    pipe = AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**T5_SIZES, d_model=WIDTH)),
        vae=vae(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=8,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=16,
            pos_embed_max_size=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    # Attention of random weights hardly shows behind gates of random weights.
    with torch.no_grad():
        for block in (
            *pipe.transformer.joint_transformer_blocks,
            *pipe.transformer.single_transformer_blocks,
        ):
            block.norm1.linear.weight.mul_(30)
    return pipe


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(13)
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=4 * CHANNELS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


def lumina2() -> Any:
    """Lumina-Image 2.0, whose pipeline takes it for given that its VAE shrinks eight times."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    torch.manual_seed(8)
    pipe = Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=4,
            in_channels=CHANNELS,
            hidden_size=16,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(64, 16, 16),
            cap_feat_dim=WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(
            shift_factor=0.1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            block_out_channels=(4, 4, 4, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
    )
    # One token, so that there is room for a prompt.
    pipe.tokenizer.add_tokens([pipe.system_prompt, "<Prompt Start>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    return pipe


def z_image() -> Any:
    """Z-Image, whose tokenizer puts each prompt into a chat."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    torch.manual_seed(10)
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=CHANNELS,
            dim=16,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 2, 2],
            axes_lens=[128, 16, 16],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(qwen3_config()),
        tokenizer=chat_tokenizer(),
    )


def qwen3_config(**changes: Any) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        **{
            "vocab_size": 40,
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 128,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        | changes
    )


def flux2_parts(text_width: int, *, guidance_embeds: bool) -> dict[str, Any]:
    """Transformer, sampler and VAE of FLUX.2, whose pipelines read three of their text encoders' layers."""
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=RESOLUTION_PX,
    )
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    return {
        "transformer": Flux2Transformer2DModel(
            in_channels=4 * CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * text_width,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": autoencoder,
    }


def pixtral_processor(system_message: str) -> Any:
    """A processor of texts and pictures with a tokenizer of letters, to which the message is one token."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PixtralImageProcessor, PixtralProcessor, PreTrainedTokenizerFast

    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    pieces = ["<s>", "</s>", "<pad>", *marks, *LETTERS, "Ġ"]
    tokens = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.add_special_tokens([AddedToken(mark, special=True) for mark in ["<s>", *marks]])
    tokens.add_tokens([system_message])
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=TOKENS,
    )
    template = (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'][0]['text'] }}[/SYSTEM_PROMPT]"
        "{% else %}[INST]{{ m['content'][0]['text'] }}[/INST]{% endif %}{% endfor %}"
    )
    return PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=template)


def flux2_dev() -> Any:
    """FLUX.2-dev; the last layer that is read of its text encoder is the 30th."""
    from diffusers import Flux2Pipeline
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(15)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    text = {"vocab_size": 48, "num_hidden_layers": 30, "num_key_value_heads": 1, "model_type": "mistral"}
    vision = {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16, "model_type": "pixtral"}
    return Flux2Pipeline(
        **flux2_parts(16, guidance_embeds=True),
        text_encoder=Mistral3ForConditionalGeneration(
            Mistral3Config(text_config=sizes | text, vision_config=sizes | vision)
        ),
        tokenizer=pixtral_processor(SYSTEM_MESSAGE),
    )


def flux2_klein(is_distilled: bool = False) -> Any:
    """FLUX.2-klein; the last layer that is read of its text encoder is the 27th."""
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(12)
    return Flux2KleinPipeline(
        **flux2_parts(16, guidance_embeds=False),
        text_encoder=Qwen3ForCausalLM(
            qwen3_config(hidden_size=16, intermediate_size=16, num_hidden_layers=27, head_dim=8)
        ),
        tokenizer=chat_tokenizer(),
        is_distilled=is_distilled,
    )


def qwen_image() -> Any:
    """Qwen-Image, whose VAE is one of videos; its tokenizer has the template's words as the real one has."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(11)
    text = {
        "vocab_size": 64,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    pipe = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=4 * CHANNELS,
            out_channels=CHANNELS,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
        # As published.
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=CHANNELS,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=LATENTS_MEAN,
            latents_std=LATENTS_STD,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=chat_tokenizer(),
    )
    template = pipe.prompt_template_encode.replace("{}", "")
    pipe.tokenizer.add_tokens(re.findall(r"<\|\w+\|>|\n| ?\w+|[^\w\s]", template))
    return pipe


BUILDERS: dict[str, Callable[..., Any]] = {
    "aura_flow": aura_flow,
    "chroma": chroma,
    "flux2_dev": flux2_dev,
    "flux2_klein": flux2_klein,
    "qwen_image": qwen_image,
    "z_image": z_image,
    "lumina2": lumina2,
    "sd": sd,
    "sdxl": sdxl,
    "kolors": kolors,
    "pixart": pixart,
    "pixart_alpha": pixart_alpha,
    "sana": sana,
    "sd3": sd3,
    "flux": flux,
}

# Arguments that the pipeline's own call needs at this size.
CALL: dict[str, dict[str, Any]] = {
    "lumina2": {"max_sequence_length": TOKENS},
    "z_image": {"max_sequence_length": TOKENS},
    "aura_flow": {"max_sequence_length": TOKENS},
    "chroma": {"max_sequence_length": TOKENS},
    "flux2_dev": {"max_sequence_length": TOKENS},
    "flux2_klein": {"max_sequence_length": TOKENS},
    "qwen_image": {"max_sequence_length": TOKENS},
    "sd": {},
    "sdxl": {},
    "kolors": {},
    "pixart_alpha": {"max_sequence_length": TOKENS, "clean_caption": False, "use_resolution_binning": False},
    "pixart": {"max_sequence_length": TOKENS, "clean_caption": False, "use_resolution_binning": False},
    "sana": {"max_sequence_length": TOKENS, "use_resolution_binning": False},
    "sd3": {"max_sequence_length": TOKENS},
    "flux": {"max_sequence_length": TOKENS},
}


def guided(name: str, scale: float, count: int) -> dict[str, Any]:
    """Arguments by which a pipeline's call guides `count` prompts."""
    from matchgraph.training.pipelines.families import family

    own = family(name)
    negative = {} if own.negative_prompt is None else {"negative_prompt": [own.negative_prompt] * count}
    return {own.guidance_argument: scale, **negative}


def save(name: str, folder: Path, **options: Any) -> Path:
    """Write one family's tiny pipeline, its last layers filled so that the output depends on every input."""
    from matchgraph.training.pipelines.loading import quiet_libraries

    pipe = BUILDERS[name](**options)
    with torch.no_grad():
        for parameter in pipe.components.get("unet", pipe.components.get("transformer")).parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    with quiet_libraries():
        pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def save_lcm(folder: Path, **scheduler: Any) -> Path:
    """Write a tiny latent consistency model of Stable Diffusion, as LCM_Dreamshaper_v7 is published: under a
    class of its own, with a U-Net that is told the guidance scale.
    """
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    parts = sd().components
    settings = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    torch.manual_seed(6)
    unet = UNet2DConditionModel.from_config(settings | {"time_cond_proj_dim": 8})
    with torch.no_grad():
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    sampler = LCMScheduler(**scheduler)
    pipe = LatentConsistencyModelPipeline(
        **parts | {"unet": unet, "scheduler": sampler}, requires_safety_checker=False
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": 32},
}


def save_clip(folder: Path, seed: int = 0, config: dict[str, Any] = CLIP_CONFIG) -> Path:
    """Write a random CLIP in open_clip's layout."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def save_vision(folder: Path, kind: str = "dinov2", seed: int = 0) -> Path:
    """Write a random DINOv2 or SigLIP as `save_pretrained` does, with a preprocessor for 28 or 32 pixels."""
    import transformers

    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    preprocessor: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=28, patch_size=14, **size))
        preprocessor |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 28, "width": 28}}
    else:
        vision = {"image_size": 32, "patch_size": 8, **size}
        text = {"vocab_size": 60, "max_position_embeddings": 8, **size}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        preprocessor["size"] = {"height": 32, "width": 32}
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def save_inception(file: Path, seed: int = 0) -> Path:
    """Write random weights for FID's Inception, scaled so that they keep a signal alive through its depth."""
    from safetensors.torch import save_file

    from matchgraph.training.measure.extractors.inception import build

    torch.manual_seed(seed)
    network = build()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    save_file(network.state_dict(), file)
    return file


def imagebind_tensors(width: int = 160, layers: int = 2, out: int = 24, side: int = 2) -> dict[str, Any]:
    """Random tensors under the names of ImageBind's published file, those of other inputs among them."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "modality_preprocessors.vision.cls_token": (1, 1, width),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (width, 3, 2, 14, 14),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, side * side + 1, width),
        "modality_preprocessors.text.pos_embed": (1, 77, 8),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (width,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (width,),
        "modality_heads.vision.0.weight": (width,),
        "modality_heads.vision.0.bias": (width,),
        "modality_heads.vision.2.weight": (out, width),
    }
    for number in range(layers):
        block = f"modality_trunks.vision.blocks.{number}"
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            f"{block}.attn.out_proj.weight": (width, width),
            f"{block}.attn.out_proj.bias": (width,),
            f"{block}.norm_1.weight": (width,),
            f"{block}.norm_1.bias": (width,),
            f"{block}.mlp.fc1.weight": (4 * width, width),
            f"{block}.mlp.fc1.bias": (4 * width,),
            f"{block}.mlp.fc2.weight": (width, 4 * width),
            f"{block}.mlp.fc2.bias": (width,),
            f"{block}.norm_2.weight": (width,),
            f"{block}.norm_2.bias": (width,),
        }
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def save_sentence_model(folder: Path, seed: int = 0) -> Path:
    """Write a random Sentence-T5 (mean over tokens, projection, length 1) as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    tokens = _words()
    torch.manual_seed(seed)
    encoder = folder.with_name(f"{folder.name}-encoder")
    config = T5Config(vocab_size=12, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(encoder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=8,
    ).save_pretrained(encoder)
    parts = [Transformer(str(encoder)), Pooling(16, "mean"), Dense(16, 12, bias=False), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder))
    return folder


def save_static_model(folder: Path, seed: int = 0) -> Path:
    """Write random vectors of words, whose mean is a text's, as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    torch.manual_seed(seed)
    vectors = StaticEmbedding(_words(), embedding_dim=16)
    SentenceTransformer(modules=[vectors], device="cpu").save_pretrained(str(folder))
    return folder


def _words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "of", "the", "sea", "b", "c", "trees"]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokens


def save_segmenter(folder: Path, labels: int = 5, seed: int = 0) -> Path:
    """Write a random SegFormer with its image processor, as `save_pretrained` does."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(seed)
    config = SegformerConfig(
        num_labels=labels,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    model = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        # Large enough for different places to get different labels.
        model.decode_head.classifier.weight.normal_()
    model.save_pretrained(folder)
    preprocessor = {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
