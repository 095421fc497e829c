"""Files that appear whole or not at all, and what identifies their content."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

# Of files being written; a dot keeps them out of sight, and every reader skips them.
SCRATCH_PREFIX = ".scratch-"
# The folder that the hub's cache keeps a repository's files of one commit in.
SNAPSHOT = re.compile(r"(models|datasets)--(?P<name>[^/]+)")


def publish(scratch: Path, target: Path) -> None:
    """Give a finished file its name; a crash leaves the old file or the new one and never half of it."""
    with open(scratch, "rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """The path of a new file, which takes the target's place at the end, and is removed if that fails."""
    # Not tempfile's: its files are for their owner alone, and keep that when they are renamed.
    scratch = target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")
    try:
        yield scratch
        publish(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def write_tensors(
    target: Path, tensors: Mapping[str, torch.Tensor] | Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        target: the file, replaced where there is one; its folder must exist.
        tensors: by name, on any device; or arrays, which are written without loading torch.
        metadata: of the file's header. With one entry at most, equal content gives equal bytes.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    import numpy as np

    given: Mapping[str, Any] = tensors
    if all(isinstance(tensor, np.ndarray) for tensor in given.values()):
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(array) for name, array in given.items()}
    else:
        from safetensors.torch import save_file

        whole = {name: tensor.detach().contiguous() for name, tensor in given.items()}
    with replacing(target) as scratch:
        scratch.touch()
        usual = stat.S_IMODE(scratch.stat().st_mode)
        with failing_as_files_do(target):
            save_file(whole, scratch, metadata=dict(metadata))
        # The library makes files that their owner alone may read.
        scratch.chmod(usual)


@contextmanager
def failing_as_files_do(target: Path) -> Iterator[None]:
    """Turn errors of writing safetensors, which tells of a full disk in words only, into those of files.

    Args:
        target: the file that the error is to name.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        full = "os error 28" in str(error) or "No space left" in str(error)
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number) if full else str(error), str(target)) from error


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(target: Path, text: str) -> Path:
    """Write a text file so that it is there whole or not at all, and return its path."""
    with replacing(target) as scratch:
        # A lone surrogate, which a caption may hold, has no UTF-8 form.
        scratch.write_text(text, encoding="utf-8", errors="replace")
    return target


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content; remembered as long as the file's size and times stay the same."""
    real = os.path.realpath(path)
    facts = os.stat(real)
    return _hashed(real, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def folders_hash(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over the relative names and the contents of all files in some subfolders.

    Args:
        root: the folder that holds them.
        names: the subfolders; one that is not there counts as empty.
    """
    files = sorted(path.relative_to(root).as_posix() for name in names for path in files_below(root / name))
    return json_hash([[name, file_hash(root / name)] for name in files])


def json_hash(content: Any) -> str:
    """SHA-256 of a JSON-ready value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=100_000)
def _hashed(real: str, inode: int, size: int, modified_ns: int) -> str:  # noqa: ARG001
    with open(real, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """List all files in a folder and its subfolders, in a fixed order.

    Links to folders are followed, as those who load a model follow them, but not back into a folder that they
    lie in.

    Args:
        folder: one that is not there holds no files.
    """
    files: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        around = {os.path.realpath(parent), *map(os.path.realpath, Path(parent).parents)}
        folders[:] = sorted(name for name in folders if os.path.realpath(Path(parent, name)) not in around)
        files.extend(Path(parent, name) for name in sorted(names))
    return [file for file in files if file.is_file()]


def folder_name(folder: str | os.PathLike[str]) -> str:
    """What the folder of a model or dataset is called.

    That is its own name; in the hub's cache, where the folder is named after a commit, it is the repository's
    name with its owner, since other owners may have models of the same name.
    """
    # Not the resolved name: a link called sdxl into a download cache is the model sdxl.
    path = Path(os.path.abspath(folder))
    kept = SNAPSHOT.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    return path.name if kept is None else kept["name"].replace("--", "/")
