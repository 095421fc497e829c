"""Images that a user dropped on the page, in a folder of their own."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from matchgraph.errors import Error
from matchgraph.training.dataset_files import SUFFIXES

UPLOADS_FOLDER = "uploads"
# Held by the server while its visit goes on; no name of a dataset begins with a point.
MARK = ".visit"
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

    The browser sends several at once, each of which comes in a thread of its own.

    Args:
        home: the data folder.
        taken: returns how many bytes all visits have together; those of this one by default.
    """

    def __init__(self, home: Path, taken: Callable[[], int] | None = None) -> None:
        self._home, self._taken = home, taken or (lambda: self.bytes)
        self._root: Path | None = None
        self._mark: FileLock | None = None
        self._name = DEFAULT_NAME
        self._one = threading.RLock()
        self._ended = False
        self.bytes: int = 0
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
        with self._one:
            if name == self._name:
                return
            if not NAME.fullmatch(name):
                raise Refused("A name has up to 80 letters, digits, spaces, points, hyphens and underscores.")
            if self.kept:
                raise Refused(f"These images are the dataset {self._name} already.")
            if self._root is not None:
                with _disk(f"The name {name}"):
                    (self._root / self._name).rename(self._root / name)
            self._name = name

    def add(self, name: str, content: bytes) -> None:
        """Keep a file that is an image, or a caption for the image of the same name.

        Args:
            name: as the visitor's browser calls it.
            content: of the file.

        Raises:
            Refused: it is neither, too large, of a name that is taken, or the disk takes no more.
        """
        with self._one, _disk(name):
            target = self._place(name, len(content))
            is_caption = target.suffix == CAPTION
            # A name with a point before it is not yet one of the dataset's.
            part = target.with_name(f".{target.name}")
            try:
                part.write_bytes(content)
                if is_caption:
                    _check_caption(name, content)
                else:
                    _check_image(name, part)
                part.rename(target)
            finally:
                part.unlink(missing_ok=True)
            self.captions += is_caption
            self.images += not is_caption
            self.bytes += len(content)

    def keep(self) -> None:
        """Keep the files beyond the visit, since a dataset is being made of them."""
        with self._one:
            self.kept = True
            self._unmark()

    def release(self) -> None:
        """Take `keep` back, since no dataset was made of them."""
        with self._one:
            self.kept = False
            if self._ended:
                self.discard()
            elif self._root is not None:
                self._set_mark(self._root)

    def discard(self) -> None:
        """End the visit: remove the files, unless they are kept."""
        with self._one:
            self._ended = True
            if self._root is not None and not self.kept:
                self._unmark()
                shutil.rmtree(self._root, ignore_errors=True)
                self._root, self.bytes, self.images, self.captions = None, 0, 0, 0

    def _place(self, name: str, size: int) -> Path:
        """The path for a file: its name without any folder and without what a path could be made of."""
        given = PurePosixPath(name.replace("\\", "/").rsplit("/", 1)[-1])
        suffix, stem = given.suffix.lower(), re.sub(r"[^\w-]+", "_", given.stem)[:100].strip("_") or "image"
        if self._ended:
            raise Refused("This visit is over. Reload the page.")
        if suffix not in {*SUFFIXES, CAPTION}:
            raise Refused(f"{name} is not an image, nor a {CAPTION} file with a caption.")
        if self.kept:
            raise Refused("These images are a dataset already. Reload the page to begin with others.")
        if self.images + self.captions >= MAX_FILES:
            raise Refused(f"More than {MAX_FILES:,} files: name a folder instead.")
        if size > MAX_FILE_BYTES:
            raise Refused(f"{name} is too large.")
        if self._taken() + size > MAX_TOTAL_BYTES:
            raise Refused(
                f"{name} is too large: all uploads together may take {MAX_TOTAL_BYTES / 2**30:g} GiB."
            )
        if self._root is None:
            (self._home / UPLOADS_FOLDER).mkdir(parents=True, exist_ok=True)
            self._root = Path(tempfile.mkdtemp(dir=self._home / UPLOADS_FOLDER))
            self._set_mark(self._root)
        folder = self._root / self._name
        folder.mkdir(exist_ok=True)
        target = folder / f"{stem}{suffix}"
        if target.exists():
            raise Refused(f"A file {name} already exists.")
        return target

    def _set_mark(self, root: Path) -> None:
        # Another thread may release it.
        self._mark = FileLock(root / MARK, thread_local=False)
        self._mark.acquire()

    def _unmark(self) -> None:
        if self._mark is not None and self._root is not None:
            self._mark.release()
            (self._root / MARK).unlink(missing_ok=True)
            self._mark = None


def remove_abandoned(home: Path) -> None:
    """Remove what visits left whose server was killed; those of a server that lives hold their mark.

    Args:
        home: the data folder.
    """
    for mark in (home / UPLOADS_FOLDER).glob(f"*/{MARK}"):
        with suppress(Timeout), FileLock(mark, timeout=0):
            shutil.rmtree(mark.parent, ignore_errors=True)


@contextmanager
def _disk(what: str) -> Iterator[None]:
    """Says what the disk refused."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{what} cannot be saved: {error.strerror or error}.") from None


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
