"""ImageReward: how much people would prefer an image for its prompt, by a network trained on their choices.

The authors' package asks for library versions of 2023, so its network is built here from transformers' BLIP,
which has the same layers under other names, and takes the published weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.pipelines.hub import hub_folder, is_hub_name
from matchgraph.training.products import whole_products

if TYPE_CHECKING:
    import torch
    from PIL import Image

WEIGHTS, TEXT_CONFIG, VOCABULARY = "model.safetensors", "med_config.json", "vocab.txt"
HUB_ADVICE = "Save the published weights as safetensors beside the other two, and give the folder's path."
HEAD_WIDTH = 64
MOST_TOKENS = 35
# Mean and standard deviation of the rewards in training, of the published code.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
CHANNEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CHANNEL_STD = (0.26862954, 0.26130258, 0.27577711)
BATCH = 32
# Names of the published vision network's layers, in transformers'.
RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
)


class ImageReward:
    """Scores images by ImageReward; larger is better, about 0 on average.

    Args:
        folder: with the published weights saved as `model.safetensors` under the names they have, the
            published `med_config.json`, and the `vocab.txt` of BERT, uncased; or the name on the hub
            (OWNER/NAME) of a repository of these.
        device: `auto` or a torch device name.

    Raises:
        ScorerUnavailable: a file is missing, cannot be read, or is not of this network.

    Source:
        Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation"
        (NeurIPS 2023), and their code, version 1.5.
    """

    metric = "image_reward"

    def __init__(self, folder: str | os.PathLike[str], *, device: str = "auto") -> None:
        from matchgraph.training.pipelines.loading import choose_device

        files = (WEIGHTS, TEXT_CONFIG, VOCABULARY)
        self._folder = (
            hub_folder(os.fspath(folder), files, files, HUB_ADVICE, ScorerUnavailable)
            if is_hub_name(folder)
            else Path(folder)
        )
        tensors = self._tensors()
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
        self.hash = digest.hexdigest()[:16]
        self._device = choose_device(device)
        try:
            self._vision, self._side = _vision(_part(tensors, "blip.visual_encoder."))
            self._text = _text(_part(tensors, "blip.text_encoder."), self._json(TEXT_CONFIG))
            self._head = _head(_part(tensors, "mlp.layers."))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise ScorerUnavailable(
                f"{self._folder / WEIGHTS} does not hold ImageReward's network: "
                f"{str(error).strip().splitlines()[0]}"
            ) from None
        for network in (self._vision, self._text, self._head):
            network.eval().requires_grad_(False).to(self._device)
        self._tokenizer = self._read_tokenizer()

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """See `training.measure.quality.Scorer.score`."""
        import torch

        found = []
        for start in range(0, len(images), BATCH):
            tokens = self._tokenizer(
                list(prompts[start : start + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            pixels = torch.stack([_pixels(image, self._side) for image in images[start : start + BATCH]])
            with torch.inference_mode(), whole_products():
                seen = self._vision(pixels.to(self._device)).last_hidden_state
                read = self._text(
                    input_ids=tokens.input_ids,
                    attention_mask=tokens.attention_mask,
                    encoder_hidden_states=seen,
                    encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device),
                    is_decoder=False,
                ).last_hidden_state[:, 0]
                rewards = (self._head(read)[:, 0] - MEAN) / STD
            found.append(rewards.double().cpu().numpy())
        return np.concatenate(found)

    def _tensors(self) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._folder / WEIGHTS
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ScorerUnavailable(
                f"{path} cannot be read as safetensors ({error}): save ImageReward's published weights there."
            ) from None

    def _json(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ScorerUnavailable(f"{path} cannot be read ({error}): it comes with ImageReward.") from None
        if not isinstance(values, dict):
            raise ScorerUnavailable(f"{path} is not a JSON object.")
        return values

    def _read_tokenizer(self) -> Any:
        from transformers import BertTokenizer

        path = self._folder / VOCABULARY
        if not path.is_file():
            raise ScorerUnavailable(f"{path} is missing: it is the vocabulary of BERT, uncased.")
        return BertTokenizer.from_pretrained(self._folder, local_files_only=True, do_lower_case=True)


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _vision(tensors: Mapping[str, torch.Tensor]) -> tuple[torch.nn.Module, int]:
    """The vision network, whose sizes are those of its weights, and the side of its images."""
    from transformers import BlipVisionConfig, BlipVisionModel

    patch = tensors["patch_embed.proj.weight"].shape[-1]
    width = tensors["cls_token"].shape[-1]
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5) * patch
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side,
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    network = BlipVisionModel(config)
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in RENAMED:
            if re.search(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = value
                break
        else:
            raise KeyError(f"unknown weight {name}")
    network.load_state_dict(renamed)
    return network, side


def _text(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> torch.nn.Module:
    """The text network, which looks at the image; weights of a language model's head are not its own."""
    from transformers import BlipTextConfig, BlipTextModel

    known = BlipTextConfig(
        vocab_size=tensors["embeddings.word_embeddings.weight"].shape[0],
        hidden_size=config["hidden_size"],
        encoder_hidden_size=tensors["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        max_position_embeddings=config["max_position_embeddings"],
        hidden_act=config["hidden_act"],
        layer_norm_eps=config["layer_norm_eps"],
        is_decoder=True,
    )
    network = BlipTextModel(known, add_pooling_layer=False)
    own = {name: value for name, value in tensors.items() if name != "embeddings.position_ids"}
    missing, unexpected = network.load_state_dict(own, strict=False)
    absent = [name for name in missing if name != "embeddings.position_ids"]
    if absent or unexpected:
        raise KeyError(f"weight {(absent or unexpected)[0]} is missing or unknown")
    return network


def _head(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The layers that make a reward; nothing but dropout is between the published ones."""
    import torch

    layers = []
    for number in sorted({int(name.split(".")[0]) for name in tensors}):
        weight, bias = tensors[f"{number}.weight"], tensors[f"{number}.bias"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def _pixels(image: Image.Image, side: int) -> torch.Tensor:
    """An image as the network takes it: its shorter side scaled, its middle cut out."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    scaled = transforms.resize(image, side, interpolation=InterpolationMode.BICUBIC)
    cut = transforms.center_crop(scaled, side).convert("RGB")
    return transforms.normalize(transforms.to_tensor(cut), CHANNEL_MEAN, CHANNEL_STD)
