"""Scores of generated images against a dataset, each with what is needed to compare it with another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from training.frechet import GaussianStatistics, frechet_distance

if TYPE_CHECKING:
    from PIL import Image

    from training.extractors import Extractor

CLIP_FID_VERSION = "1"


@dataclass(frozen=True)
class Score:
    """A figure with the counts and the instrument that its bias depends on.

    Attributes:
        metric: what was measured; for `clip_fid` smaller is better.
        value: the figure.
        std: standard deviation of `value` where the metric is an average over subsets, else None.
        n_real: images of the dataset behind the reference.
        n_gen: generated images.
        extractor: hash of the feature extractor.
        extractor_name: what the extractor is called.
        resize: how images came to the extractor's size.
        version: of the metric's definition; values of different versions are not comparable.
    """

    metric: str
    value: float
    std: float | None
    n_real: int
    n_gen: int
    extractor: str
    extractor_name: str
    resize: str
    version: str

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


def clip_fid(
    images: Iterable[Image.Image],
    extractor: Extractor,
    reference: GaussianStatistics,
    *,
    batch_size: int = 64,
) -> Score:
    """Squared Frechet distance between CLIP features of generated images and those of a dataset.

    Args:
        images: at least two generated images of mode RGB.
        extractor: the one that the reference was taken with.
        reference: the dataset's statistics.
        batch_size: images in one forward pass.

    Raises:
        TooFewSamples: fewer than two images.
        ShapeMismatch: the reference was taken with another extractor.

    Source:
        Match & Choose, Eq. 2 and 3; CLIP in place of Inception after Kynkaanniemi et al. (2023).
    """
    generated = extractor.statistics(images, batch_size)
    value = frechet_distance(generated.mean, generated.covariance, reference.mean, reference.covariance)
    return Score(
        "clip_fid",
        value,
        None,
        reference.n,
        generated.n,
        extractor.hash,
        extractor.name,
        extractor.resize,
        CLIP_FID_VERSION,
    )
