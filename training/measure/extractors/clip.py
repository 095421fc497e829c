"""CLIP through open_clip, from a local folder or the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import ExtractorUnavailable, first_line
from matchgraph.training.measure.extractors.base import (
    CLEAN_RESIZE,
    Extractor,
    instrument_hash,
    loading_errors,
)
from matchgraph.training.measure.extractors.plain_clip import FIELDS, plain_transformer
from matchgraph.training.pipelines.hub import hub_folder
from matchgraph.training.pipelines.loading import choose_device

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# What open_clip takes where a configuration says nothing.
OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


@dataclass(frozen=True, eq=False)
class OpenedClip:
    """A CLIP model as open_clip builds it.

    Attributes:
        model: without gradients, for evaluation.
        folder: where its files are.
        name: what it was loaded from, without the path.
        hash: 16 hexadecimal digits over the weights and the preprocessing.
        dimension: of its embeddings.
        image_px: side of the square it looks at.
        mean: of each channel.
        std: of each channel.
        device: where it is.
    """

    model: Any
    folder: Path
    name: str
    hash: str
    dimension: int
    image_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device


def load(weights: str | os.PathLike[str], device: str) -> Extractor:
    """Load what a CLIP model sees in images; see `training.measure.extractors.load_clip`."""
    folder, name = _found(weights)
    config = _configuration(folder)
    target = choose_device(device)
    with _refusing(folder):
        encode = plain_transformer(config["model_cfg"], folder / WEIGHTS_FILE, target)
        if encode is not None:
            image_px = int(config["model_cfg"]["vision_cfg"].get("image_size", FIELDS["image_size"]))
            given = {
                key: value for key, value in config.get("preprocess_cfg", {}).items() if value is not None
            }
            mean, std = (tuple(map(float, given.get(key, OPENAI[key]))) for key in ("mean", "std"))
            digest = _hash(folder, config["model_cfg"], image_px, mean, std)
    if encode is not None:
        dimension = int(config["model_cfg"]["embed_dim"])
        return Extractor(name, digest, dimension, image_px, mean, std, encode, target)
    clip = open_weights(weights, device)
    return Extractor(
        clip.name,
        clip.hash,
        clip.dimension,
        clip.image_px,
        clip.mean,
        clip.std,
        clip.model.encode_image,
        clip.device,
    )


def open_weights(weights: str | os.PathLike[str], device: str) -> OpenedClip:
    """Open a CLIP model, whole.

    Args:
        weights: a folder in open_clip's layout, or MODEL/TAG of a model with safetensors weights.
        device: `auto` or a torch device name.

    Raises:
        ExtractorUnavailable: the weights cannot be had or cannot be read.
    """
    folder, name = _found(weights)
    config = _configuration(folder)
    import open_clip

    target = choose_device(device)
    with _refusing(folder):
        # Of all weight files a folder may hold, open_clip takes this name first.
        model = open_clip.create_model(f"local-dir:{folder}", device=target, precision="fp32")
        preprocessing = open_clip.get_model_preprocess_cfg(model)
        size = preprocessing["size"]
        image_px = int(size if isinstance(size, int) else size[0])
        mean = tuple(float(value) for value in preprocessing["mean"])
        std = tuple(float(value) for value in preprocessing["std"])
        digest = _hash(folder, config["model_cfg"], image_px, mean, std)
    model = model.eval().requires_grad_(False)
    dimension = int(config["model_cfg"]["embed_dim"])
    return OpenedClip(model, folder, name, digest, dimension, image_px, mean, std, target)


def _found(weights: str | os.PathLike[str]) -> tuple[Path, str]:
    """The folder of a CLIP model and the name that it goes by."""
    folder = Path(weights)
    if str(weights) and folder.is_dir():
        return folder, folder.resolve().name
    return _hub_folder(str(weights)), str(weights)


def _configuration(folder: Path) -> dict[str, Any]:
    """What open_clip's configuration says, once both files are there."""
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in (config_path, weights_path):
        if not path.is_file():
            raise ExtractorUnavailable(
                f"{folder} has no {path.name}; a probe folder holds {CONFIG_FILE} and {WEIGHTS_FILE} "
                "(safetensors, as open_clip writes them)."
            )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        model_config = config["model_cfg"]
        int(model_config["embed_dim"])
        text_config = model_config["text_cfg"]
        vision_config = model_config["vision_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtractorUnavailable(f"{config_path} is not an open_clip configuration: {error!r}.") from None
    if not isinstance(text_config, dict) or not isinstance(vision_config, dict):
        raise ExtractorUnavailable(f"{config_path}: text_cfg and vision_cfg must be objects.")
    return dict(config)


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """What fails inside is an error of the folder."""
    try:
        yield
    except loading_errors() as error:
        raise ExtractorUnavailable(
            f"{folder} cannot be loaded as a CLIP model: {first_line(error)}"
        ) from error


def _hash(
    folder: Path, model: Mapping[str, Any], image_px: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ExtractorUnavailable(
            f"{folder / CONFIG_FILE}: mean and std must be three numbers each, std above 0."
        )
    seen = {"model": model, "px": image_px, "mean": mean, "std": std, "resize": CLEAN_RESIZE}
    return instrument_hash([folder / WEIGHTS_FILE], seen)


def _hub_folder(spec: str) -> Path:
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = spec.rpartition("/")
    repository = get_pretrained_cfg(model, tag).get("hf_hub", "").rstrip("/") if model else ""
    if not repository:
        raise ExtractorUnavailable(
            f"{spec!r} is neither a folder nor a MODEL/TAG of open_clip that has safetensors weights "
            "(such as ViT-B-32/laion2b_s34b_b79k)."
        )
    names = (CONFIG_FILE, WEIGHTS_FILE)
    advice = f"Give a local folder with {CONFIG_FILE} and {WEIGHTS_FILE} instead."
    return hub_folder(repository, names, names, advice, ExtractorUnavailable)
