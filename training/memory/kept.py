"""Footprints kept on disk: tracing a model takes seconds, and its configs seldom change."""

from __future__ import annotations

import importlib.metadata
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matchgraph.training.files import file_hash, json_hash, write_json
from matchgraph.training.memory.footprint import Footprint, Part, footprint
from matchgraph.training.memory.tracing import Hull

# Raised where the same configs would be traced otherwise.
VERSION = 1
PACKAGES = ("torch", "diffusers", "transformers", "peft")


def kept_footprint(
    folder: str | os.PathLike[str],
    cache: Path | None,
    *,
    precision: str,
    resolution_px: int,
    method: str,
    rank: int,
) -> Footprint:
    """A model's footprint, from the cache where it was traced before.

    Args:
        folder: see `footprint`, as for all others.
        cache: a folder, made if need be; None for none.
        precision: of the weights.
        resolution_px: side of the images.
        method: `lora` or `full`.
        rank: of the adapter.

    Raises:
        BadPipeline: see `footprint`.
        UnknownFamily: likewise.
        CannotProfile: likewise.
    """
    options = {"precision": precision, "resolution_px": resolution_px, "method": method, "rank": rank}

    def traced() -> Footprint:
        return footprint(folder, precision=precision, resolution_px=resolution_px, method=method, rank=rank)

    if cache is None:
        return traced()
    root = Path(folder)
    configs = sorted([*root.glob("*.json"), *root.glob("*/*config.json")])
    facts = {
        "version": VERSION,
        "configs": [(path.relative_to(root).as_posix(), file_hash(path)) for path in configs],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        **options,
    }
    path = cache / f"{json_hash(facts)[:32]}.json"
    try:
        return _from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not kept, or damaged
    found = traced()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(found))
    except OSError:
        pass  # costs time, and nothing else
    return found


def _from_dict(row: dict[str, Any]) -> Footprint:
    def hull(value: Any) -> Hull:
        return Hull(tuple((int(fixed), int(per_row)) for fixed, per_row in value["lines"]))

    read: dict[str, Any] = {"parts": lambda value: {name: Part(**part) for name, part in value.items()}}
    of_hulls = ("text", "encode", "training", "checkpointed", "sampling", "decode", "decode_tile")
    read |= dict.fromkeys(of_hulls, lambda value: value and hull(value))
    return Footprint(**{name: read.get(name, lambda value: value)(value) for name, value in row.items()})
