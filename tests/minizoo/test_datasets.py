"""The thirty-two committed datasets: their content, their split, their licences, and drawing them again."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.minizoo.build.corpus import target_icons
from matchgraph.minizoo.build.datasets import (
    DATASETS,
    ICON_SETS,
    LICENCES_FILE,
    STYLE_LICENCES,
    build_datasets,
    content_hash,
    content_hashes,
    icons_of,
    recorded_hashes,
    validation_concepts,
    write_dataset,
)
from matchgraph.minizoo.build.errors import DatasetsDiffer
from matchgraph.minizoo.build.icons import PACKAGES, STYLES, Icon, read_icons
from matchgraph.training.images import list_captioned_images

each_set = pytest.mark.parametrize("which", ICON_SETS, ids=lambda which: which.name)
needs_packages = pytest.mark.skipif(
    not all((PACKAGES / style).is_dir() for style in STYLES),
    reason="needs the icon packages in minizoo/work (see minizoo/LICENCES.md)",
)


def rows_of(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATASETS / name / "metadata.jsonl").read_text("utf-8").splitlines()]


def test_the_contents_are_those_whose_hashes_were_recorded() -> None:
    assert content_hashes() == recorded_hashes()
    assert sorted(recorded_hashes()) == sorted(which.name for which in ICON_SETS)


def test_a_hash_is_of_pixels_captions_and_split_and_not_of_their_compression(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)

    def written(pixels: np.ndarray, level: int = 1, **row: str) -> str:
        Image.fromarray(pixels).save(folder / "a.png", compress_level=level)
        row = {"file_name": "a.png", "text": "a thing", "split": "train"} | row
        (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        return content_hash(folder)

    first = written(pixels)
    assert written(pixels, level=9) == first
    changed = pixels.copy()
    changed[0, 0, 0] += 1
    others = {written(changed), written(pixels, text="other"), written(pixels, split="validation"), first}
    assert len(others) == 4


def test_there_are_thirty_two_of_every_style_with_every_category() -> None:
    assert len({which.name for which in ICON_SETS}) == 32
    for style in STYLES:
        categories = {which.category for which in ICON_SETS if which.style == style} - {"people"}
        assert categories == {"animals", "food", "objects", "smileys", "symbols", "travel"}


@each_set
def test_the_product_reads_a_dataset_with_a_caption_for_each_image(which) -> None:
    rows, images = rows_of(which.name), list_captioned_images(DATASETS / which.name)
    assert 85 <= len(rows) <= 400
    assert [(image.path.name, image.caption) for image in images] == [
        (row["file_name"], row["text"]) for row in rows
    ]
    for row in rows:
        assert row["text"].startswith(Path(row["file_name"]).stem.replace("-", " ") + ", ")
    with Image.open(images[0].path) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


@each_set
def test_a_fifth_of_a_dataset_is_for_validation(which) -> None:
    splits = [row["split"] for row in rows_of(which.name)]
    assert set(splits) == {"train", "validation"}
    assert 0.15 < splits.count("validation") / len(splits) < 0.25


def test_a_concept_is_on_the_same_side_in_every_style() -> None:
    sides: dict[str, set[str]] = {}
    for which in ICON_SETS:
        for row in rows_of(which.name):
            icon = Icon(which.style, which.category, row["file_name"].removesuffix(".png"), "")
            sides.setdefault(icon.concept, set()).add(row["split"])
    assert len(sides) > 600
    assert {len(found) for found in sides.values()} == {1}


def test_each_dataset_names_its_package_its_author_and_its_licence() -> None:
    with (DATASETS / LICENCES_FILE).open(encoding="utf-8", newline="") as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(which.name for which in ICON_SETS)
    for which in ICON_SETS:
        row, licence = rows[which.name], STYLE_LICENCES[which.style]
        assert row["package"] == f"@iconify-json/{which.style}"
        assert (row["author"], row["licence"]) == (licence.author, licence.spdx)


@needs_packages
def test_a_licence_is_the_one_its_package_states() -> None:
    for style, licence in STYLE_LICENCES.items():
        stated = json.loads((PACKAGES / style / "info.json").read_text(encoding="utf-8"))
        assert licence.spdx == stated["license"]["spdx"]


def test_the_images_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATASETS.rglob("*") if path.is_file()) < 6 * 2**20


@needs_packages
@pytest.mark.parametrize("which", ICON_SETS[::9], ids=lambda which: which.name)
def test_a_dataset_drawn_again_has_the_recorded_content(which, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="needs resvg-py (the minizoo extra)")
    targets = target_icons(read_icons())
    write_dataset(icons_of(which, targets), validation_concepts(targets), tmp_path / which.name)
    assert content_hash(tmp_path / which.name) == recorded_hashes()[which.name]


@needs_packages
def test_datasets_are_not_drawn_over_what_is_there(tmp_path: Path) -> None:
    shutil.copytree(DATASETS / ICON_SETS[0].name, tmp_path / ICON_SETS[0].name)
    with pytest.raises(DatasetsDiffer, match="is there already"):
        build_datasets(tmp_path)
