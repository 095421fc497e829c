"""The files of an image folder: images, captions, metadata, and the rest."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matchgraph.training.captions import CAPTION_SUFFIXES, METADATA_FILES, SPLITS, UNREAD_METADATA_FILES
from matchgraph.training.contents import packed_dataset
from matchgraph.training.errors import BadDataset, BadImage
from matchgraph.words import some

# Formats whose files have a signature, so that damaged files are not taken for one of them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi",
})  # fmt: skip
# Images that are not read: refused by name, since a user expects them to count.
OTHER_SUFFIXES = frozenset({
    ".heic", ".heif", ".jxl", ".svg", ".tga", ".icb", ".vda", ".vst", ".ico", ".cur", ".icns", ".psd", ".dds",
    ".eps", ".ps", ".exr", ".hdr", ".pcx", ".dcx", ".pfm", ".sgi", ".rgb", ".rgba", ".bw", ".ras", ".xbm",
    ".xpm", ".emf", ".wmf", ".blp", ".msp", ".pcd", ".pxr", ".im", ".cr2", ".nef", ".arw", ".dng",
})  # fmt: skip
# What operating systems leave behind.
JUNK_FOLDERS = frozenset({"__MACOSX"})
JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
MOST_NAMED = 3


@dataclass
class DatasetFiles:
    """The files of a dataset folder by what they are for, each sorted by path.

    Attributes:
        root: the folder.
        images: in a format that is read.
        metadata: metadata files that are read.
        others: the rest.
        junk: hidden and left behind by operating systems, relative to the root.
    """

    root: Path
    images: list[Path]
    metadata: list[Path]
    others: list[Path]
    junk: list[str]

    def __post_init__(self) -> None:
        self._captions: dict[tuple[Path, str], dict[str, Path]] = {}
        for file in self.others:
            suffix = file.suffix.lower()
            if suffix in CAPTION_SUFFIXES:
                self._captions.setdefault((file.parent, file.stem), {})[suffix] = file

    def caption_files(self, image: Path) -> dict[str, Path]:
        """The caption files of an image by suffix: `cat.txt` of `cat.png`, else `cat.png.txt`."""
        by_stem = self._captions.get((image.parent, image.stem), {})
        return {**self._captions.get((image.parent, image.name), {}), **by_stem}

    def no_images(self) -> str:
        """Why there is no image, and what to do."""
        packed = packed_dataset(self.others)
        if packed is not None:
            return f"{self.root} {packed[0]}; {packed[1]}."
        return f"{self.root} holds no images ({', '.join(sorted(SUFFIXES))})."

    def unread(self, used: Collection[Path]) -> list[str]:
        """Name the files that are neither images nor metadata nor `used`, and what was ignored."""
        files = [file for file in self.others if file not in used]
        names: dict[str, list[str]] = {}
        for file in files:
            names.setdefault(file.suffix.lower(), []).append(str(file.relative_to(self.root)))
        parts = [
            ", ".join(named) if len(named) <= MOST_NAMED else f"{len(named)} {suffix or 'other'} files"
            for suffix, named in sorted(names.items())
        ]
        notes = [f"not read: {', '.join(parts)}"] if parts else []
        if self.junk:
            notes.append(f"ignored: {some(sorted(self.junk), MOST_NAMED)}")
        return notes


def files_in(root: Path) -> DatasetFiles:
    """Look through a dataset folder.

    Raises:
        BadDataset: a link to a folder, or metadata that is not read or there twice.
        BadImage: a file is in an image format that is not read.
    """
    images: list[Path] = []
    metadata: list[Path] = []
    others: list[Path] = []
    junk: list[str] = []
    for directory, subfolders, names in os.walk(root):
        place = Path(directory)
        junk += [str((place / n).relative_to(root)) for n in (*subfolders, *names) if is_junk(n)]
        subfolders[:] = sorted(name for name in subfolders if not is_junk(name))
        for name in subfolders:
            if (place / name).is_symlink():
                raise BadDataset(
                    f"{place / name} is a link to a folder, which is not followed; copy the folder here or "
                    "remove the link."
                )
        for name in names:
            suffix = Path(name).suffix.lower()
            if is_junk(name):
                continue
            if name in UNREAD_METADATA_FILES:
                raise BadDataset(
                    f"{place / name} is not read; write its captions to {METADATA_FILES[0]}, or remove it."
                )
            if suffix in OTHER_SUFFIXES:
                raise BadImage(
                    f"{place / name} is in a format that is not read; "
                    f"convert it to one of {', '.join(FORMATS)} or remove it."
                )
            if name in METADATA_FILES:
                metadata.append(place / name)
            else:
                (images if suffix in SUFFIXES else others).append(place / name)
    for files in (images, metadata, others):
        files.sort(key=lambda path: path.relative_to(root).as_posix())
    for one, two in pairwise(metadata):
        if one.parent == two.parent:
            raise BadDataset(f"{one.parent} has both {one.name} and {two.name}; keep one of them.")
    return DatasetFiles(root, images, metadata, others, junk)


def holds_images(folder: Path) -> bool:
    """Whether an image file is in a folder or below it.

    Hidden files and folders, and links to folders, do not count.
    """
    for _, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not is_junk(name)]
        visible = (Path(name).suffix.lower() for name in names if not is_junk(name))
        if any(suffix in SUFFIXES | OTHER_SUFFIXES for suffix in visible):
            return True
    return False


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by an operating system."""
    return name.startswith(".") or name in JUNK_FOLDERS or name.lower() in JUNK_FILES


def is_split(name: str) -> bool:
    """Whether a folder of this name is one split of a dataset, as in Hugging Face imagefolder."""
    return name.lower() in SPLITS
