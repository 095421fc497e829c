"""Stable Diffusion as its authors lay it out in one file, from diffusers' pipeline.

Source:
    The names of `scripts/convert_diffusers_to_original_stable_diffusion.py` of diffusers, for any number of
    layers in a block.
"""

from __future__ import annotations

import re
from typing import Any

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def checkpoint(pipe: Any) -> dict[str, torch.Tensor]:
    """All weights of a Stable Diffusion pipeline, under the names of the original file."""
    unet, vae = pipe.unet, pipe.vae
    found = {
        f"model.diffusion_model.{_unet(name, unet.config.layers_per_block, unet)}": value
        for name, value in unet.state_dict().items()
    }
    levels = len(vae.config.block_out_channels)
    for name, value in vae.state_dict().items():
        theirs = _vae(name, levels)
        is_linear = ".attn_1." in theirs and theirs.endswith("weight") and value.ndim == 2
        found[f"first_stage_model.{theirs}"] = value[:, :, None, None] if is_linear else value
    for name, value in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    return {name: value.contiguous().clone() for name, value in found.items()}


def _unet(name: str, layers: int, unet: Any) -> str:
    for ours, theirs in TOP.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    where, rest = name, ""
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        number = (layers + 1) * block + layer + (1 if side == "down" else 0)
        where = f"{'in' if side == 'down' else 'out'}put_blocks.{number}.{0 if kind == 'resnets' else 1}"
    elif found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(layers + 1) * (int(found[1]) + 1)}.0.op.{found[2]}"
    elif found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name):
        block = int(found[1])
        place = 2 if hasattr(unet.up_blocks[block], "attentions") else 1
        return f"output_blocks.{(layers + 1) * block + layers}.{place}.{found[2]}"
    elif found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        number = 1 if found[1] == "attentions" else 2 * int(found[2])
        where, rest = f"middle_block.{number}", found[3]
    head, _, tail = rest.partition(".")
    return f"{where}.{RESNET.get(head, head)}.{tail}" if rest else where


def _vae(name: str, levels: int) -> str:
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)",
        lambda found: f"decoder.up.{levels - 1 - int(found[1])}.block.{found[2]}",
        name,
    )
    name = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0",
        lambda found: f"up.{levels - 1 - int(found[1])}.upsample",
        name,
    )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if "mid_block.attentions.0." in name:
        for ours, theirs in ATTENTION.items():
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
    return name
