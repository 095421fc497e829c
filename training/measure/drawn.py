"""What is kept of generated images as they are drawn: features and other rows, in shards on disk.

A shard is one batch, in one safetensors file that is there whole or not at all. So a process that is killed
loses one batch, and no sample is ever held in memory whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matchgraph.training.files import write_tensors

NAME = re.compile(r"([a-z]+)-(\d{8})-(\d{8})\.safetensors")


class DrawnRows:
    """Rows of a sample, a row for each image in the order of drawing.

    Args:
        folder: holds the shards; may hold other files.
        facts: what the sample is of; shards of another one are replaced.
        name: small letters, to tell samples in one folder apart.
    """

    def __init__(self, folder: Path, facts: Mapping[str, object], name: str = "drawn") -> None:
        self.folder = folder
        self._facts = json.dumps(facts, sort_keys=True)
        self._name = name

    def count(self, names: Collection[str]) -> int:
        """How many images, from the first on without a gap, have rows under all of these names."""
        return sum(n for n, _ in self._shards(names))

    def add(self, first: int, rows: Mapping[str, np.ndarray]) -> None:
        """Keep a batch.

        Args:
            first: number of its first image.
            rows: by name, each (n, ...).

        Raises:
            OSError: the disk is full.
        """
        n = len(next(iter(rows.values())))
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.asarray(value) for name, value in rows.items()}
        target = self.folder / f"{self._name}-{first:08d}-{first + n:08d}.safetensors"
        write_tensors(target, tensors, {"of": self._facts})

    def batches(self, name: str, n: int | None = None) -> Iterator[np.ndarray]:
        """Rows under a name, shard by shard; the first n of them."""
        left = n
        for _, shard in self._shards([name]):
            if left == 0:
                return
            rows = shard.get_tensor(name)[:left]
            if left is not None:
                left -= len(rows)
            yield rows

    def rows(self, name: str, n: int | None = None) -> np.ndarray:
        """All rows under a name, or the first n."""
        return np.concatenate(list(self.batches(name, n)))

    def _shards(self, names: Collection[str]) -> Iterator[tuple[int, Any]]:
        """How many images each whole shard has, and the open file; rows are read by who needs them."""
        from safetensors import SafetensorError, safe_open

        reached = 0
        for first, last, path in self._paths():
            if first != reached:
                continue
            try:
                with safe_open(path, framework="numpy") as file:
                    there = set(file.keys())
                    if (file.metadata() or {}).get("of") != self._facts or not there.issuperset(names):
                        continue
                    yield last - first, file
            except (OSError, SafetensorError):
                # A damaged shard is drawn again.
                continue
            reached = last

    def _paths(self) -> list[tuple[int, int, Path]]:
        """Shards with the numbers of their first image and of the one after their last."""
        if not self.folder.is_dir():
            return []
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted(
            (int(m[2]), int(m[3]), path) for m, path in found if m is not None and m[1] == self._name
        )
