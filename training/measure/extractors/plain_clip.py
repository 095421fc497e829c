"""The image side of a plain CLIP, without open_clip.

Importing open_clip brings in torchvision and transformers and takes longer than embedding a folder of images.
Most CLIPs see by the same transformer, which is here with open_clip's weights and, bit by bit, its features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIDE = "visual."
# Of open_clip's `CLIPVisionCfg`, with its defaults; another field makes another model.
FIELDS = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}


def plain_transformer(
    model: Mapping[str, Any], weights: Path, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a CLIP makes of images, where that is a plain transformer.

    Args:
        model: `model_cfg` of open_clip's configuration.
        weights: its safetensors file.
        device: where to put them.

    Returns:
        From normalised pixels, float32, (n, 3, px, px), to features, float32, (n, embed_dim); None for
        another kind of model, or weights that do not fit the configuration as they are.

    Source:
        Dosovitskiy et al., "An image is worth 16x16 words" (2021), in the order of operations of open_clip's
        `VisionTransformer`.
    """
    config = {**FIELDS, **model["vision_cfg"]}
    if config.keys() != FIELDS.keys() or not all(isinstance(config[name], int | float) for name in FIELDS):
        return None
    import torch
    from safetensors import safe_open
    from torch import nn
    from torch.nn import functional

    with safe_open(weights, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(SIDE)]  # noqa: SIM118 - no mapping
        state = {name.removeprefix(SIDE): file.get_tensor(name).float().to(device) for name in names}
    width, patch, layers = config["width"], config["patch_size"], config["layers"]
    if {name: tuple(tensor.shape) for name, tensor in state.items()} != _shapes(config, model["embed_dim"]):
        return None

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    def activate(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x) if model.get("quick_gelu") else functional.gelu(x)

    blocks = [f"transformer.resblocks.{number}" for number in range(layers)]
    attention = {}
    for block in blocks:
        own = nn.MultiheadAttention(width, width // config["head_width"], batch_first=True, device=device)
        own.load_state_dict({name: state[f"{block}.attn.{name}"] for name in own.state_dict()})
        attention[block] = own.eval().requires_grad_(False)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        patches = functional.conv2d(pixels, state["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
        start = state["class_embedding"].expand(len(pixels), 1, -1)
        x = norm("ln_pre", torch.cat([start, patches], dim=1) + state["positional_embedding"])
        for block in blocks:
            seen = norm(f"{block}.ln_1", x)
            x = x + attention[block](seen, seen, seen, need_weights=False)[0]
            inner = activate(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x)))
            x = x + linear(f"{block}.mlp.c_proj", inner)
        return norm("ln_post", x)[:, 0] @ state["proj"]

    return encode


def _shapes(config: Mapping[str, Any], dimension: int) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    width, patch = config["width"], config["patch_size"]
    inner, positions = int(width * config["mlp_ratio"]), (config["image_size"] // patch) ** 2 + 1
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (inner, width),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (width, inner),
        "mlp.c_proj.bias": (width,),
    }
    block |= {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    shapes = {
        f"transformer.resblocks.{n}.{key}": own for n in range(config["layers"]) for key, own in block.items()
    }
    return shapes | {
        "class_embedding": (width,),
        "positional_embedding": (positions, width),
        "conv1.weight": (width, 3, patch, patch),
        "proj": (width, dimension),
        **{f"{norm}.{part}": (width,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")},
    }
