"""Image models of transformers: DINOv2, SigLIP and their like, from a local folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import ExtractorUnavailable, TrainingError, first_line
from matchgraph.training.measure.extractors.base import (
    CLEAN_RESIZE,
    Extractor,
    instrument_hash,
    loading_errors,
)
from matchgraph.training.pipelines.hub import hub_folder
from matchgraph.training.pipelines.loading import choose_device
from matchgraph.training.pipelines.weight_files import check_weight_files

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
FILES = (CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE)
ADVICE = (
    f"Give a local folder with {CONFIG_FILE}, {PREPROCESSOR_FILE} and {WEIGHTS_FILE}, as save_pretrained "
    "writes them, or a name on the hub, such as facebook/dinov2-base or google/siglip-base-patch16-224."
)


def load(weights: str, device: str) -> Extractor:
    """Load an image model of one of the types in FEATURES.

    Features are what the model itself makes of the whole image: DINOv2's class token after the last norm,
    SigLIP's pooled embedding. The image is resized to the square of the preprocessor's crop as a whole, like
    for every extractor here, where the models' own processors cut the centre out.

    Args:
        weights: a folder as `save_pretrained` writes it, or a name on the hub.
        device: `auto` or a torch device name.

    Raises:
        ExtractorUnavailable: the weights cannot be had, or are of another type.
    """
    folder = Path(weights)
    if weights and folder.is_dir():
        name = folder.resolve().name
    else:
        folder, name = hub_folder(weights, FILES, FILES, ADVICE, ExtractorUnavailable), weights
    for file in FILES:
        if not (folder / file).is_file():
            raise ExtractorUnavailable(f"{folder} has no {file}. {ADVICE}")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        preprocessor = json.loads((folder / PREPROCESSOR_FILE).read_text(encoding="utf-8"))
        kind = config["model_type"]
        image_px = _side(preprocessor)
        mean, std = (tuple(map(float, preprocessor[f"image_{part}"])) for part in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtractorUnavailable(f"{folder} has no usable configuration: {error!r}. {ADVICE}") from None
    if kind not in FEATURES:
        raise ExtractorUnavailable(
            f"{folder} holds a model of type {kind!r}, whose features are not known here: use one of "
            f"{', '.join(FEATURES)}."
        )
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ExtractorUnavailable(f"{folder}: image_mean and image_std must be three numbers, std above 0.")
    target = choose_device(device)
    try:
        check_weight_files(folder)
        model = _model(folder).to(target).eval().requires_grad_(False)
        # The two left out say who wrote the file, not what the model does.
        known = {key: config[key] for key in config if key not in ("_name_or_path", "transformers_version")}
        seen = {"model": known, "px": image_px, "mean": mean, "std": std, "resize": CLEAN_RESIZE}
        digest = instrument_hash([folder / WEIGHTS_FILE], seen)
    except loading_errors(TrainingError) as error:
        raise ExtractorUnavailable(f"{folder} cannot be loaded: {first_line(error)}") from error
    features, dimension = FEATURES[kind]
    return Extractor(
        name,
        digest,
        dimension(model.config),
        image_px,
        mean,
        std,
        lambda pixels: features(model, pixels),
        target,
    )


def _model(folder: Path) -> Any:
    import torch
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # The library fills what is missing with random numbers and only warns.
    if report["missing_keys"]:
        raise ValueError(f"the file lacks {min(report['missing_keys'])} of the model's weights")
    return model


def _side(preprocessor: dict[str, Any]) -> int:
    size = preprocessor.get("crop_size") or preprocessor["size"]
    if isinstance(size, dict):
        size = size.get("height") or size["shortest_edge"]
    return int(size)


def _class_token(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).pooler_output


def _image_tower(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    # A model of images and texts holds the image model; one of images alone is it.
    return getattr(model, "vision_model", model)(pixel_values=pixels).pooler_output


def _width(config: Any) -> int:
    return int(getattr(config, "vision_config", config).hidden_size)


# Type of the model -> how to get features and their number.
FEATURES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], int]]] = {
    "dinov2": (_class_token, _width),
    "dinov2_with_registers": (_class_token, _width),
    "dinov3_vit": (_class_token, _width),
    "siglip": (_image_tower, _width),
    "siglip_vision_model": (_image_tower, _width),
}
