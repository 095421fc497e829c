"""Footprints kept on disk: tracing a model takes seconds, and its configs seldom change."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from matchgraph.training.config import EXACT
from matchgraph.training.files import file_hash
from matchgraph.training.memory.footprint import Footprint, footprint

# Raised where the same configs would be traced otherwise.
VERSION = 3
PACKAGES = ("torch", "diffusers", "transformers", "peft")


def kept_footprint(
    folder: str | os.PathLike[str],
    cache: Path | None,
    *,
    precision: str,
    resolution_px: int,
    method: str,
    rank: int,
    quantisation: str = EXACT,
) -> Footprint:
    """A model's footprint, from the cache where it was traced before.

    Args:
        folder: see `footprint`, as for all others.
        cache: a folder, made if need be; None for none.
        precision: of the weights.
        resolution_px: side of the images.
        method: `lora` or `full`.
        rank: of the adapter.
        quantisation: of the denoiser's weights.

    Raises:
        BadPipeline: see `footprint`.
        UnknownFamily: likewise.
        CannotProfile: likewise.
    """
    from joblib import Memory

    options = {
        "precision": precision,
        "resolution_px": resolution_px,
        "method": method,
        "rank": rank,
        "quantisation": quantisation,
    }
    root = Path(folder)
    configs = sorted([*root.glob("*.json"), *root.glob("*/*config.json")])
    key = {
        "version": VERSION,
        "configs": [(path.relative_to(root).as_posix(), file_hash(path)) for path in configs],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    try:
        return Memory(cache, verbose=0).cache(_traced, ignore=["folder"])(folder, key, options)
    except OSError:  # a cache that cannot be written costs time, and nothing else
        return _traced(folder, key, options)


def _traced(folder: str | os.PathLike[str], key: Any, options: dict[str, Any]) -> Footprint:  # noqa: ARG001
    """What joblib keeps by `key` and `options`."""
    return footprint(folder, **options)
