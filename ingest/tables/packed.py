"""Datasets whose images lie in Parquet, Arrow or tar files: unpacked once into an image folder.

Hugging Face `datasets` reads the files. What comes out is an ordinary image folder with `metadata.jsonl`, so
all that works on images, their hashes and their captions stays one thing.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.tables.fingerprints import fingerprint_files
from matchgraph.training.captions import CAPTION_COLUMNS, FILE_COLUMN, METADATA_FILES, SPLIT_COLUMN, SPLITS
from matchgraph.training.dataset_files import FORMATS, SUFFIXES, is_junk, is_split
from matchgraph.training.errors import BadDataset, MissingLibrary, first_line
from matchgraph.training.files import SCRATCH_PREFIX

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

UNPACKED_FOLDER = "datasets"
# File suffix -> name of the reader in `datasets`, and of the format.
READERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
TITLES = {".parquet": "Parquet", ".arrow": "Arrow", ".tar": "WebDataset"}
# `save_to_disk` writes one of these: of a dataset, or of one with splits.
SAVED = ("state.json", "dataset_dict.json")
# Folders of a packed dataset, beside those of its splits: the hub's layout.
INNER_FOLDER = "data"
IMAGE_COLUMNS = ("image", "jpg", "png", "jpeg", "webp")
# WebDataset names a column by the suffix of its file.
RENAMED = {"txt": "text"}
# Raised where the same files give another folder.
VERSION = 2


def packed_files(place: Path) -> list[Path]:
    """The files that a dataset's images are packed in, sorted by path.

    Args:
        place: such a file, or a folder with such files at its top, in `data` or in a folder for each split.

    Returns:
        Files of one kind: the first of `READERS` that is there; none of a plain image folder.
    """
    if place.is_file():
        return [place] if place.suffix.lower() in READERS else []
    if not place.is_dir():
        return []
    inner = [each for each in place.iterdir() if each.is_dir() and _may_hold(each.name)]
    found = (file for folder in (place, *inner) for file in folder.iterdir() if not is_junk(file.name))
    files = sorted(file for file in found if file.is_file())
    for suffix in READERS:
        if of_kind := [file for file in files if file.suffix.lower() == suffix]:
            return of_kind
    return []


def format_of(files: list[Path]) -> str:
    """What the format of packed files is called."""
    return TITLES[files[0].suffix.lower()]


def _may_hold(name: str) -> bool:
    return name == INNER_FOLDER or is_split(name)


def unpack(place: Path, name: str, home: Path) -> Path:
    """Unpack a dataset into an image folder of the data folder, unless that was done before.

    Args:
        place: see `packed_files`.
        name: what the dataset is called.
        home: the data folder.

    Returns:
        The image folder. Text columns are columns of its metadata; other columns are left out.

    Raises:
        BadDataset: it cannot be read, has no column of images, a row without an image's bytes, or a split of
            unknown name.
        MissingLibrary: `datasets` is not installed.
    """
    files = packed_files(place)
    root = place.parent if place.is_file() else place
    digest = fingerprint_files(root, files)[:8]
    target = home / UNPACKED_FOLDER / f"{name.replace('/', '--')}-{digest}-{VERSION}"
    if target.is_dir():
        return target
    scratch = target.with_name(f"{SCRATCH_PREFIX}{secrets.token_hex(6)}")
    try:
        with _read(place, files) as splits:
            _write(splits, scratch, place)
        if not target.exists():
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


@contextmanager
def _read(place: Path, files: list[Path]) -> Iterator[Mapping[str, Dataset | IterableDataset]]:
    """Open a dataset, by the names of its splits; what fails inside is an error of the dataset."""
    try:
        import datasets
    except ImportError as error:
        raise MissingLibrary(
            f"{place} is packed ({format_of(files)}), and reading it needs datasets: "
            "pip install 'matchgraph[datasets]'."
        ) from error
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    # The library would tell its makers of each use.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    verbosity = datasets.logging.get_verbosity()
    # What it logs is in its exceptions too.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        if any((place / name).is_file() for name in SAVED):
            saved = datasets.load_from_disk(str(place))
            yield saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            return
        by_split: dict[str, list[str]] = {}
        for file in files:
            split = _split_of(file.relative_to(place)) if place.is_dir() else "train"
            by_split.setdefault(split, []).append(str(file))
        # Streamed, or all of it would be copied into the library's cache first.
        yield datasets.load_dataset(READERS[files[0].suffix.lower()], data_files=by_split, streaming=True)
    except BadDataset:
        raise
    except Exception as error:  # those of three file formats and of the library share no base
        reason = first_line(error).rstrip(".")
        raise BadDataset(
            f"{place} cannot be read as {format_of(files)}: {reason}; fetch or save it again."
        ) from error
    finally:
        datasets.logging.set_verbosity(verbosity)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts


def _split_of(file: Path) -> str:
    """The split that a file's name or folder says (`data/test-00000-of-00001.parquet`); else train."""
    words = re.split(r"[^a-z]+", file.as_posix().lower())
    return next((word for word in words if word in SPLITS), "train")


def _write(splits: Mapping[str, Dataset | IterableDataset], target: Path, place: Path) -> None:
    target.mkdir(parents=True)
    with (target / METADATA_FILES[0]).open("w", encoding="utf-8") as metadata:
        for split, rows in splits.items():
            if split.lower() not in SPLITS:
                raise BadDataset(f"{place} has a split {split!r}; name its splits {', '.join(SPLITS)}.")
            for number, row in enumerate(_undecoded(rows, place)):
                image, texts = row
                name = f"{split}/{number:08d}{_suffix(image, f'{place}, row {number} of {split}')}"
                (target / split).mkdir(exist_ok=True)
                (target / name).write_bytes(image)
                line = {**texts, FILE_COLUMN: name, SPLIT_COLUMN: split}
                metadata.write(json.dumps(line, ensure_ascii=True) + "\n")


def _undecoded(rows: Dataset | IterableDataset, place: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The bytes of each row's image, and the row's texts."""
    from datasets import Image

    features = rows.features or rows._resolve_features().features
    # A WebDataset's `.caption` files come as bytes.
    images = [name for name, kind in features.items() if _is_image(kind) and name not in CAPTION_COLUMNS]
    if not images:
        raise BadDataset(f"{place} has no column of images; its columns are {', '.join(features)}.")
    column = next((name for name in IMAGE_COLUMNS if name in images), images[0])
    if isinstance(features[column], Image):
        rows = rows.cast_column(column, Image(decode=False))
    for row in rows.select_columns([name for name in features if name == column or name not in images]):
        image = row.pop(column)
        image = image.get("bytes") if isinstance(image, Mapping) else image
        # A path instead could lead to any file of this machine.
        yield (
            image or b"",
            {name: value for name, value in _texts(row).items() if name not in (FILE_COLUMN, SPLIT_COLUMN)},
        )


def _is_image(kind: Any) -> bool:
    """Whether a column's type is that of images, as `datasets` keeps them or as other writers do."""
    from datasets import Image, Value

    return isinstance(kind, Image) or kind == Value("binary") or (isinstance(kind, dict) and "bytes" in kind)


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The text columns of a row: strings and lists of strings, also those of a WebDataset's JSON."""
    texts: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("__"):  # WebDataset's own
            continue
        if isinstance(value, bytes):
            value = value.decode("utf-8-sig", errors="replace")
        if isinstance(value, Mapping):
            texts = {**_texts(value), **texts}
        elif isinstance(value, str) or (
            isinstance(value, list) and value and all(isinstance(each, str) for each in value)
        ):
            texts[RENAMED.get(name, name)] = value
    return texts


def _suffix(image: bytes, where: str) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            suffix = f".{str(opened.format).lower()}"
            # Readers go by content; the name only has to be an image's.
            return suffix if suffix in SUFFIXES else ".jpg"
    except (OSError, ValueError):
        what = "holds no image of a format that is read" if image else "holds no bytes of an image"
        raise BadDataset(f"{where} {what}; save the dataset with its images in it.") from None
