"""ImageBind's image model, from a safetensors file.

The published weights (CC BY-NC 4.0) are one file for six kinds of input; only those of images are read. They
come as safetensors in the hub's repository nielsr/imagebind-huge.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import ExtractorUnavailable, first_line
from matchgraph.training.measure.extractors.base import (
    CLEAN_RESIZE,
    Extractor,
    instrument_hash,
    loading_errors,
)
from matchgraph.training.pipelines.hub import hub_folder
from matchgraph.training.pipelines.loading import choose_device

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
# In the names of the tensors that belong to images.
PART = ".vision."
PATCH_PX = 14
# Of one attention head: the published model has 16 of them in 1280.
HEAD_WIDTH = 80
NORM_EPS = 1e-6
# CLIP's.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ADVICE = (
    f"Give a safetensors file with ImageBind's weights, a folder with {WEIGHTS_FILE}, or a name on the hub, "
    "such as nielsr/imagebind-huge. The original imagebind_huge.pth is a pickle and is not read."
)
# Names of a layer's tensors in the published file -> in torch's own layer.
LAYER = {
    "norm_1": "norm1",
    "attn.in_proj_": "self_attn.in_proj_",
    "attn.out_proj": "self_attn.out_proj",
    "norm_2": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}


def load(weights: str, device: str) -> Extractor:
    """Load ImageBind's image model.

    Features are the joint embedding before it is normalised to length 1, as for CLIP. The whole image is
    resized to the square that the model looks at, where the original cuts the centre out.

    Args:
        weights: a safetensors file, a folder with `model.safetensors`, or a name on the hub.
        device: `auto` or a torch device name.

    Raises:
        ExtractorUnavailable: the weights cannot be had, or are no ImageBind.

    Source:
        Girdhar et al., "ImageBind: One Embedding Space To Bind Them All" (2023), section 3 and appendix B: a
        ViT-H/14 of 224 x 224 pixels, of which an image is a video of two equal frames.
    """
    path = Path(weights)
    if path.is_dir():
        path = path / WEIGHTS_FILE
    elif weights and not path.is_file() and not path.suffix:
        path = (
            hub_folder(weights, [WEIGHTS_FILE], [WEIGHTS_FILE], ADVICE, ExtractorUnavailable) / WEIGHTS_FILE
        )
    if not path.is_file() or path.suffix != ".safetensors":
        raise ExtractorUnavailable(f"{path} is not a safetensors file. {ADVICE}")
    try:
        tower = _tower(_vision_tensors(path))
        dimension = tower.head.out_features
        image_px = PATCH_PX * round((tower.positions.shape[1] - 1) ** 0.5)
        seen = {"kind": "imagebind", "px": image_px, "resize": CLEAN_RESIZE}
        digest = instrument_hash([path], seen, part=PART)
    except loading_errors() as error:
        raise ExtractorUnavailable(f"{path} is not an ImageBind: {first_line(error)}. {ADVICE}") from error
    target = choose_device(device)
    tower.to(target).eval().requires_grad_(False)
    name = path.parent.name if path.name == WEIGHTS_FILE else path.stem
    return Extractor(name, digest, dimension, image_px, MEAN, STD, tower, target)


def _vision_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if PART in name]  # noqa: SIM118 - no mapping
        return {name.replace(PART, "."): file.get_tensor(name).float() for name in names}


def _tower(tensors: dict[str, torch.Tensor]) -> Any:
    import torch
    from torch import nn

    patches = tensors["modality_preprocessors.rgbt_stem.proj.1.weight"]
    positions = tensors["modality_preprocessors.pos_embedding_helper.pos_embed"]
    width = len(patches)
    if width % HEAD_WIDTH:
        raise ValueError(f"its width {width} is not a multiple of {HEAD_WIDTH}")
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if ".blocks." in name)

    class Tower(nn.Module):
        """A vision transformer whose first token becomes the embedding."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, PATCH_PX, PATCH_PX, bias=False)
            self.token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty_like(positions))
            self.before = nn.LayerNorm(width, eps=NORM_EPS)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width,
                    width // HEAD_WIDTH,
                    4 * width,
                    dropout=0.0,
                    activation="gelu",
                    layer_norm_eps=NORM_EPS,
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(layers)
            )
            self.after = nn.LayerNorm(width, eps=NORM_EPS)
            self.head = nn.Linear(width, len(tensors["modality_heads.2.weight"]), bias=False)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            found = self.patches(pixels).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(found), -1, -1), found], dim=1) + self.positions
            tokens = self.before(tokens)
            for layer in self.layers:
                tokens = layer(tokens)
            return self.head(self.after(tokens[:, 0]))

    tower = Tower()
    state = {
        # Two equal frames under a filter of two frames are one frame under the filter's sum.
        "patches.weight": patches.sum(2),
        "token": tensors["modality_preprocessors.cls_token"],
        "positions": positions,
        "head.weight": tensors["modality_heads.2.weight"],
    }
    for part in ("weight", "bias"):
        state[f"before.{part}"] = tensors[f"modality_trunks.pre_transformer_layer.0.{part}"]
        state[f"after.{part}"] = tensors[f"modality_heads.0.{part}"]
    for name, tensor in tensors.items():
        if ".blocks." in name:
            _, _, number, rest = name.split(".", 3)
            theirs = next(theirs for theirs in LAYER if rest.startswith(theirs))
            state[f"layers.{number}.{LAYER[theirs]}{rest.removeprefix(theirs)}"] = tensor
    tower.load_state_dict(state)
    return tower
