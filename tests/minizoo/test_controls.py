"""The images that the zoo's ControlNet learns from and is measured on never meet; edges agree as counted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.controls import edge_agreement, gather, held_out
from matchgraph.training.images import list_captioned_images
from matchgraph.training.pipelines.encoding import dataset_hash


@pytest.mark.slow
def test_all_datasets_come_together_with_their_splits(tmp_path):
    images = list_captioned_images(gather(tmp_path / "images"))
    datasets = sorted(path for path in (ROOT / "datasets").iterdir() if path.is_dir())
    expected = [image for dataset in datasets for image in list_captioned_images(dataset)]
    facts = [(image.path.parent.name, image.path.name, image.caption, image.held_out) for image in images]
    assert facts == [
        (image.path.parent.name, image.path.name, image.caption, image.held_out) for image in expected
    ]
    assert dataset_hash(images) == dataset_hash(expected)


def test_measuring_takes_held_out_images_of_every_dataset():
    images = held_out(2)
    assert len(images) == 64
    assert all(image.held_out for image in images)
    assert len({image.path.parent for image in images}) == 32


def lines(*columns: int) -> Image.Image:
    """White columns on black."""
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    pixels[:, list(columns)] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("asked", "drawn", "agreement"),
    [
        ((5,), (5,), 1.0),
        ((5,), (6,), 1.0),
        ((5,), (7,), 0.0),
        ((5, 15), (5,), 2 / 3),
        ((5,), (5, 15), 2 / 3),
        ((5, 15), (4, 10), 0.5),
        ((), (), 1.0),
        ((), (5,), 0.0),
        ((5,), (), 0.0),
    ],
)
def test_edges_agree_as_counted_by_hand(asked, drawn, agreement):
    assert edge_agreement(lines(*asked), lines(*drawn)) == pytest.approx(agreement)
