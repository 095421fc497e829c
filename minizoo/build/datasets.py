"""The thirty-two captioned image datasets: style x category, of concepts that no pretraining saw.

`python -m matchgraph.minizoo.build.datasets` draws them from the icon packages into `minizoo/datasets`;
`--check` draws them and compares with the committed content hashes. Layout: Hugging Face imagefolder,
`<style>-<category>/` with PNGs and `metadata.jsonl` of `file_name`, `text` and `split`."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.corpus import TARGET_CONCEPTS, target_icons
from matchgraph.minizoo.build.errors import DatasetsDiffer
from matchgraph.minizoo.build.icons import PACKAGE_VERSIONS, Icon, name_hash, read_icons, render_array

logger = logging.getLogger(__name__)

DATASETS = ROOT / "datasets"
HASHES_FILE = "CONTENT"
LICENCES_FILE = "licences.csv"
# Of each category's concepts, the same ones in every style.
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class StyleLicence:
    """Whose drawings a style's datasets are, and under which licence.

    Attributes:
        label: the style in the names of datasets.
        author: whom to name.
        spdx: the licence, as SPDX calls it.
        url: its text.
    """

    label: str
    author: str
    spdx: str
    url: str


STYLE_LICENCES: Mapping[str, StyleLicence] = {
    "noto": StyleLicence("noto", "Google Inc.", "Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "twemoji": StyleLicence(
        "twemoji",
        "Twitter, Inc. and other contributors",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
    ),
    "openmoji": StyleLicence(
        "openmoji",
        "OpenMoji, the open-source emoji and icon project",
        "CC-BY-SA-4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "fluent-emoji": StyleLicence(
        "fluent-3d", "Microsoft Corporation", "MIT", "https://opensource.org/license/mit"
    ),
    "fluent-emoji-flat": StyleLicence(
        "fluent-flat", "Microsoft Corporation", "MIT", "https://opensource.org/license/mit"
    ),
}
# People in two styles only, one of lines and one of light: the icons of one person differ little.
PEOPLE_STYLES = ("openmoji", "fluent-emoji")


@dataclass(frozen=True)
class IconSet:
    """One dataset: the target icons of a style and a category."""

    style: str
    category: str

    @property
    def name(self) -> str:
        """Folder name and dataset id."""
        return f"{STYLE_LICENCES[self.style].label}-{self.category}"


ICON_SETS = tuple(
    IconSet(style, category)
    for style in STYLE_LICENCES
    for category in TARGET_CONCEPTS
    if category != "people" or style in PEOPLE_STYLES
)


def validation_concepts(targets: Iterable[Icon]) -> frozenset[str]:
    """The concepts that are for validation: a fifth of each category's, in all styles alike.

    Args:
        targets: the target icons of all styles.
    """
    by_category: dict[str, set[str]] = {}
    for icon in targets:
        by_category.setdefault(icon.category, set()).add(icon.concept)
    # Another order than the one that made them targets.
    return frozenset(
        concept
        for concepts in by_category.values()
        for concept in sorted(concepts, key=lambda each: name_hash(f"validation {each}"))[
            : round(VALIDATION_SHARE * len(concepts))
        ]
    )


def icons_of(which: IconSet, icons: Iterable[Icon]) -> list[Icon]:
    """A dataset's icons in the order given.

    Args:
        which: the dataset.
        icons: target icons.
    """
    return [icon for icon in icons if icon.style == which.style and icon.category == which.category]


def write_dataset(icons: list[Icon], validation: frozenset[str], folder: Path) -> None:
    """Draw one dataset.

    Args:
        icons: its icons.
        validation: concepts that are for validation.
        folder: must not exist.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    rows = []
    for icon, pixels in zip(icons, render_array(icons), strict=True):
        Image.fromarray(pixels).save(folder / f"{icon.name}.png", optimize=True)
        split = "validation" if icon.concept in validation else "train"
        row = {"file_name": f"{icon.name}.png", "text": icon.caption, "split": split}
        rows.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")


def content_hash(folder: Path) -> str:
    """SHA-256 over a dataset's rows and decoded pixels, whatever compressed the files.

    Args:
        folder: a dataset.
    """
    from PIL import Image

    total = hashlib.sha256()
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(folder / row["file_name"]) as image:
            pixels = image.convert("RGB")
        total.update(json.dumps([row["file_name"], row["text"], row["split"], pixels.size]).encode())
        total.update(pixels.tobytes())
    return total.hexdigest()


def content_hashes(root: Path = DATASETS) -> dict[str, str]:
    """Hash every dataset in a folder.

    Args:
        root: holds the dataset folders.

    Returns:
        Name -> `content_hash`, sorted by name.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return {folder.name: content_hash(folder) for folder in folders}


def recorded_hashes(path: Path = DATASETS / HASHES_FILE) -> dict[str, str]:
    """Read the committed content hashes: lines of hash, two spaces, name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def build_datasets(root: Path = DATASETS) -> dict[str, str]:
    """Draw all datasets, and record their hashes and licences.

    Args:
        root: the folder that will hold them; it may hold none of them yet.

    Returns:
        Name -> content hash.

    Raises:
        DatasetsDiffer: a dataset is there already.
    """
    targets = target_icons(read_icons())
    validation = validation_concepts(targets)
    for which in ICON_SETS:
        if (root / which.name).exists():
            raise DatasetsDiffer(f"{root / which.name} is there already: take it away to draw it again")
        members = icons_of(which, targets)
        write_dataset(members, validation, root / which.name)
        held = sum(icon.concept in validation for icon in members)
        logger.info("%s: %d images, %d for validation", which.name, len(members), held)
    hashes = content_hashes(root)
    lines = [f"{digest}  {name}\n" for name, digest in hashes.items()]
    (root / HASHES_FILE).write_text("".join(lines), encoding="utf-8")
    with (root / LICENCES_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["dataset", "package", "version", "author", "licence", "licence_text"])
        for which in sorted(ICON_SETS, key=lambda which: which.name):
            licence = STYLE_LICENCES[which.style]
            package = f"@iconify-json/{which.style}"
            version = PACKAGE_VERSIONS[which.style]
            writer.writerow([which.name, package, version, licence.author, licence.spdx, licence.url])
    return hashes


def check_datasets(root: Path, recorded: Mapping[str, str]) -> None:
    """Draw the datasets again and compare them with a record.

    Args:
        root: an empty folder to draw into.
        recorded: name -> content hash.

    Raises:
        DatasetsDiffer: one is another, or is missing from one side.
    """
    drawn = build_datasets(root)
    different = sorted(
        name for name in drawn.keys() | recorded.keys() if drawn.get(name) != recorded.get(name)
    )
    if different:
        raise DatasetsDiffer(
            f"{len(different)} of {len(recorded)} datasets are not those recorded, {different[0]} first: "
            "compare the versions of the icon packages and of resvg-py with minizoo/LICENCES.md"
        )


def main() -> None:
    """Draw the datasets, or check that they can be drawn again."""
    parser = argparse.ArgumentParser(description="Draw the thirty-two datasets from the icon packages.")
    parser.add_argument("--output", type=Path, default=DATASETS, help="folder to write")
    parser.add_argument("--check", action="store_true", help="draw into --output and compare with the record")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.check:
        check_datasets(arguments.output, recorded_hashes())
        logger.info("all %d datasets are those recorded", len(ICON_SETS))
    else:
        build_datasets(arguments.output)


if __name__ == "__main__":
    main()
