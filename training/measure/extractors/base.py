"""What every extractor is to its users, and what the kinds share: resizing and hashing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.training.errors import memory_of
from matchgraph.training.measure.frechet import GaussianAccumulator, GaussianStatistics
from matchgraph.training.products import whole_products

if TYPE_CHECKING:
    import torch
    from PIL import Image

# Stored with every figure: distances are comparable only between features of one resizing.
CLEAN_RESIZE = "clean-bicubic"
# In the place of a resizing where there are no images.
CAPTIONS = "captions"
BATCH = 64


class Instrument:
    """What image and caption extractors have in common: features in batches, never all of them at once.

    Attributes:
        name: what it was loaded from, without the path.
        hash: 16 hexadecimal digits over the weights and the preprocessing; equal hashes give equal features.
        dimension: length of a feature vector.
        resize: how images come to the size it looks at.
    """

    name: str
    hash: str
    dimension: int
    resize: str

    def _embed(self, batch: list[Any]) -> np.ndarray:
        raise NotImplementedError

    def features(self, items: Iterable[Any], batch_size: int = BATCH) -> np.ndarray:
        """Embed images of mode RGB, or captions.

        Args:
            items: any number; read one batch at a time.
            batch_size: items in one forward pass.

        Returns:
            float64, (n, dimension).
        """
        batches = list(self.stream(items, batch_size))
        return np.concatenate(batches) if batches else np.empty((0, self.dimension))

    def stream(self, items: Iterable[Any], batch_size: int = BATCH) -> Iterator[np.ndarray]:
        """Embed batch by batch, for sets that do not fit in memory.

        Args:
            items: images of mode RGB, or captions.
            batch_size: items in one forward pass.

        Yields:
            float64, (at most batch_size, dimension).
        """
        pending = iter(items)
        while batch := list(islice(pending, batch_size)):
            yield self._embed(batch)
            # The next batch is gathered before this name is bound again.
            del batch

    def statistics(self, items: Iterable[Any], batch_size: int = BATCH) -> GaussianStatistics:
        """Fit a Gaussian to the features; its mean is the items' mean embedding.

        Args:
            items: at least two; read one batch at a time.
            batch_size: items in one forward pass.

        Raises:
            TooFewSamples: fewer than two.

        Source:
            Match & Choose, section 4.2 (dataset features: the probe's embeddings, averaged) and Eq. 2.
        """
        accumulator = GaussianAccumulator()
        for batch in self.stream(items, batch_size):
            accumulator.add(batch)
        return accumulator.statistics()


@dataclass(frozen=True, eq=False)
class Extractor(Instrument):
    """An image model as a measuring instrument.

    Images are resized to a square of the model's own input size by clean-fid's resizer (Pillow's bicubic on
    float channels, no rounding in between) and normalised as the model's configuration says. Features are
    embeddings before they are normalised to length 1.

    Attributes:
        name: what it was loaded from, without the path.
        hash: 16 hexadecimal digits over the weights and the preprocessing; equal hashes give equal features.
        dimension: length of a feature vector.
        image_px: side of the square the model looks at.
        mean: of each channel, values in 0..1.
        std: of each channel.
        encode: from normalised pixels (n, 3, image_px, image_px) to features (n, dimension).
        device: where that runs.
        resize: how images come to that size.
    """

    name: str
    hash: str
    dimension: int
    image_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encode: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    resize: str = CLEAN_RESIZE

    def _embed(self, batch: list[Image.Image]) -> np.ndarray:
        import torch

        with torch.no_grad(), memory_of("scoring"), whole_products():
            pixels = torch.from_numpy(self._pixels(batch)).to(self.device)
            return self.encode(pixels).double().cpu().numpy()

    def _pixels(self, images: Sequence[Image.Image]) -> np.ndarray:
        resized = np.stack([clean_resize(image, self.image_px) for image in images])
        normalised = (resized / 255.0 - np.array(self.mean)) / np.array(self.std)
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class CaptionExtractor(Instrument):
    """A sentence model as a measuring instrument of datasets by their captions.

    Attributes:
        name: what it was loaded from, without the path.
        hash: 16 hexadecimal digits over the weights and the preprocessing; equal hashes give equal features.
        dimension: length of a feature vector.
        encode: from captions to features (n, dimension).
        resize: says that there are no images.
        length: tokens that are read of a caption; None for all.
        tokens: how many tokens each caption has, those that mark its ends included; None where it is not
            known.
    """

    name: str
    hash: str
    dimension: int
    encode: Callable[[list[str]], np.ndarray]
    resize: str = CAPTIONS
    length: int | None = None
    tokens: Callable[[list[str]], list[int]] | None = None

    def _embed(self, batch: list[str]) -> np.ndarray:
        with whole_products():
            return np.asarray(self.encode(batch), dtype=np.float64)


def clean_resize(image: Image.Image, size_px: int) -> np.ndarray:
    """Resize an image to a square as clean-fid does, channel by channel in float.

    Args:
        image: mode RGB.
        size_px: side of the result.

    Returns:
        float32, (size_px, size_px, 3), values in 0..255.

    Source:
        Parmar, Zhang and Zhu, "On aliased resizing and surprising subtleties in GAN evaluation" (2022).
    """
    from cleanfid.resize import make_resizer

    return make_resizer("PIL", False, "bicubic", (size_px, size_px))(np.asarray(image))


def instrument_hash(weights: Iterable[Path], seen: Mapping[str, Any], *, part: str = "") -> str:
    """Return the hash of an extractor.

    Args:
        weights: its safetensors files.
        seen: all else that features depend on, ready for JSON.
        part: what the names of the tensors that count have in them.
    """
    digest = b"".join(weights_digest(path, part) for path in weights)
    return hashlib.sha256(digest + json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(path: Path, part: str = "") -> bytes:
    """Hash the tensors rather than the file, whose header may change without them."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as weights:
        for key in sorted(key for key in weights.keys() if part in key):  # noqa: SIM118 - no mapping
            tensor = weights.get_tensor(key)
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_raw_bytes(tensor))
    return digest.digest()


def _raw_bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def loading_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What libraries raise on weights and configurations that do not fit or cannot be read, and `others`."""
    from safetensors import SafetensorError

    own = (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)
    return (*others, *own)
