"""Features of a set of images as a file: written once in one pass, read block by block, never held whole.

The file is safetensors with one float32 tensor `features` (n, d), whose header has room for what is only
known at the end of the pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from matchgraph.training.errors import NonFiniteDistance, ShapeMismatch, TooFewSamples
from matchgraph.training.files import SCRATCH_PREFIX, publish
from matchgraph.training.measure.frechet import GaussianAccumulator, GaussianStatistics
from matchgraph.training.measure.kernels import mean_similarity

TENSOR = "features"
# The length of a safetensors header comes first, in 8 bytes; a header may end in blanks.
LENGTH_BYTES = 8
HEADER_BYTES = 1024
READ_ROWS = 4096


class Features:
    """Features on disk.

    Args:
        path: the file.
        rows: float32, (n, d), mapped from it.
        temporary: whether the file goes when this object does.
    """

    def __init__(self, path: Path, rows: np.ndarray, *, temporary: bool) -> None:
        self.path = path
        self.rows = rows
        if temporary:
            # Where open files cannot be removed, the system's cleaning takes it.
            weakref.finalize(self, path.unlink, missing_ok=True)

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self.rows)

    @cached_property
    def statistics(self) -> GaussianStatistics:
        """A Gaussian fitted to them.

        Raises:
            TooFewSamples: there are fewer than two.
        """
        accumulator = GaussianAccumulator()
        for start in range(0, self.n, READ_ROWS):
            accumulator.add(self.rows[start : start + READ_ROWS])
        return accumulator.statistics()

    @cached_property
    def mean_similarity(self) -> float:
        """See `training.measure.kernels.mean_similarity`."""
        return mean_similarity(self.rows)


class FeatureWriter:
    """Takes features batch by batch into a file that has no name yet.

    Use `writing`, which removes it where it does not come to an end.
    """

    def __init__(self, scratch: Path, file: IO[bytes]) -> None:
        self._scratch = scratch
        self._file = file
        self._digest = hashlib.sha256()
        self._shape = (0, 0)
        self.finished = False
        file.write(b" " * (LENGTH_BYTES + HEADER_BYTES))

    def add(self, features: np.ndarray) -> None:
        """Take in a batch.

        Args:
            features: (n, d), any real dtype.

        Raises:
            ShapeMismatch: not two-dimensional, or another d than before.
            NonFiniteDistance: a value is infinite or not a number.
        """
        batch = np.ascontiguousarray(features, dtype="<f4")
        n, dimension = self._shape
        if batch.ndim != 2 or (n and batch.shape[1] != dimension):
            raise ShapeMismatch(f"Features of shape {batch.shape} do not fit those of {self._shape} before.")
        if not np.isfinite(batch).all():
            raise NonFiniteDistance("Features hold infinite values or NaN.")
        raw = batch.tobytes()
        self._digest.update(raw)
        self._file.write(raw)
        self._shape = (n + len(batch), batch.shape[1])

    def finish(self, target: Path | None = None, facts: Mapping[str, str] | None = None) -> Features:
        """Write the header, and give the file its name.

        Args:
            target: where it goes; None for a file that goes with the object returned.
            facts: what the features are of, kept in the header.

        Raises:
            TooFewSamples: nothing was added.
        """
        n, dimension = self._shape
        if not n:
            raise TooFewSamples("No images were given, so there are no features.")
        header = {
            "__metadata__": {**(facts or {}), "sha256": self._digest.hexdigest()},
            TENSOR: {"dtype": "F32", "shape": [n, dimension], "data_offsets": [0, n * dimension * 4]},
        }
        text = json.dumps(header).encode().ljust(HEADER_BYTES)
        self._file.seek(0)
        self._file.write(HEADER_BYTES.to_bytes(LENGTH_BYTES, "little") + text)
        self._file.flush()
        if target is not None:
            publish(self._scratch, target)
        path = self._scratch if target is None else target
        features = Features(path, _mapped(path, n, dimension), temporary=target is None)
        self.finished = True
        return features


@contextmanager
def writing(folder: Path | None = None) -> Iterator[FeatureWriter]:
    """Open a writer whose file is removed unless it was finished.

    Args:
        folder: where the file lies; None for the system's folder for temporary files.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    writer = None
    try:
        with open(scratch, "xb") as file:
            writer = FeatureWriter(scratch, file)
            yield writer
    finally:
        if writer is None or not writer.finished:
            scratch.unlink(missing_ok=True)


def read_features(path: Path, facts: Mapping[str, str]) -> Features | None:
    """Open a file of features if it is whole and of what it should be.

    Args:
        path: the file.
        facts: what it must say it is of.

    Returns:
        The features; None where there is no such file, or one that is damaged or of something else, and the
        features have to be computed again.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            recorded = file.metadata() or {}
            part = file.get_slice(TENSOR)
            n, dimension = part.get_shape()
            usable = part.get_dtype() == "F32" and n > 0 and dimension > 0
        if not usable or any(recorded.get(name) != value for name, value in facts.items()):
            return None
        offset = path.stat().st_size - n * dimension * 4
        rows = _mapped(path, n, dimension, offset)
        digest = hashlib.sha256()
        for start in range(0, n, READ_ROWS):
            digest.update(np.ascontiguousarray(rows[start : start + READ_ROWS]).data)
    except (OSError, SafetensorError, ValueError, TypeError):
        return None
    return Features(path, rows, temporary=False) if digest.hexdigest() == recorded.get("sha256") else None


def _mapped(path: Path, n: int, dimension: int, offset: int = LENGTH_BYTES + HEADER_BYTES) -> np.ndarray:
    return np.memmap(path, "<f4", "r", offset, (n, dimension))
