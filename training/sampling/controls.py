"""From an image to the picture that a ControlNet is shown: its edges, or a map of what is where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.training.errors import (
    BadPipeline,
    InvalidConfig,
    MissingLibrary,
    ScorerUnavailable,
    UnsafeWeights,
    first_line,
)
from matchgraph.training.files import file_hash, json_hash
from matchgraph.training.pipelines.loading import choose_device, quiet_libraries
from matchgraph.training.pipelines.weight_files import check_weight_files
from matchgraph.training.sampling.palettes import palette

if TYPE_CHECKING:
    from PIL import Image

# Of diffusers' ControlNet examples.
LOW, HIGH = 100.0, 200.0


def canny(image: Image.Image, low: float = LOW, high: float = HIGH) -> Image.Image:
    """Draw an image's edges.

    Args:
        image: mode RGB.
        low: a pixel beside an edge belongs to it if its gradient (L1 norm, of the channel where it is
            largest, on 0..255) is above this.
        high: an edge begins where the gradient is above this.

    Returns:
        Mode RGB and the same size, white edges of one pixel on black.

    Raises:
        MissingLibrary: OpenCV is not installed.
        InvalidConfig: the thresholds are not 0 <= low <= high.

    Source:
        Canny, "A computational approach to edge detection" (1986), by OpenCV; Zhang et al., "Adding
        conditional control to text-to-image diffusion models" (2023), section 4.
    """
    import numpy as np
    from PIL import Image

    check_thresholds(low, high)
    try:
        import cv2
    except ModuleNotFoundError:
        raise MissingLibrary(
            "Canny edges need OpenCV, which is not installed: pip install 'matchgraph[control]'."
        ) from None
    edges = cv2.Canny(np.ascontiguousarray(image), low, high)
    return Image.fromarray(np.repeat(edges[:, :, None], 3, axis=2))


def check_thresholds(low: float, high: float) -> None:
    """Refuse thresholds that Canny cannot work with.

    Raises:
        InvalidConfig: they are not 0 <= low <= high < infinity.
    """
    if not 0 <= low <= high < float("inf"):
        raise InvalidConfig(f"Canny's thresholds must be 0 <= low <= high, got {low:g} and {high:g}.")


class Segmenter:
    """A semantic segmentation model that colours each pixel by its label.

    Args:
        folder: a model of transformers with its image processor, such as UperNet or SegFormer, as
            `save_pretrained` writes them; safetensors only, nothing is fetched.
        device: `auto` or a torch device name.

    Attributes:
        palette: uint8, (labels, 3); see `training.sampling.palettes`.
        hash: of the model's files and the palette; equal hashes give equal maps.

    Raises:
        ScorerUnavailable: the folder holds no such model.
        UnsafeWeights: it holds pickled weights only.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str = "auto") -> None:
        root = Path(folder)
        for name in ("config.json", "preprocessor_config.json"):
            if not (root / name).is_file():
                raise ScorerUnavailable(
                    f"{root} has no {name}; give a segmentation model's folder as transformers saves it."
                )
        try:
            check_weight_files(root)
        except UnsafeWeights:
            raise
        except BadPipeline as error:
            raise ScorerUnavailable(str(error)) from None
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        try:
            with quiet_libraries():
                self._processor = AutoImageProcessor.from_pretrained(root, local_files_only=True)
                model, loading = AutoModelForSemanticSegmentation.from_pretrained(
                    root, use_safetensors=True, local_files_only=True, output_loading_info=True
                )
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            raise ScorerUnavailable(
                f"{root} cannot be loaded as a semantic segmentation model: {first_line(error)}"
            ) from error
        if loading["missing_keys"]:
            # transformers would go on with random numbers in their place.
            raise ScorerUnavailable(f"{root} lacks weights ({sorted(loading['missing_keys'])[0]}).")
        self._device = choose_device(device)
        self._model = model.to(self._device).eval()
        self.palette = palette(model.config.num_labels)
        weights = [file_hash(path) for path in sorted(root.glob("*.safetensors"))]
        self.hash = json_hash([weights, file_hash(root / "config.json"), self.palette.tolist()])[:16]

    def draw(self, image: Image.Image) -> Image.Image:
        """Draw an image's map of labels.

        Args:
            image: mode RGB.

        Returns:
            Mode RGB and the same size.
        """
        import torch
        from PIL import Image

        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad():
            logits = self._model(pixel_values=pixels).logits.float()
        size = (image.height, image.width)
        logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return Image.fromarray(self.palette[logits[0].argmax(dim=0).cpu().numpy()])
