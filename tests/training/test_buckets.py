"""Aspect buckets: their shapes, and which an image gets."""

from __future__ import annotations

import pytest

from matchgraph.training.buckets import buckets, grouped, kept, nearest

# Of SDXL's list, its paper's appendix I, the largest shapes of each height between 1:2 and 2:1.
SDXL = [(1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1344, 768), (1408, 704)]


def test_the_shapes_for_1024_pixels_are_sdxls():
    for unit in (8, 16, 64):
        found = buckets(1024, unit)
        assert found[:1] + found[1::2] == SDXL
        assert found[2::2] == [(height, width) for width, height in SDXL[1:]]
    assert buckets(512, 8) == [(width // 2, height // 2) for width, height in buckets(1024, 8)]


@pytest.mark.parametrize(
    ("resolution", "unit"),
    [(32, 8), (40, 8), (48, 16), (64, 16), (256, 32), (512, 16), (768, 32), (1000, 8), (1328, 16)],
)
def test_shapes_are_made_of_units_and_take_no_more_than_the_square(resolution, unit):
    found = buckets(resolution, unit)
    assert found[0] == (resolution, resolution)
    assert len({width / height for width, height in found}) == len(found) > 1
    for width, height in found:
        assert width % unit == height % unit == 0
        assert 0.75 * resolution**2 <= width * height <= resolution**2
        assert 0.5 <= width / height <= 2
        assert (height, width) in found


def test_where_there_is_no_room_for_others_only_the_square_is_left():
    assert buckets(8, 8) == [(8, 8)]
    assert buckets(16, 8) == [(16, 16)]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((50, 50), (1024, 1024)),
        ((4000, 3000), (1152, 896)),
        ((3000, 4000), (896, 1152)),
        ((1920, 1080), (1344, 768)),
        # Panoramas and banners.
        ((1000, 100), (1408, 704)),
        ((100, 1000), (704, 1408)),
        # Between 1 and 1.133 the middle is 1.0646 by logarithms, where that of the numbers is 1.0667.
        ((1064, 1000), (1024, 1024)),
        ((1066, 1000), (1088, 960)),
    ],
)
def test_an_image_gets_the_shape_of_the_nearest_aspect(size, shape):
    assert nearest(size, buckets(1024, 8)) == shape


def test_of_equally_near_shapes_the_first_is_taken():
    assert nearest((2, 1), [(4, 4), (4, 1)]) == (4, 4)
    assert nearest((2, 1), [(4, 1), (4, 4)]) == (4, 1)


def test_what_is_kept_has_the_shapes_aspect_and_one_whole_side():
    assert kept((100, 50), (40, 40)) == (50, 50)
    assert kept((100, 50), (40, 10)) == (100, 25)
    assert kept((50, 100), (24, 40)) == (50, pytest.approx(250 / 3))
    assert kept((1000, 100), (64, 32)) == (200, 100)


def test_images_are_grouped_in_order():
    assert grouped([(1, 1), (2, 1), (1, 1)]) == {(1, 1): [0, 2], (2, 1): [1]}
