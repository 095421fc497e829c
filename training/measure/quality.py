"""Quality of an image for its prompt: what a router is to get the most of for its cost.

Every scorer gives numbers of which larger ones are better, and has a hash that tells its scores from those of
another.

Source:
    CATImage, section 5.1 (quality metrics).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.pipelines.hub import hub_folder, is_hub_name

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.extractors.base import Extractor
    from matchgraph.training.measure.prompts import PromptEncoder

# What a repository on the hub has an aesthetic predictor's layers in.
HUB_FILE = "model.safetensors"
HUB_ADVICE = "Save the published weights as safetensors, and give the file's path."
GAUSSIAN_STD_PX = 1.0
# Where a Gaussian of standard deviation 1 is cut off, in standard deviations.
TRUNCATE = 4.0


class Scorer(Protocol):
    """What scores images.

    Attributes:
        metric: name of the metric.
        hash: 16 hexadecimal digits; equal hashes give equal scores.
    """

    metric: str
    hash: str

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Score images of mode RGB, each for the prompt at its place: float64, (n,)."""
        ...


class Sharpness:
    """How much of an image a slight blur takes away.

    sum (i - i * G)^2 / sum i^2 over all pixels, with G a Gaussian of standard deviation 1 pixel. Where the
    paper is silent: intensities are those of the grey image (ITU-R 601, as Pillow converts), whose scale does
    not matter; the image is mirrored at its border; a black image has sharpness 0.

    Source:
        CATImage, section 5.1, after Paris et al., "Local Laplacian filters" (2011).
    """

    metric = "sharpness"
    hash = hashlib.sha256(f"sharpness L reflect {GAUSSIAN_STD_PX} {TRUNCATE}".encode()).hexdigest()[:16]

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:  # noqa: ARG002
        """See `Scorer.score`; the prompts do not matter."""
        return np.array([sharpness(np.asarray(image.convert("L"), dtype=np.float64)) for image in images])


def sharpness(intensities: np.ndarray) -> float:
    """The sharpness of one grey image; see `Sharpness`.

    Args:
        intensities: float64, (height, width), of any scale.
    """
    from scipy.ndimage import gaussian_filter

    energy = float((intensities**2).sum())
    if not energy:
        return 0.0
    blurred = gaussian_filter(intensities, GAUSSIAN_STD_PX, mode="reflect", truncate=TRUNCATE)
    return float(((intensities - blurred) ** 2).sum()) / energy


class ClipScore:
    """Cosine similarity of an image and its prompt, as a CLIP embeds them; not scaled.

    Args:
        extractor: the CLIP's image side.
        encoder: its text side.

    Raises:
        ScorerUnavailable: the two are not of one CLIP.

    Source:
        CATImage, Tables 1 and 2, whose values are cosines; Hessel et al., "CLIPScore" (2021), scale them by
        2.5 and cut them off at 0.
    """

    metric = "clip_score"

    def __init__(self, extractor: Extractor, encoder: PromptEncoder) -> None:
        if extractor.hash != encoder.hash:
            raise ScorerUnavailable(
                "CLIPScore needs the image and text encoders of one CLIP; these are of two."
            )
        self.hash = extractor.hash
        self._extractor, self._encoder = extractor, encoder

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """See `Scorer.score`."""
        distinct = list(dict.fromkeys(prompts))
        row_of = {prompt: row for row, prompt in enumerate(distinct)}
        texts = self._encoder.encode(distinct).embeddings[[row_of[prompt] for prompt in prompts]]
        seen = self._extractor.features(images)
        return (seen * texts).sum(axis=1) / np.linalg.norm(seen, axis=1)


class Nearness:
    """How near an image is to a set of images: the cosine of its features to their mean.

    Args:
        extractor: what looks at both.
        images: the set; read one batch at a time.
        fingerprint: of the set. The mean is none: it differs in its last digits between machines.
    """

    metric = "nearness"

    def __init__(self, extractor: Extractor, images: Iterable[Image.Image], fingerprint: str) -> None:
        mean = extractor.statistics(images).mean
        self._mean = mean / np.linalg.norm(mean)
        self.hash = hashlib.sha256(f"{extractor.hash} {fingerprint}".encode()).hexdigest()[:16]
        self._extractor = extractor

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:  # noqa: ARG002
        """See `Scorer.score`; prompts have no part in it."""
        seen = self._extractor.features(images)
        return (seen @ self._mean) / np.linalg.norm(seen, axis=1)


class AestheticScore:
    """How much people would like an image, from 1 to 10: layers on top of a CLIP's image embedding.

    The published predictor is five linear layers on CLIP ViT-L/14; its weights are a pickled file, which is
    to be saved as safetensors once, with the names it has (`layers.0.weight`, ...).

    Args:
        extractor: the image side of the CLIP that the layers were trained on.
        weights: the layers, a safetensors file; or the name on the hub (OWNER/NAME) of a repository that has
            them as `model.safetensors`.

    Raises:
        ScorerUnavailable: the file cannot be read, or does not fit the CLIP.

    Source:
        Schuhmann et al., "LAION-5B" (2022); Beaumont and Schuhmann, LAION-Aesthetics V2 (2022).
    """

    metric = "aesthetic"

    def __init__(self, extractor: Extractor, weights: str | Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(weights)
        if is_hub_name(weights):
            files = [HUB_FILE]
            path = hub_folder(os.fspath(weights), files, files, HUB_ADVICE, ScorerUnavailable) / HUB_FILE
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ScorerUnavailable(
                f"{path} is not a safetensors file of an aesthetic predictor: {error}. Save the published "
                "weights as one."
            ) from None
        names = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
        try:
            self._layers = [(tensors[f"layers.{n}.weight"], tensors[f"layers.{n}.bias"]) for n in names]
        except KeyError as error:
            raise ScorerUnavailable(f"{path} lacks {error}.") from None
        width = extractor.dimension
        for weight, _ in self._layers:
            if weight.ndim != 2 or weight.shape[1] != width:
                raise ScorerUnavailable(
                    f"{path}: a layer takes {weight.shape[-1]} numbers and gets {width}. Use the CLIP that "
                    "the predictor was trained on (ViT-L/14 for the published one)."
                )
            width = weight.shape[0]
        if not self._layers or width != 1:
            raise ScorerUnavailable(f"{path}: the last layer gives {width} numbers, not one.")
        digest = hashlib.sha256(extractor.hash.encode())
        for weight, bias in self._layers:
            digest.update(weight.tobytes() + bias.tobytes())
        self.hash = digest.hexdigest()[:16]
        self._extractor = extractor

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:  # noqa: ARG002
        """See `Scorer.score`; the prompts do not matter."""
        values = self._extractor.features(images)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        for weight, bias in self._layers:
            # The published layers have nothing between them but dropout.
            values = values @ weight.astype(np.float64).T + bias
        return values[:, 0]
