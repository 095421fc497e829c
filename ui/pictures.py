"""Small pictures for the page, as data URIs: no file of this machine has an address on the server."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.errors import Error
from matchgraph.ingest.runs.artefacts import CHECKPOINT_FOLDER, RECORD_FILE, claim_folder
from matchgraph.ingest.runs.pages import pictures_of, training_blocks
from matchgraph.ingest.runs.sources import Sources
from matchgraph.training.tune.checkpoint import SUMMARY_FILE

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.models import Dataset
    from matchgraph.ingest.runs.entries import Run

SIDE_PX = 128
SHOWN = 6
QUALITY = 85


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: the picture itself.
        caption: what it shows, if that is known.
    """

    uri: str
    caption: str


class DatasetPictures:
    """Pictures of the graph's datasets, where their folders on this machine hold what was ingested.

    So whoever wrote a path into the graph, only pictures that the graph knows are shown.
    """

    def __init__(self) -> None:
        self._sources = Sources()
        self._known: dict[tuple[str, str], tuple[Thumbnail, ...]] = {}
        # Of each dataset, since to check a large one takes long.
        self._locks: dict[tuple[str, str], threading.Lock] = {}

    def of(self, dataset: Dataset) -> tuple[Thumbnail, ...]:
        """A few pictures of a dataset; none where its folder is not here or has changed."""
        key = dataset.id, str(dataset.properties.get("content_hash"))
        with self._locks.setdefault(key, threading.Lock()):
            if key not in self._known:
                try:
                    images = self._sources.images(dataset)
                    chosen = _spread([(image.path, image.caption or "") for image in images])
                    self._known[key] = tuple(Thumbnail(_small(path), text) for path, text in chosen)
                except (Error, OSError):
                    # The folder may come back.
                    return ()
            return self._known[key]


def pictures_in(folder: Path) -> tuple[Thumbnail, ...]:
    """A few pictures of a folder that the user named.

    Raises:
        TrainingError: it holds no images, or one that cannot be read.
    """
    from matchgraph.training.images import list_captioned_images

    chosen = _spread([(image.path, image.caption or "") for image in list_captioned_images(folder)])
    return tuple(Thumbnail(_small(path), caption) for path, caption in chosen)


@dataclass(frozen=True)
class RunFiles:
    """What a run has left on this machine so far.

    Attributes:
        losses: of each step that was written.
        grids: title and data URI of grids of samples, those before fine-tuning first.
        folder: where it lies; None where it is not on this machine.
    """

    losses: tuple[float, ...]
    grids: tuple[tuple[str, str], ...]
    folder: Path | None


def run_files(home: Path, run: Run) -> RunFiles:
    """Read the loss and the samples of a run's newest claim, which may be at work on them."""
    folder = claim_folder(home, run.id, run.fence)
    if not folder.is_dir():
        return RunFiles((), (), None)
    losses = _read(folder / CHECKPOINT_FOLDER / SUMMARY_FILE).get("progress", {}).get("losses", [])
    if record := _read(folder / RECORD_FILE):
        losses = training_blocks(record)[0].get("losses") or losses
    try:
        grids = [(one.title, one.uri) for one in pictures_of(folder)]
    except OSError:
        # It is being written; the next look will find it.
        grids = []
    if not any(title.startswith("After") for title, _ in grids):
        grids += [("After fine-tuning, so far", uri) for uri in _drawn(folder / CHECKPOINT_FOLDER)]
    return RunFiles(tuple(losses), tuple(grids), folder)


def image_uri(file: Path) -> str:
    """An image that this program wrote, whole."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _drawn(checkpoint: Path) -> list[str]:
    """The samples of a fine-tuned model that were drawn so far, as one picture."""
    import numpy as np
    from PIL import Image
    from safetensors import SafetensorError, safe_open

    rows: list[Any] = []
    for path in sorted(checkpoint.glob("after-*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                if "picture" in file.keys():  # noqa: SIM118
                    rows += list(file.get_tensor("picture"))
        except (OSError, SafetensorError):
            break
    return [_uri(Image.fromarray(np.concatenate(rows[:4], axis=1)))] if rows else []


def _spread(images: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """A few from the whole length of a list."""
    step = max(1, len(images) // SHOWN)
    return list(images[::step][:SHOWN])


def _small(path: Path) -> str:
    from matchgraph.training.images import load_rgb

    return _uri(load_rgb(path))


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.thumbnail((4 * SIDE_PX, SIDE_PX))
    image.save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
