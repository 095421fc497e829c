"""What pretraining may see: no concept of a dataset, and nothing that looks like one of their icons."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from matchgraph.minizoo.build.corpus import (
    FURTHER_STYLES,
    LOOKALIKE_RESIDUAL,
    LOOKALIKES,
    TARGET_CONCEPTS,
    near_duplicates,
    read_further_icons,
    recorded_corpus,
    target_concepts,
    target_icons,
)
from matchgraph.minizoo.build.datasets import DATASETS, ICON_SETS
from matchgraph.minizoo.build.icons import PACKAGES, STYLES, Icon, name_hash, read_icons, render_array

needs_packages = pytest.mark.skipif(
    not all((PACKAGES / style).is_dir() for style in (*STYLES, *FURTHER_STYLES)),
    reason="needs the icon packages in minizoo/work (see minizoo/LICENCES.md)",
)


def dataset_icons() -> list[Icon]:
    return [
        Icon(which.style, which.category, json.loads(line)["file_name"].removesuffix(".png"), "")
        for which in ICON_SETS
        for line in (DATASETS / which.name / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def dataset_pixels() -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(path).convert("RGB")) for path in sorted(DATASETS.glob("*/*.png"))]
    )


def lookalikes() -> list[dict[str, str]]:
    with LOOKALIKES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def some_shapes() -> np.ndarray:
    """A bar on the left, a disc and a checkerboard, dark on white."""
    images = np.full((3, 32, 32, 3), 255, dtype=np.uint8)
    rows, columns = np.indices((32, 32))
    images[0, 4:28, 3:9] = (200, 30, 30)
    images[1][(rows - 16) ** 2 + (columns - 16) ** 2 < 100] = (20, 20, 160)
    images[2][(rows // 8 + columns // 8) % 2 == 0] = 0
    return images


def test_no_concept_of_a_dataset_is_in_the_corpus_in_any_style() -> None:
    seen = [Icon(style, category, name, "") for style, category, name in recorded_corpus()]
    assert {icon.style for icon in seen} == {*STYLES, *FURTHER_STYLES}
    shown = dataset_icons()
    assert len(shown) > 3000
    assert not {icon.concept for icon in seen} & {icon.concept for icon in shown}
    assert not {icon.name for icon in seen} & {icon.name for icon in shown}


def test_what_looks_like_a_target_is_left_out() -> None:
    seen = {(style, name) for style, _, name in recorded_corpus()}
    dropped = lookalikes()
    assert len(dropped) > 100
    assert not seen & {(row["style"], row["name"]) for row in dropped}
    assert all(float(row["residual"]) < LOOKALIKE_RESIDUAL for row in dropped)


def test_the_same_picture_mirrored_or_not_is_a_near_duplicate_and_another_is_none() -> None:
    shapes = some_shapes()
    nearest, residual = near_duplicates(shapes[:, :, ::-1], shapes)
    assert nearest.tolist() == [0, 1, 2]
    assert residual == pytest.approx([0, 0, 0], abs=1e-5)
    _, apart = near_duplicates(shapes[:1], shapes[1:])
    assert apart[0] > 0.5
    recoloured = shapes[1:2].copy()
    recoloured[recoloured[..., 2] < 200] = 0
    assert LOOKALIKE_RESIDUAL < near_duplicates(recoloured, shapes)[1][0] < 1


def test_a_fainter_copy_is_judged_by_the_stronger_of_the_two() -> None:
    shapes = some_shapes()[1:2]
    faint = (255 - (255 - shapes.astype(int)) // 4).astype(np.uint8)
    there, back = near_duplicates(faint, shapes)[1], near_duplicates(shapes, faint)[1]
    assert there == pytest.approx(back)
    assert there[0] == pytest.approx(0.75**2, abs=0.02)


def test_targets_are_the_concepts_whose_names_hash_lowest_in_every_style() -> None:
    icons = [
        Icon(style, category, f"{category}-{n}", "")
        for style in ("noto", "twemoji")
        for category in TARGET_CONCEPTS
        for n in range(140)
    ]
    chosen = target_concepts(icons)
    assert len(chosen) == sum(TARGET_CONCEPTS.values())
    food = sorted({icon.name for icon in icons if icon.category == "food"}, key=name_hash)
    assert set(food[:90]) <= chosen
    assert not set(food[90:]) & chosen
    assert {icon.style for icon in target_icons(icons)} == {"noto", "twemoji"}
    assert {icon.concept for icon in target_icons(icons)} == chosen


@needs_packages
def test_the_record_is_all_that_is_neither_a_target_nor_like_one() -> None:
    icons = (*read_icons(), *read_further_icons())
    chosen = target_concepts(read_icons())
    candidates = {(icon.style, icon.name) for icon in icons if icon.concept not in chosen}
    seen = {(style, name) for style, _, name in recorded_corpus()}
    dropped = {(row["style"], row["name"]) for row in lookalikes()}
    assert candidates == seen | dropped
    assert {(i.style, i.name) for i in target_icons(icons)} >= {(i.style, i.name) for i in dataset_icons()}


@needs_packages
def test_drawn_again_the_corpus_is_unlike_the_datasets_and_what_was_left_out_is_like_them() -> None:
    pytest.importorskip("resvg_py", reason="needs resvg-py (the minizoo extra)")
    drawings = {(icon.style, icon.name): icon for icon in (*read_icons(), *read_further_icons())}
    seen = [drawings[style, name] for style, _, name in recorded_corpus()[::40]]
    _, residual = near_duplicates(render_array(seen), dataset_pixels())
    assert residual.min() > 0.9 * LOOKALIKE_RESIDUAL  # another release of the renderer may move a shade
    for row in lookalikes()[::40]:
        pair = [drawings[row["style"], row["name"]], drawings[row["target_style"], row["target_name"]]]
        pixels = render_array(pair)
        _, left = near_duplicates(pixels[:1], pixels[1:])
        assert left[0] == pytest.approx(float(row["residual"]), abs=0.01)
