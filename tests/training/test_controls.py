"""Control images: known edges of a known picture, and maps in the colours of their labels."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.training.errors import (
    InvalidConfig,
    MissingLibrary,
    ScorerUnavailable,
    UnsafeWeights,
)
from matchgraph.training.sampling.controls import Segmenter, canny
from matchgraph.training.sampling.palettes import ADE20K_LABELS, palette
from tests.training import tiny


def square_picture(inside: int = 255) -> Image.Image:
    """A square of 16 pixels, from 8 to 23, on black."""
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[8:24, 8:24] = inside
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def segmenter_folder(tmp_path_factory):
    return tiny.save_segmenter(tmp_path_factory.mktemp("segmenter"))


def test_canny_outlines_a_square():
    edges = canny(square_picture())
    assert edges.mode == "RGB"
    assert edges.size == (32, 32)
    pixels = np.asarray(edges)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels == pixels[:, :, :1]).all()
    rows, columns = np.nonzero(pixels[:, :, 0])
    # Each side is there, and everything lies on or beside the border between black and white.
    assert {rows.min(), columns.min()} <= {7, 8}
    assert {rows.max(), columns.max()} <= {23, 24}
    inside = pixels[10:22, 10:22]
    assert not inside.any()
    assert 50 <= len(rows) <= 64


def test_canny_sees_what_its_thresholds_let_it():
    faint = square_picture(20)
    assert not np.asarray(canny(faint, 100, 200)).any()
    assert np.asarray(canny(faint, 20, 40)).any()


@pytest.mark.parametrize(("low", "high"), [(200, 100), (-1, 100), (0, float("inf")), (float("nan"), 10)])
def test_canny_refuses_thresholds_that_make_no_sense(low, high):
    with pytest.raises(InvalidConfig, match="0 <= low <= high"):
        canny(square_picture(), low, high)


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingLibrary, match=r"matchgraph\[control\]"):
        canny(square_picture())


def test_a_map_has_its_palettes_colour_where_the_model_has_that_label(segmenter_folder):
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((60, 40))
    drawn = Segmenter(segmenter_folder, "cpu").draw(picture)
    assert drawn.mode == "RGB"
    assert drawn.size == (60, 40)
    # transformers' own way to labels.
    processor = SegformerImageProcessor.from_pretrained(segmenter_folder)
    model = SegformerForSemanticSegmentation.from_pretrained(segmenter_folder).eval()
    with torch.no_grad():
        outputs = model(**processor(images=picture, return_tensors="pt"))
    labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[(40, 60)])[0].numpy()
    assert len(np.unique(labels)) > 1
    assert (np.asarray(drawn) == palette(5)[labels]).all()


def test_150_labels_get_the_colours_of_ade20k(tmp_path):
    folder = tiny.save_segmenter(tmp_path / "ade", labels=ADE20K_LABELS)
    assert Segmenter(folder, "cpu").palette[[0, 2, 149]].tolist() == [
        [120, 120, 120],  # wall
        [6, 230, 230],  # sky
        [92, 0, 255],  # flag
    ]


def test_a_colour_depends_on_its_label_alone():
    few, many = palette(7), palette(400)
    assert (many[:7] == few).all()
    assert len(np.unique(many, axis=0)) == 400
    with pytest.raises(ScorerUnavailable, match="4096"):
        palette(5000)


def test_equal_models_have_equal_hashes(segmenter_folder, tmp_path):
    other = tiny.save_segmenter(tmp_path / "other", seed=1)
    first = Segmenter(segmenter_folder, "cpu").hash
    assert first == Segmenter(segmenter_folder, "cpu").hash
    assert first != Segmenter(other, "cpu").hash


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part_is_refused(segmenter_folder, tmp_path, name):
    folder = tmp_path / "segmenter"
    shutil.copytree(segmenter_folder, folder)
    (folder / name).unlink()
    with pytest.raises(ScorerUnavailable, match=str(folder)):
        Segmenter(folder, "cpu")


def test_pickled_weights_alone_are_refused(segmenter_folder, tmp_path):
    folder = tmp_path / "segmenter"
    shutil.copytree(segmenter_folder, folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert Segmenter(folder, "cpu").hash == Segmenter(segmenter_folder, "cpu").hash
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeWeights, match="pickled"):
        Segmenter(folder, "cpu")


def test_weights_that_lack_a_layer_are_refused(segmenter_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "segmenter"
    shutil.copytree(segmenter_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["decode_head.classifier.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScorerUnavailable, match=r"classifier\.bias"):
        Segmenter(folder, "cpu")
