"""What a file is, by its first bytes and then by its name, for errors that name the true cause."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 600
# Magic bytes at an offset -> the kind; the first that matches counts.
MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "excel"),
    (0, b"\x1f\x8b", "compressed"),
    (0, b"BZh", "compressed"),
    (0, b"\xfd7zXZ\x00", "compressed"),
    (0, b"\x28\xb5\x2f\xfd", "compressed"),
    (0, b"7z\xbc\xaf\x27\x1c", "archive"),
    (0, b"Rar!\x1a\x07", "archive"),
    (257, b"ustar", "tar"),
    (0, b"PAR1", "parquet"),
    (0, b"ARROW1", "arrow"),
    (0, b"\xff\xff\xff\xff\x10\x00\x00\x00", "arrow"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"SQLite format 3\x00", "sqlite"),
    (0, b"\x93NUMPY", "numpy"),
    (0, b"%PDF-", "pdf"),
    (0, b"GGUF", "gguf"),
    (0, b"version https://git-lfs", "pointer"),
    (0, b"\x89PNG\r\n\x1a\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
    (0, b"GIF8", "image"),
    (8, b"WEBP", "image"),
    (0, b"II*\x00", "image"),
    (0, b"MM\x00*", "image"),
    (4, b"ftypavif", "image"),
    (4, b"ftyphei", "image"),
    (4, b"ftypmif1", "image"),
    (4, b"ftyp", "video"),
    (0, b"\x1aE\xdf\xa3", "video"),
    (0, b"\x80\x02", "pickle"),
    (0, b"\x80\x03", "pickle"),
    (0, b"\x80\x04", "pickle"),
    (0, b"\x80\x05", "pickle"),
)
# For files whose first bytes say nothing.
SUFFIXES = {
    ".xls": "excel",
    ".xlsx": "excel",
    ".ods": "excel",
    ".zip": "archive",
    ".7z": "archive",
    ".rar": "archive",
    ".tar": "tar",
    ".tgz": "compressed",
    ".gz": "compressed",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".safetensors": "safetensors",
    ".ckpt": "pickle",
    ".pt": "pickle",
    ".pth": "pickle",
    ".bin": "binary",
    ".gguf": "gguf",
    ".h5": "hdf5",
    ".npy": "numpy",
    ".npz": "numpy",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".yaml": "yaml",
    ".yml": "yaml",
}
NAMES = {
    "excel": "a spreadsheet",
    "archive": "an archive",
    "compressed": "a compressed file",
    "tar": "a tar archive",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "hdf5": "an HDF5 file",
    "sqlite": "an SQLite database",
    "numpy": "a NumPy array",
    "pdf": "a PDF document",
    "gguf": "GGUF weights",
    "pointer": "a Git LFS pointer, not the file itself",
    "image": "an image",
    "video": "a video",
    "pickle": "pickled weights",
    "safetensors": "safetensors weights",
    "web page": "a web page",
    "json": "a JSON file",
    "jsonl": "a JSON Lines file",
    "yaml": "a YAML file",
    "binary": "a binary file",
}
WEIGHTS = ("safetensors", "pickle", "binary")
# Of datasets, whose images `ingest.tables.packed` unpacks.
UNPACKED = ("parquet", "arrow", "tar")
UNPACK_IMAGES = (
    "add it with `matchgraph ingest datasets`, and give the folder that it unpacks the images into"
)
GIVE_CHECKPOINT = "give the file itself, or a pipeline folder; a LoRA goes to `matchgraph ingest adapter`"
EXPECTED = {"table": "a CSV file", "dataset": "a folder of images", "model": "a pipeline folder"}
REMEDIES = {
    "excel": "export the sheet as CSV and give that file",
    "parquet": "write it as CSV, for example with pandas.read_parquet(FILE).to_csv(...)",
    "arrow": "write it as CSV, for example with pandas.read_feather(FILE).to_csv(...)",
    "json": "write it as CSV with a header",
    "jsonl": "write it as CSV with a header",
    "image": "give the folder that the image is in",
    "video": "save its frames as images and give their folder",
    "pointer": "fetch the file with `git lfs pull`",
    "web page": "download the file itself",
}
# In folders: datasets whose images are packed, by suffix.
PACKED = {".parquet": "parquet", ".arrow": "arrow", ".tar": "tar", ".zip": "archive", ".tgz": "compressed"}


@dataclass(frozen=True)
class Content:
    """What a file is.

    Attributes:
        kind: a key of NAMES.
    """

    kind: str

    @property
    def name(self) -> str:
        """The kind in words, with an article."""
        return NAMES[self.kind]


def recognise(path: str | os.PathLike[str]) -> Content | None:
    """Say what a file is, unless it may be plain text.

    Args:
        path: the file.

    Returns:
        Its kind, by its first bytes and else by its suffix; None for text, and for what cannot be read.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    try:
        if not file.is_file():
            return None
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return None
    kind = _by_head(file, head, size) or SUFFIXES.get(suffix)
    if kind is None and b"\x00" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "binary"
    return Content(kind) if kind else None


def _by_head(file: Path, head: bytes, size: int) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(file)
    for offset, magic, kind in MAGIC:
        if head.startswith(magic, offset):
            return kind
    # The length of a JSON header in eight bytes, and the header.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "web page"
    return None


def _kind_of_zip(file: Path) -> str:
    """An office document, weights and arrays are zip archives too."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "excel" if file.suffix.lower() == ".xlsx" else "archive"
    if any(name.startswith("xl/") for name in names) or "content.xml" in names:
        return "excel"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "pickle"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy"
    return "archive"


def remedy(content: Content, wanted: str) -> str:
    """What to do with a file of that kind where something else is expected.

    Args:
        content: what the file is.
        wanted: "table", "dataset" or "model".
    """
    if wanted == "dataset" and content.kind in UNPACKED:
        return UNPACK_IMAGES
    if content.kind in ("archive", "tar", "compressed"):
        inside = {"table": "the CSV file in it", "dataset": "the folder of images", "model": "the folder"}
        return f"unpack it and give {inside[wanted]}"
    if wanted == "model" and content.kind in WEIGHTS:
        return GIVE_CHECKPOINT
    return REMEDIES.get(content.kind, f"give {EXPECTED[wanted]}")


def packed_dataset(files: Collection[Path]) -> tuple[str, str] | None:
    """Say how a folder without images has them packed.

    Args:
        files: all files in the folder.

    Returns:
        What the images are in, and how to get an image folder out of it; None where nothing is known.
    """
    for suffix, kind in PACKED.items():
        packed = [file for file in files if file.suffix.lower() == suffix]
        if not packed:
            continue
        found = f"{len(packed)} {suffix} file{'s' if len(packed) > 1 else ''}"
        if kind == "tar":
            found += " (a WebDataset)"
        return f"holds no image files; its data are in {found}", remedy(Content(kind), "dataset")
    return None
