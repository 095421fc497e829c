"""LoRAs under the names that trainers give them draw what the same LoRA draws under diffusers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import stream_batches

RANK, ALPHA = 4, 2.0
# Of tiny SDXL, with the name that its authors give the layer: linear layers and a convolution.
IN, ATTENTIONS = "input_blocks.3.1.transformer_blocks", "down_blocks.1.attentions.0.transformer_blocks"
SDXL = {
    f"{ATTENTIONS}.0.attn1.to_q": f"{IN}.0.attn1.to_q",
    f"{ATTENTIONS}.1.attn2.to_out.0": f"{IN}.1.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2": "middle_block.1.transformer_blocks.0.ff.net.2",
    "up_blocks.0.attentions.1.proj_in": "output_blocks.1.1.proj_in",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
}
# Of tiny FLUX. The authors' names of its fused projections are for three layers.
FLUX = {
    "transformer_blocks.0.attn.to_q": "double_blocks.0.img_attn.qkv",
    "transformer_blocks.0.attn.to_k": "double_blocks.0.img_attn.qkv",
    "transformer_blocks.0.attn.to_v": "double_blocks.0.img_attn.qkv",
    "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
    "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
    "single_transformer_blocks.0.proj_out": "single_blocks.0.linear2",
}
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
Layout = Callable[[Factors], tuple[dict[str, torch.Tensor], dict[str, str]]]


def factors(denoiser: torch.nn.Module, layers: dict[str, str]) -> Factors:
    """A random LoRA; layers that the authors fused share what they make of the input."""
    generator = torch.Generator().manual_seed(0)
    found: Factors = {}
    shared: dict[str, torch.Tensor] = {}
    for name, theirs in layers.items():
        weight = denoiser.get_submodule(name).weight
        down = torch.randn(RANK, *weight.shape[1:], generator=generator) * 0.6
        up = torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=generator) * 0.6
        found[name] = (shared.setdefault(theirs, down), up)
    return found


def text(parts: list[str], down: str, up: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """A LoRA of a layer of each text encoder, where there are names of such."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for part in parts:
        found[f"{part}.{down}"] = torch.randn(RANK, 32, generator=generator) * 0.6
        found[f"{part}.{up}"] = torch.randn(32, RANK, generator=generator) * 0.6 * scale
    return found


def peft(prefix: str, texts: int = 0, alpha: bool = False) -> Layout:
    """diffusers' own scripts, SimpleTuner, and ai-toolkit for FLUX; alpha is in the header, or in B."""
    parts = ["text_encoder", "text_encoder_2"][:texts]
    scale = 1.0 if alpha else ALPHA / RANK

    def write(lora: Factors) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors = text([f"{part}.{TEXT}" for part in parts], "lora_A.weight", "lora_B.weight", scale)
        for name, (down, up) in lora.items():
            tensors[f"{prefix}.{name}.lora_A.weight"] = down.clone()
            tensors[f"{prefix}.{name}.lora_B.weight"] = up * scale
        layers = {prefix: list(lora), **{part: [TEXT] for part in parts}}
        settings: dict[str, Any] = {}
        for part, names in layers.items():
            settings |= {f"{part}.r": RANK, f"{part}.lora_alpha": ALPHA, f"{part}.target_modules": names}
        return tensors, {"lora_adapter_metadata": json.dumps(settings)} if alpha else {}

    return write


def comfyui(lora: Factors) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """SimpleTuner with `--lora_format comfyui`."""
    tensors = {f"diffusion_model.{name}.alpha": torch.tensor(ALPHA) for name in lora}
    for name, (down, up) in lora.items():
        tensors |= {f"diffusion_model.{name}.lora_A.weight": down.clone()}
        tensors |= {f"diffusion_model.{name}.lora_B.weight": up}
    return tensors, {}


def older_diffusers(lora: Factors) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """diffusers' scripts of 2023 and 2024."""
    parts = [f"{part}.{TEXT.replace('q_proj', 'to_q_lora')}" for part in ("text_encoder", "text_encoder_2")]
    tensors = text(parts, "down.weight", "up.weight", ALPHA / RANK)
    for name, (down, up) in lora.items():
        tensors[f"unet.{name}.lora.down.weight"] = down
        tensors[f"unet.{name}.lora.up.weight"] = up * (ALPHA / RANK)
    return tensors, {}


def kohya(prefix: str, texts: int, authors: dict[str, str] | None = None) -> Layout:
    """kohya's scripts; under diffusers' names OneTrainer, and ai-toolkit and SimpleTuner for U-Nets."""

    def write(lora: Factors) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        names = [f"lora_te{number}_{TEXT.replace('.', '_')}" for number in (1, 2)[:texts]]
        tensors = text(names, "lora_down.weight", "lora_up.weight")
        tensors |= {f"{name}.alpha": torch.tensor(ALPHA) for name in names}
        fused: dict[str, list[torch.Tensor]] = {}
        for name, (down, up) in lora.items():
            theirs = (authors or {}).get(name, name)
            key = f"{prefix}{theirs if prefix.endswith('.') else theirs.replace('.', '_')}"
            fused.setdefault(key, []).append(up)
            tensors |= {f"{key}.lora_down.weight": down.clone(), f"{key}.alpha": torch.tensor(ALPHA)}
        return tensors | {f"{key}.lora_up.weight": torch.cat(ups) for key, ups in fused.items()}, {}

    return write


# Of which model, with how many text encoders changed.
LAYOUTS: dict[str, tuple[str, int, Layout]] = {
    "sdxl, kohya": ("sdxl", 2, kohya("lora_unet_", 2, SDXL)),
    "sdxl, ai-toolkit, SimpleTuner and OneTrainer": ("sdxl", 2, kohya("lora_unet_", 2)),
    "sdxl, diffusers": ("sdxl", 2, peft("unet", 2, alpha=True)),
    "sdxl, diffusers of 2023": ("sdxl", 2, older_diffusers),
    "flux, kohya": ("flux", 1, kohya("lora_unet_", 1, FLUX)),
    "flux, kohya's for ComfyUI": ("flux", 0, kohya("diffusion_model.", 0, FLUX)),
    "flux, OneTrainer": ("flux", 1, kohya("lora_transformer_", 1)),
    "flux, diffusers": ("flux", 1, peft("transformer", 1, alpha=True)),
    "flux, ai-toolkit": ("flux", 0, peft("transformer")),
    "flux, SimpleTuner": ("flux", 0, peft("transformer", alpha=True)),
    "flux, SimpleTuner for ComfyUI": ("flux", 0, comfyui),
}
OWN = {"sdxl": "unet", "flux": "transformer"}


@pytest.fixture(scope="module")
def draw(tiny_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    """The latents of a pipeline with a LoRA in a layout, by our loader or diffusers', or without."""
    loaded: dict[str, LoadedPipeline] = {}
    config = SampleConfig(n=1, drawing=Drawing(steps=1, guidance=1.0, resolution_px=32), device="cpu")

    def draw(name: str, layout: Layout | None, *, theirs: bool = False) -> torch.Tensor:
        if name not in loaded:
            loaded[name] = LoadedPipeline(tiny_folder(name), device="cpu")
        pipeline, file = loaded[name], None
        if layout is not None:
            file = tmp_path_factory.mktemp("lora") / "own.safetensors"
            denoiser = pipeline.family.denoiser(pipeline.pipe)
            tensors, header = layout(factors(denoiser, FLUX if name == "flux" else SDXL))
            save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata=header)
        if theirs and file is not None:
            pipeline.pipe.load_lora_weights(file.parent, weight_name=file.name)
        (batch,) = stream_batches(pipeline, None if theirs else file, ["a cat"], config)
        if theirs:
            pipeline.pipe.unload_lora_weights()
        return batch.latents

    return draw


@pytest.fixture(scope="module")
def expected(draw: Any) -> dict[tuple[str, int], torch.Tensor]:
    """What diffusers' loader makes of the LoRA in its own layout; each part of it changes something."""
    wanted = {(name, texts): peft(OWN[name], texts) for name, texts, _ in LAYOUTS.values()}
    found = {key: draw(key[0], layout, theirs=True) for key, layout in wanted.items()}
    for (name, texts), latents in found.items():
        assert (latents - draw(name, None)).abs().mean() > 0.003
        assert not texts or (latents - draw(name, peft(OWN[name]))).abs().mean() > 1e-4
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_draws_what_diffusers_own_draws(layout: str, draw: Any, expected: Any) -> None:
    name, texts, write = LAYOUTS[layout]
    # Text encoders compute with the whole update, so that sums are rounded in another order.
    close = {"rtol": 0, "atol": 1e-5} if texts else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(draw(name, write), expected[name, texts], **close)
