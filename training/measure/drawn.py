"""What is kept of generated images as they are drawn: features and other rows, in shards on disk.

A shard is one batch, in one safetensors file that is there whole or not at all. So a process that is killed
loses one batch, and no sample is ever held in memory whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

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
        from safetensors import safe_open

        left = n
        for _, path in self._shards([name]):
            if left == 0:
                return
            with safe_open(path, framework="numpy") as shard:
                rows = shard.get_tensor(name)[:left]
            if left is not None:
                left -= len(rows)
            yield rows

    def rows(self, name: str, n: int | None = None) -> np.ndarray:
        """All rows under a name, or the first n."""
        return np.concatenate(list(self.batches(name, n)))

    def _shards(self, names: Collection[str]) -> list[tuple[int, Path]]:
        """How many images each whole shard has, and its file, in order and without a gap.

        Shards of several runs, in other batches and with other names, may overlap, and some end early: those
        that reach furthest are taken.
        """
        before: dict[int, tuple[int, Path]] = {}
        for first, last, path in self._paths():
            if (first in before or not first) and last not in before and self._holds(path, names):
                before[last] = first, path
        shards = []
        reached = max(before, default=0)
        while reached:
            first, path = before[reached]
            shards.append((reached - first, path))
            reached = first
        return shards[::-1]

    def _holds(self, path: Path, names: Collection[str]) -> bool:
        """Whether a shard is of this sample, with these names; a damaged one is drawn again."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                of = (file.metadata() or {}).get("of")
                return of == self._facts and set(file.keys()).issuperset(names)
        except (OSError, SafetensorError):
            return False

    def _paths(self) -> list[tuple[int, int, Path]]:
        """Shards with the numbers of their first image and of the one after their last."""
        if not self.folder.is_dir():
            return []
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted(
            (int(m[2]), int(m[3]), path) for m, path in found if m is not None and m[1] == self._name
        )
