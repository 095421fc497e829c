"""Icons: what they are called and how they are drawn."""

from __future__ import annotations

import pytest

from matchgraph.minizoo.build.errors import IconPackagesMissing
from matchgraph.minizoo.build.icons import Icon, read_icons, render

RED_SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="4" viewBox="0 0 8 4">'
    '<rect width="8" height="4" fill="#f00"/></svg>'
)


def test_a_concept_is_the_same_whoever_is_shown() -> None:
    assert Icon("noto", "people", "woman-artist", "").concept == Icon("noto", "people", "artist", "").concept
    assert Icon("noto", "people", "woman", "").concept == "woman"
    assert Icon("noto", "objects", "woman-hat", "").concept == "woman-hat"


def test_a_caption_is_the_name_and_the_category() -> None:
    icon = Icon("noto", "food", "red-apple", "")
    assert icon.caption == "red apple, food and drink"
    assert icon.styled_caption == "noto style, red apple, food and drink"


def test_a_wide_icon_is_centred_over_white() -> None:
    pytest.importorskip("resvg_py", reason="needs resvg-py (the minizoo extra)")
    image = render(Icon("noto", "objects", "bar", RED_SQUARE), 16)
    assert image.size == (16, 16)
    assert image.getpixel((8, 8)) == (255, 0, 0)
    assert image.getpixel((8, 1)) == (255, 255, 255)
    assert image.getpixel((8, 14)) == (255, 255, 255)


def test_a_missing_package_is_named(tmp_path) -> None:
    with pytest.raises(IconPackagesMissing, match=r"@iconify-json/noto 1\.2\.9"):
        read_icons(tmp_path)
