"""What the ten models may see and what the datasets hold: the split of the icons, and the pretraining corpus.

Targets are whole concepts, over all styles: within a category the concepts are ordered by a hash of their
name, and the first ones (`TARGET_CONCEPTS`) are drawn in the datasets. The corpus is everything else, of the
five target styles and of four styles that no dataset has, less every icon that looks like a target icon of
any style (`near_duplicates`). `python -m matchgraph.minizoo.build.corpus` draws it and records it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.icons import (
    PACKAGES,
    STYLES,
    WORK,
    Icon,
    Pool,
    name_hash,
    read_icons,
    read_package,
    render_array,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

logger = logging.getLogger(__name__)

MANIFEST = ROOT / "corpus.csv"
LOOKALIKES = ROOT / "lookalikes.csv"

# Styles that are only pretrained on. Their icons count only under a name that the five styles have too, so
# that one rule keeps the targets' concepts out.
FURTHER_STYLES: Mapping[str, str] = {
    "noto-v1": "1.2.5",
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
    "fluent-emoji-high-contrast": "1.2.6",
}
# How many concepts of each category are targets. People who do a thing in three genders are one concept, so
# a hundred of them are twice as many icons. Activities are too few to divide, and flags are nowhere.
TARGET_CONCEPTS: Mapping[str, int] = {
    "animals": 96,
    "food": 90,
    "objects": 130,
    "people": 100,
    "smileys": 100,
    "symbols": 120,
    "travel": 120,
}
# Two icons look alike where what is left of one after taking the other away, mirrored or not, has less than
# this share of the larger one's energy. Chosen by eye: below it are locks open and shut, clocks at other
# hours and arrows the other way; above it other things of the same outline.
LOOKALIKE_RESIDUAL = 0.06
_COMPARED_PX = 16
HELD_OUT_EVERY = 20  # one icon in so many is never trained on, and measures what was learnt


def target_concepts(icons: Iterable[Icon]) -> frozenset[str]:
    """The concepts that the datasets draw and no pretraining sees.

    Args:
        icons: the icons of the five target styles; a subset of the styles would give another split.
    """
    by_category: dict[str, set[str]] = {}
    for icon in icons:
        by_category.setdefault(icon.category, set()).add(icon.concept)
    return frozenset(
        concept
        for category, count in TARGET_CONCEPTS.items()
        for concept in sorted(by_category[category], key=name_hash)[:count]
    )


def target_icons(icons: Sequence[Icon]) -> list[Icon]:
    """The icons that show a target concept, in the order given.

    Args:
        icons: the icons of the five target styles.
    """
    chosen = target_concepts(icons)
    return [icon for icon in icons if icon.concept in chosen]


@lru_cache(maxsize=1)
def read_further_icons(packages: Path = PACKAGES) -> tuple[Icon, ...]:
    """Read the icons of the styles that are only pretrained on.

    Args:
        packages: the folder that holds one folder for each icon package.

    Returns:
        Icons whose name one of the five styles has too, under the category it has there; sorted by style,
        category and name.

    Raises:
        IconPackagesMissing: a package is absent or of another version than the pinned one.
    """
    category_of = {icon.name: icon.category for icon in read_icons(packages)}
    found = [
        Icon(style, category_of[name], name, svg)
        for style, version in FURTHER_STYLES.items()
        for name, svg in read_package(packages, style, version).items()
        if name in category_of
    ]
    return tuple(sorted(found, key=lambda icon: (icon.style, icon.category, icon.name)))


def _ink(pixels: np.ndarray) -> np.ndarray:
    """How far from white, averaged over blocks: uint8 (n, h, w, 3) -> float32 (n, 16, 16, 3)."""
    import numpy as np

    count, height, width, _ = pixels.shape
    blocks = (
        1
        - pixels.reshape(
            count, _COMPARED_PX, height // _COMPARED_PX, _COMPARED_PX, width // _COMPARED_PX, 3
        ).astype(np.float32)
        / 255
    )
    return blocks.mean((2, 4))


def near_duplicates(pixels: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each image, the target image that it is most like.

    Images are compared as distances from white at 16x16 pixels, upright and mirrored.

    Args:
        pixels: uint8, (n, h, w, 3).
        targets: uint8, (m, h, w, 3), of the same size.

    Returns:
        The row of the nearest target, (n,), and the share of energy left after taking it away, (n,): 0 for
        the same image, about 1 for images that have nothing in common.
    """
    import numpy as np

    ink, other = _ink(pixels), _ink(targets).reshape(len(targets), -1)
    energy, other_energy = np.square(ink).sum((1, 2, 3)), np.square(other).sum(1)
    nearest = np.zeros(len(pixels), dtype=np.int64)
    residual = np.full(len(pixels), np.inf, dtype=np.float32)
    for seen in (ink, ink[:, :, ::-1]):
        left = energy[:, None] + other_energy - 2 * seen.reshape(len(pixels), -1) @ other.T
        shares = left / np.maximum(np.maximum(energy[:, None], other_energy), 1e-6)
        best = shares.argmin(1)
        share = shares[np.arange(len(pixels)), best]
        nearest = np.where(share < residual, best, nearest)
        residual = np.minimum(residual, share)
    return nearest, residual


@dataclass(frozen=True)
class Lookalike:
    """An icon kept out of the corpus because it looks like a target."""

    icon: Icon
    target: Icon
    residual: float


def divide(icons: Sequence[Icon], further: Sequence[Icon]) -> tuple[Pool, list[Lookalike]]:
    """Draw all icons, and keep those that pretraining may see.

    Args:
        icons: the icons of the five target styles.
        further: the icons of the other styles.

    Returns:
        The corpus in the order of the arguments, and what was left out of it for its looks.
    """
    chosen = target_concepts(icons)
    targets = target_icons(icons)
    candidates = [icon for icon in (*icons, *further) if icon.concept not in chosen]
    pixels, target_pixels = render_array(candidates), render_array(targets)
    nearest, residual = near_duplicates(pixels, target_pixels)
    alike = residual < LOOKALIKE_RESIDUAL
    dropped = [
        Lookalike(candidates[row], targets[nearest[row]], round(float(max(0.0, residual[row])), 4))
        for row in alike.nonzero()[0]
    ]
    kept = tuple(icon for icon, out in zip(candidates, alike, strict=True) if not out)
    return Pool(kept, pixels[~alike]), dropped


def corpus(cache: Path = WORK / "corpus.npz") -> Pool:
    """Draw the pretraining corpus once, and read it back after that.

    Args:
        cache: where the drawn pixels are kept.

    Raises:
        IconPackagesMissing: an icon package is absent, or they are not those that the record was made from.
    """
    import numpy as np

    icons, further = read_icons(), read_further_icons()
    content = json.dumps(
        [[(i.style, i.name, i.svg) for i in (*icons, *further)], dict(TARGET_CONCEPTS), LOOKALIKE_RESIDUAL]
    )
    key = hashlib.sha256(content.encode()).hexdigest()
    by_id = {(icon.style, icon.name): icon for icon in (*icons, *further)}
    if cache.is_file():
        with np.load(cache) as stored:
            if str(stored["key"]) == key:
                kept = [by_id[style, name] for style, name in stored["icons"]]
                return Pool(tuple(kept), stored["pixels"])
    pool, _ = divide(icons, further)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial.npz")
    names = np.array([(icon.style, icon.name) for icon in pool.icons])
    np.savez_compressed(partial, key=key, icons=names, pixels=pool.pixels)
    partial.replace(cache)
    return pool


def pixels_to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) in 0..255 -> float32 (n, 3, h, w) in -1..1."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def recorded_corpus(path: Path = MANIFEST) -> list[tuple[str, str, str]]:
    """Read which icons the pretraining saw: style, category and name of each.

    Args:
        path: the committed record.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["style"], row["category"], row["name"]) for row in csv.DictReader(file)]


def write_records(pool: Pool, dropped: Sequence[Lookalike], folder: Path = ROOT) -> None:
    """Record what the corpus holds, and what was left out of it for its looks.

    Args:
        pool: the corpus.
        dropped: as `divide` gives them.
        folder: gets `corpus.csv` and `lookalikes.csv`.
    """
    rows = [f"{icon.style},{icon.category},{icon.name}\n" for icon in pool.icons]
    (folder / MANIFEST.name).write_text("style,category,name\n" + "".join(rows), encoding="utf-8")
    rows = [
        f"{d.icon.style},{d.icon.name},{d.target.style},{d.target.name},{d.residual:.4f}\n" for d in dropped
    ]
    header = "style,name,target_style,target_name,residual\n"
    (folder / LOOKALIKES.name).write_text(header + "".join(rows), encoding="utf-8")


def main() -> None:
    """Draw the corpus, record it, and say how many icons of each style it has."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    icons = read_icons()
    pool, dropped = divide(icons, read_further_icons())
    write_records(pool, dropped)
    targets = target_icons(icons)
    for style in (*STYLES, *FURTHER_STYLES):
        logger.info(
            "%-27s corpus %d, look like a target %d, targets %d",
            style,
            sum(icon.style == style for icon in pool.icons),
            sum(each.icon.style == style for each in dropped),
            sum(icon.style == style for icon in targets),
        )
    logger.info("drew %d icons", len(corpus().pixels))


if __name__ == "__main__":
    main()
