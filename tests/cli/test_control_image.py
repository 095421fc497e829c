"""`matchgraph collaborate control-image`: an image becomes its edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.cli.main import run

COMMAND = ("collaborate", "control-image")


def picture(path: Path) -> Path:
    pixels = np.zeros((40, 48, 3), dtype=np.uint8)
    pixels[10:30, 10:30] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_becomes_its_edges(tmp_path, capsys):
    source, out = picture(tmp_path / "in.png"), tmp_path / "out.png"
    assert run([*COMMAND, str(source), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "kind": "canny",
        "width_px": 48,
        "height_px": 40,
    }
    with Image.open(out) as edges:
        pixels = np.asarray(edges)
    assert set(np.unique(pixels)) == {0, 255}
    assert not pixels[13:27, 13:27].any()
    assert run([*COMMAND, str(source), "--out", str(out), "--resolution", "32"]) == 0
    assert "canny image of 32x32 pixels" in capsys.readouterr().out
    with Image.open(out) as edges:
        assert edges.size == (32, 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_thresholds_reach_canny(tmp_path):
    source, out = picture(tmp_path / "in.png"), tmp_path / "out.png"
    Image.open(source).point(lambda value: value // 10).save(source)
    for thresholds, found in ((("--low", "100"), False), (("--low", "10", "--high", "20"), True)):
        assert run([*COMMAND, str(source), "--out", str(out), *thresholds]) == 0
        assert np.asarray(Image.open(out)).any() == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "segmentation"), "--segmenter and --kind segmentation"),
        (("--low", "300"), "0 <= low <= high"),
        (("--kind", "depth"), "depth"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, arguments, message):
    source = picture(tmp_path / "in.png")
    code = run([*COMMAND, str(source), "--out", str(tmp_path / "out.png"), *arguments])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_missing_folder_is_named(tmp_path, capsys):
    source = picture(tmp_path / "in.png")
    assert run([*COMMAND, str(source), "--out", str(tmp_path / "no" / "out.png")]) == 2
    assert "there is no folder" in capsys.readouterr().err
