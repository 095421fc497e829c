"""A bounded folder of encoded images and captions, shared by the runs and processes of a machine.

An entry is a safetensors file named by the hash of everything its content depends on, so it is never out of
date; the least recently used entries give way to new ones.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig
from matchgraph.training.files import SCRATCH_PREFIX, json_hash, write_tensors

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
LOCK_FILE = ".lock"
# Writing an entry takes a second or so; a lock held for longer than this belongs to a stuck file system.
LOCK_TIMEOUT_S = 60.0
# What of a run's encodings may lie in memory where the cache has no room; 10,000 captions are 78 GiB for
# FLUX.1.
HELD_BYTES = 2 * 2**30
# What a safetensors header takes for a tensor's name, type, shape and place, generously.
HEADER_BYTES_PER_TENSOR = 1024


@dataclass(frozen=True)
class EncodingCache:
    """Where encodings are kept, and how much room they may take; safe to give to other processes.

    Args:
        folder: made when first needed. Deleting it, or files in it, is safe at any time.
        limit_bytes: the most that its files take together.

    Raises:
        InvalidConfig: the limit is not a whole number above 0.
    """

    folder: Path
    limit_bytes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        limit = self.limit_bytes
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise InvalidConfig(f"limit_bytes must be a whole number above 0, got {limit!r}.")

    def size_bytes(self) -> int:
        """What the folder's files take now."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use in ns, size and path of each entry and of each file left half-written."""
        found = []
        try:
            paths = [Path(entry.path) for entry in os.scandir(self.folder)]
        except FileNotFoundError:
            return []
        for path in paths:
            if path.suffix == SUFFIX or path.name.startswith(SCRATCH_PREFIX):
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue
                found.append((facts.st_mtime_ns, facts.st_size, path))
        return found


class CacheUse:
    """One run's use of a cache, with counts of what it found there.

    Entries that were used since the run began are not removed for its sake: a run whose encodings exceed the
    limit keeps the rest to itself instead of pushing out what it will read again: `HELD_BYTES` of it in
    memory, and what is more in files without a name, which are gone when the run is.

    Args:
        cache: the cache; None for none, where nothing is found and nothing kept.
    """

    def __init__(self, cache: EncodingCache | None) -> None:
        self.hits = 0
        self.misses = 0
        self.unstored = 0
        self._cache = cache
        self._held = 0
        self._began_ns = time.time_ns()

    @property
    def active(self) -> bool:
        """Whether there is a cache at all."""
        return self._cache is not None

    def counts(self) -> dict[str, int] | None:
        """Hits, misses, and how many of the latter found no room; None without a cache."""
        if self._cache is None:
            return None
        return {"hits": self.hits, "misses": self.misses, "unstored": self.unstored}

    def fetch(self, facts: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """Return an entry, or None where there is none or it is damaged.

        The tensors are mapped from the file, so they take memory only as they are read, and stay valid when
        the entry is removed.

        Args:
            facts: all that the entry's content depends on, JSON-ready.
        """
        if self._cache is None:
            return None
        path = self._path(facts)
        tensors = _mapped(path)
        if tensors is None:
            self.misses += 1
            return None
        self.hits += 1
        with suppress(FileNotFoundError):
            _mark_used(path)
        return tensors

    def store(self, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Keep an entry where there is room.

        Args:
            facts: as for `fetch`.
            tensors: on the CPU.

        Returns:
            The tensors mapped from the file; those given where they could not be stored. A full disk or a
            folder that cannot be written to costs time in the next run and nothing else.
        """
        if self._cache is None:
            return dict(tensors)
        from filelock import FileLock, Timeout

        cache, path = self._cache, self._path(facts)
        needed = sum(t.numel() * t.element_size() + HEADER_BYTES_PER_TENSOR for t in tensors.values())
        try:
            cache.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(cache.folder / LOCK_FILE, timeout=LOCK_TIMEOUT_S):
                if self._make_room(needed):
                    write_tensors(path, tensors, {})
                    _mark_used(path)
                    return _mapped(path) or dict(tensors)
        except (OSError, Timeout):
            pass
        self.unstored += 1
        self._held += needed
        return (self._unnamed(tensors) if self._held > HELD_BYTES else None) or dict(tensors)

    def _unnamed(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """Map tensors from a file that has no name any more; None where it cannot be written."""
        assert self._cache is not None
        path = self._cache.folder / f"{SCRATCH_PREFIX}{uuid.uuid4().hex}{SUFFIX}"
        try:
            write_tensors(path, tensors, {})
            return _mapped(path)
        except OSError:
            return None
        finally:
            path.unlink(missing_ok=True)

    def _path(self, facts: Mapping[str, Any]) -> Path:
        assert self._cache is not None
        return self._cache.folder / f"{json_hash(facts)}{SUFFIX}"

    def _make_room(self, needed: int) -> bool:
        """Remove the least recently used entries until `needed` bytes fit; the lock must be held."""
        assert self._cache is not None
        files = sorted(self._cache._files())
        # Entries are written under the lock, so what is half-written here was left by a killed process.
        for _, _, path in files:
            if path.name.startswith(SCRATCH_PREFIX):
                path.unlink(missing_ok=True)
        entries = [entry for entry in files if not entry[2].name.startswith(SCRATCH_PREFIX)]
        excess = sum(size for _, size, _ in entries) + needed - self._cache.limit_bytes
        removable = [entry for entry in entries if entry[0] < self._began_ns]
        if excess > sum(size for _, size, _ in removable):
            return False
        for _, size, path in removable:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
        return True


def _mark_used(path: Path) -> None:
    # Not left to the file system, which may keep no times of reading, and whose clock lags behind ours.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _mapped(path: Path) -> dict[str, torch.Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        # Damaged by something other than this module, which never leaves half a file under this name.
        path.unlink(missing_ok=True)
        return None
