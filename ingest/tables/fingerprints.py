"""Short hashes of models' and datasets' files, by which a changed folder is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from matchgraph.training.files import files_below

# A file above this size is fingerprinted by its length and evenly spread blocks: a 24 GB denoiser takes a
# moment then, and weights that were trained any further differ in every block.
FINGERPRINT_WHOLE_BYTES = 64 * 2**20
FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 2**16


def pipeline_fingerprint(folder: Path) -> str:
    """Return a short hash of a pipeline's configs and weights, by which a changed folder is noticed.

    Args:
        folder: the pipeline folder.

    Returns:
        16 hex digits over names and contents of its .json and .safetensors files. Large files enter by
        their size and blocks spread over them.
    """
    files = [
        file
        for file in files_below(folder)
        if file.name.endswith((".json", ".safetensors"))
        and not any(part.startswith(".") for part in file.relative_to(folder).parts[:-1])
    ]
    return fingerprint_files(folder, files)


def fingerprint_files(folder: Path, files: Sequence[Path]) -> str:
    """Return 16 hex digits over names (relative to `folder`) and contents of `files`, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(json.dumps([file.relative_to(folder).as_posix(), size]).encode())
        with file.open("rb") as stream:
            if size <= FINGERPRINT_WHOLE_BYTES:
                while block := stream.read(2**20):
                    digest.update(block)
                continue
            for number in range(FINGERPRINT_BLOCKS):
                stream.seek(number * (size - FINGERPRINT_BLOCK_BYTES) // (FINGERPRINT_BLOCKS - 1))
                digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()[:16]
