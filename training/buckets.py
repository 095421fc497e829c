"""Aspect buckets: shapes of about one area, so that images are trained on nearly whole.

Source:
    Podell et al., "SDXL" (2023), section 2.3 and appendix I: batches of one bucket, shapes of at most the
    square's area in steps of 64 pixels at 1024. Anlatan, "NovelAI improvements on Stable Diffusion" (2022),
    "Aspect ratio bucketing": for each side the longest other side within the area, the square, and the bucket
    of the nearest logarithm of the aspect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

# Width and height, in pixels.
Shape: TypeAlias = tuple[int, int]

# Width over height, or height over width, at most.
WIDEST = 2
# Steps that a square's side is divided into, as 1024 into steps of 64.
STEPS = 16
# Small squares have too few steps for each shape to come near their area.
SMALLEST_AREA = Fraction(3, 4)


def buckets(resolution_px: int, unit_px: int) -> list[Shape]:
    """The shapes that stand for a square: itself, and wider and higher ones of no larger area.

    Args:
        resolution_px: side of the square, a multiple of the unit.
        unit_px: of which all sides are multiples.

    Returns:
        The square first, then others in pairs, wide and high.
    """
    step = unit_px * -(-resolution_px // (STEPS * unit_px))
    area = resolution_px**2
    # By aspect, so that the largest of those at the widest one stays.
    wide: dict[Fraction, Shape] = {}
    for height in range(step, resolution_px, step):
        width = min(area // height // step * step, WIDEST * height)
        if width > height and width * height >= SMALLEST_AREA * area:
            wide[Fraction(width, height)] = width, height
    pairs = (shape for one in reversed(wide.values()) for shape in (one, one[::-1]))
    return [(resolution_px, resolution_px), *pairs]


def nearest(size: Shape, among: Sequence[Shape]) -> Shape:
    """The shape whose aspect is nearest to an image's, by their logarithms; the first of equally near ones.

    Args:
        size: of the image.
        among: at least one shape.
    """
    aspect = math.log(size[0] / size[1])
    return min(among, key=lambda shape: abs(math.log(shape[0] / shape[1]) - aspect))


def kept(size: Shape, shape: Shape) -> tuple[float, float]:
    """Width and height, in an image's own pixels, of its largest part that has a shape's aspect."""
    (width, height), (wide, high) = size, shape
    if width * high > height * wide:
        return height * wide / high, height
    return width, width * high / wide


def grouped(shapes: Sequence[Shape]) -> dict[Shape, list[int]]:
    """Numbers of the images of each shape, in order.

    Args:
        shapes: of each image.
    """
    groups: dict[Shape, list[int]] = {}
    for number, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(number)
    return groups
