"""Images that a user dropped on the page, in a folder of their own."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from matchgraph.errors import Error
from matchgraph.training.dataset_files import SUFFIXES

UPLOADS_FOLDER = "uploads"
MAX_FILE_BYTES = 48 * 2**20
MAX_TOTAL_BYTES = 4 * 2**30
MAX_FILES = 5_000
MAX_CAPTION_BYTES = 8_192
CAPTION = ".txt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}")
DEFAULT_NAME = "my-images"


class Refused(Error):
    """A file that is not taken; the message says why."""


class Uploads:
    """The files of one visit. They are removed at its end, unless a dataset was made of them.

    Args:
        home: the data folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._root: Path | None = None
        self._name = DEFAULT_NAME
        self._bytes = 0
        self.images = 0
        self.captions = 0
        self.kept = False

    @property
    def folder(self) -> Path | None:
        """Where they are; None while there is no image."""
        return self._root / self._name if self._root is not None and self.images else None

    def rename(self, name: str) -> None:
        """Give the folder another name, which becomes the dataset's id.

        Raises:
            Refused: it is no name of a folder, or the images are a dataset under their present name.
        """
        name = name.strip()
        if name == self._name:
            return
        if not NAME.fullmatch(name):
            raise Refused("A name has up to 80 letters, digits, spaces, points, hyphens and underscores.")
        if self.kept:
            raise Refused(f"These images are the dataset {self._name} already.")
        if self._root is not None:
            (self._root / self._name).rename(self._root / name)
        self._name = name

    def add(self, name: str, content: bytes) -> None:
        """Keep a file that is an image, or a caption for the image of the same name.

        Args:
            name: as the visitor's browser calls it.
            content: of the file.

        Raises:
            Refused: it is neither, too large, or of a name that is taken.
        """
        target = self._place(name)
        if len(content) > MAX_FILE_BYTES or self._bytes + len(content) > MAX_TOTAL_BYTES:
            raise Refused(f"{name} is too large.")
        if self.kept:
            raise Refused("These images are a dataset already. Reload the page to begin with others.")
        if target.suffix == CAPTION:
            _check_caption(name, content)
            target.write_bytes(content)
            self.captions += 1
        else:
            # A name with a point before it is not yet one of the dataset's.
            part = target.with_name(f".{target.name}")
            part.write_bytes(content)
            try:
                _check_image(name, part)
                part.rename(target)
            finally:
                part.unlink(missing_ok=True)
            self.images += 1
        self._bytes += len(content)

    def discard(self) -> None:
        """Remove the files, unless they are kept."""
        if self._root is not None and not self.kept:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root, self._bytes, self.images, self.captions = None, 0, 0, 0

    def _place(self, name: str) -> Path:
        """The path for a file: its name without any folder and without what a path could be made of."""
        given = PurePosixPath(name.replace("\\", "/").rsplit("/", 1)[-1])
        suffix, stem = given.suffix.lower(), re.sub(r"[^\w-]+", "_", given.stem)[:100].strip("_") or "image"
        if suffix not in {*SUFFIXES, CAPTION}:
            raise Refused(f"{name} is not an image, nor a {CAPTION} file with a caption.")
        if self.images + self.captions >= MAX_FILES:
            raise Refused(f"More than {MAX_FILES:,} files: name a folder instead.")
        if self._root is None:
            (self._home / UPLOADS_FOLDER).mkdir(parents=True, exist_ok=True)
            self._root = Path(tempfile.mkdtemp(dir=self._home / UPLOADS_FOLDER))
            (self._root / self._name).mkdir()
        target = self._root / self._name / f"{stem}{suffix}"
        if target.exists():
            raise Refused(f"A file {name} already exists.")
        return target


def _check_caption(name: str, content: bytes) -> None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(content) > MAX_CAPTION_BYTES:
        raise Refused(f"{name} is not a caption: give UTF-8 text of at most {MAX_CAPTION_BYTES:,} bytes.")


def _check_image(name: str, file: Path) -> None:
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import load_rgb

    try:
        load_rgb(file)
    except TrainingError as error:
        reason = str(error).removeprefix(f"{file} ").rstrip(".")
        raise Refused(f"{name} {reason}.") from None
