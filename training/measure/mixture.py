"""A stated mixture of measures: the weighted mean of scores, each in its own standard deviations.

Scores of different metrics have different scales. So each is taken less the mean, and over the standard
deviation, of all scores by its metric on a graph's training prompts, whatever the candidate; these two are
kept with the mixture, so that an image's value does not depend on the images beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.files import json_hash, write_json

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.quality import Scorer

FOLDER = "mixtures"


@dataclass(frozen=True)
class Part:
    """A metric within a mixture.

    Attributes:
        metric: its name.
        weight: above 0; those of a mixture sum to 1.
        mean: of its scores on the training prompts.
        std: of these scores, above 0.
        scorer: hash of what scored them.
    """

    metric: str
    weight: float
    mean: float
    std: float
    scorer: str


@dataclass(frozen=True)
class Mixture:
    """A named mixture.

    Attributes:
        metric: its name.
        parts: at least two.
    """

    metric: str
    parts: tuple[Part, ...]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal hashes give equal values."""
        return json_hash([asdict(part) for part in self.parts])[:16]

    def of(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mixture of scores, by metric; all of one shape."""
        return np.sum(
            [part.weight * (values[part.metric] - part.mean) / part.std for part in self.parts], axis=0
        )

    def save(self, folder: Path) -> Path:
        """Write it into a data folder, whole or not at all."""
        path = folder / FOLDER / f"{self.metric}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))
        return path

    @classmethod
    def load(cls, path: Path) -> Mixture:
        """Read what `save` wrote.

        Raises:
            ScorerUnavailable: it cannot be read.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(found["metric"], tuple(Part(**part) for part in found["parts"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScorerUnavailable(
                f"{path} is no mixture ({error}): state it again by `route mix`."
            ) from None


def mixtures_in(folder: Path) -> dict[str, Path]:
    """The mixtures of a data folder, by name."""
    return {path.stem: path for path in sorted((folder / FOLDER).glob("*.json"))}


class MixedScore:
    """Scores images by a mixture.

    Args:
        mixture: of metrics.
        scorers: one for each of its parts, in their order.

    Raises:
        ScorerUnavailable: one is not what made the mixture's scores, such as nearness to other images.
    """

    def __init__(self, mixture: Mixture, scorers: Sequence[Scorer]) -> None:
        for part, scorer in zip(mixture.parts, scorers, strict=True):
            if part.scorer != scorer.hash:
                raise ScorerUnavailable(
                    f"{mixture.metric} is of scores of {part.metric} that other weights or images made "
                    f"({part.scorer}, not {scorer.hash}): give those, or score by these and state it again "
                    "by `route mix`."
                )
        self.metric, self.hash = mixture.metric, mixture.hash
        self._mixture, self._scorers = mixture, scorers

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """See `quality.Scorer.score`."""
        return self._mixture.of({scorer.metric: scorer.score(prompts, images) for scorer in self._scorers})
