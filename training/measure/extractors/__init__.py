"""Feature extractors by name: what looks at images, or reads captions, and where its weights are.

An extractor is named as `NAME=KIND:WEIGHTS`, or `NAME=WEIGHTS` where the name is a kind's. A kind is a module
here and one line in KINDS; WEIGHTS is a local file or folder, or a name on the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from matchgraph.training.errors import ExtractorUnavailable, InvalidConfig
from matchgraph.training.measure.extractors.base import (
    CLEAN_RESIZE,
    CaptionExtractor,
    Extractor,
    clean_resize,
)

__all__ = [
    "CLEAN_RESIZE",
    "KINDS",
    "CaptionExtractor",
    "Extractor",
    "ExtractorSpec",
    "clean_resize",
    "load_clip",
    "load_extractor",
    "parse_extractors",
    "require_images",
]

# Kind -> module with a function `load(weights, device)`.
KINDS = {
    "clip": "matchgraph.training.measure.extractors.clip",
    "inception": "matchgraph.training.measure.extractors.inception",
    "dinov2": "matchgraph.training.measure.extractors.vision",
    "siglip": "matchgraph.training.measure.extractors.vision",
    "imagebind": "matchgraph.training.measure.extractors.imagebind",
    "t5": "matchgraph.training.measure.extractors.captions",
}
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# A metric's name, which begins with the extractor's, has 41 characters at most.
MAX_NAME_LENGTH = 36


@dataclass(frozen=True)
class ExtractorSpec:
    """An extractor that was asked for.

    Attributes:
        name: what metrics call it: `<name>_fid` and so on.
        kind: one of KINDS.
        weights: a local file or folder, or a name on the hub.

    Raises:
        InvalidConfig: the name cannot begin a metric's name, the kind is unknown, or there are no weights.
    """

    name: str
    kind: str
    weights: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_LENGTH or self.name == "initial":
            raise InvalidConfig(
                f"{self.name!r} cannot name an extractor: use up to {MAX_NAME_LENGTH} lower-case letters and "
                "digits, beginning with a letter, such as dinov2."
            )
        if self.kind not in KINDS:
            raise InvalidConfig(
                f"The extractor {self.name!r} is of no known kind: write {self.name}=KIND:WEIGHTS with one "
                f"of {', '.join(KINDS)}."
            )
        if not self.weights:
            raise InvalidConfig(f"The extractor {self.name!r} has no weights: write {self.name}=WEIGHTS.")

    def __str__(self) -> str:
        """The form it is given in."""
        return f"{self.name}={self.kind}:{self.weights}"

    def located(self) -> ExtractorSpec:
        """The same with a local path made absolute, to be loaded from another folder."""
        if not Path(self.weights).exists():
            return self
        return ExtractorSpec(self.name, self.kind, os.path.abspath(self.weights))


def parse_extractors(specs: Iterable[str]) -> dict[str, ExtractorSpec]:
    """Read extractors as users write them.

    Args:
        specs: each `NAME=KIND:WEIGHTS`, or `NAME=WEIGHTS` where NAME is one of KINDS.

    Returns:
        By name, in the order given.

    Raises:
        InvalidConfig: one cannot be read, or two have one name.
    """
    found: dict[str, ExtractorSpec] = {}
    for text in specs:
        name, equals, weights = text.partition("=")
        if not equals:
            raise InvalidConfig(f"{text!r} names no extractor: write NAME=WEIGHTS or NAME=KIND:WEIGHTS.")
        kind, colon, rest = weights.partition(":")
        if not colon or kind not in KINDS:
            kind, rest = name, weights
        if name in found:
            raise InvalidConfig(f"Two extractors are called {name!r}; give them two names.")
        found[name] = ExtractorSpec(name, kind, rest)
    return found


def load_extractor(spec: ExtractorSpec, *, device: str = "auto") -> Extractor | CaptionExtractor:
    """Load an extractor of any kind.

    Args:
        spec: which one.
        device: `auto` (a GPU where there is one) or a torch device name.

    Raises:
        ExtractorUnavailable: its weights cannot be had or read; the message says how to get them.
    """
    return import_module(KINDS[spec.kind]).load(spec.weights, device)


def load_clip(spec: str | os.PathLike[str], *, device: str = "auto") -> Extractor:
    """Load a CLIP model as a feature extractor.

    Args:
        spec: a folder in open_clip's own layout (`open_clip_config.json`, `open_clip_model.safetensors`), or
            `MODEL/TAG` of open_clip's list of pretrained models, such as `ViT-B-32/laion2b_s34b_b79k`,
            which is taken from the hub's local cache or fetched.
        device: `auto` (a GPU where there is one) or a torch device name.

    Raises:
        ExtractorUnavailable: the folder or its files cannot be used, the name is unknown, or the weights can
            be neither found nor fetched.
    """
    from matchgraph.training.measure.extractors import clip

    return clip.load(spec, device)


def require_images(extractor: Extractor | CaptionExtractor, name: str) -> Extractor:
    """Return an extractor that looks at images.

    Raises:
        ExtractorUnavailable: it reads captions.
    """
    if isinstance(extractor, CaptionExtractor):
        raise ExtractorUnavailable(
            f"The extractor {name!r} ({extractor.name}) reads captions, which generated images do not have."
        )
    return extractor
