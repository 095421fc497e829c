"""Images that show nothing: of one colour, or all the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.training.errors import EmptyImages

if TYPE_CHECKING:
    from PIL import Image


def looks(images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
    """Facts of images by which those that show nothing are known, a row for each.

    Args:
        images: n of mode RGB.

    Returns:
        `colour`, int64, (n,): 0xRRGGBB where the whole image has it, else -1; `content`, int64, (n,): equal
        for equal images.
    """
    colours, contents = [], []
    for image in images:
        extremes = image.getextrema()
        # One pair a channel.
        lows, highs = np.array(extremes).T
        plain = bool((lows == highs).all())
        red, green, blue = map(int, lows)
        colours.append((red << 16) + (green << 8) + blue if plain else -1)
        contents.append(int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:7], "big"))
    return {"colour": np.array(colours, dtype=np.int64), "content": np.array(contents, dtype=np.int64)}


def check_looks(colour: np.ndarray, content: np.ndarray) -> int:
    """Refuse a sample that shows nothing.

    Args:
        colour: see `looks`.
        content: likewise.

    Returns:
        How many images are of one colour.

    Raises:
        EmptyImages: all are, or all are the same image.
    """
    plain = int((colour >= 0).sum())
    if plain == len(colour):
        what = "black" if not colour.any() else "of one colour"
        raise EmptyImages(
            f"All {len(colour)} sampled images are {what}; nothing was measured. Check the model's VAE, its "
            "scheduler and the precision."
        )
    if len(content) > 1 and len(np.unique(content)) == 1:
        raise EmptyImages(
            f"All {len(content)} sampled images are the same; nothing was measured. Check the model and its "
            "adapter."
        )
    return plain
