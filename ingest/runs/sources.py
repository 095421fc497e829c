"""The folders of models and datasets, which must hold what was ingested from them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.models import Dataset, Model
from matchgraph.ingest.errors import SourceChanged
from matchgraph.ingest.tables.fingerprints import pipeline_fingerprint
from matchgraph.ingest.tables.image_folders import ImageFolder, images_hash, source_of
from matchgraph.training.files import files_below

if TYPE_CHECKING:
    from matchgraph.training.images import CaptionedImage


@dataclass(frozen=True)
class Listing:
    """The images of a dataset as they were when they were listed.

    Args:
        images: the images with their captions.
        content_hash: what they are known by in the graph.
        stamp: of each file of the folder its path, size, inode and time of change in ns.
    """

    images: tuple[CaptionedImage, ...]
    content_hash: str
    stamp: tuple[tuple[str, int, int, int], ...]


class Sources:
    """Checks folders of models and datasets; lists a dataset's again only where a file has changed."""

    def __init__(self) -> None:
        self._listings: dict[tuple[Path, str | None], Listing] = {}

    def images(self, dataset: Dataset) -> tuple[CaptionedImage, ...]:
        """Return a dataset's images, which must be those that it was ingested with.

        Raises:
            SourceChanged: the folder is not here, or holds something else.
            BadDataset: it holds no images or a faulty metadata file.
        """
        from matchgraph.training.images import list_captioned_images

        folder, place = source_folder("dataset", dataset), source_of(dataset)
        stamp, key = _stamp(folder), (folder, place.caption_column)
        known = self._listings.get(key)
        if known is None or known.stamp != stamp:
            images = tuple(list_captioned_images(place))
            content = images_hash(ImageFolder(folder.name, folder, images))
            known = self._listings[key] = Listing(images, content, stamp)
        _check("dataset", dataset, known.content_hash)
        return known.images

    def model(self, model: Model) -> Path:
        """Return a model's folder, which must hold what it was ingested with.

        Raises:
            SourceChanged: the folder is not here, or holds something else.
        """
        folder = source_folder("model", model)
        _check("model", model, pipeline_fingerprint(folder))
        return folder


def source_folder(kind: str, node: Model | Dataset) -> Path:
    """Return the folder that a model or dataset was ingested from.

    Args:
        kind: "model" or "dataset".
        node: which.

    Raises:
        SourceChanged: it came from a table, or the folder is not on this machine.
    """
    source = node.properties.get("source")
    if not isinstance(source, str):
        raise SourceChanged(
            f"The {kind} {node.id!r} has no folder, since it came from a table; add one with "
            f"`matchgraph ingest {kind}s FOLDER`."
        )
    folder = Path(source)
    if not folder.is_dir():
        raise SourceChanged(
            f"The folder of {kind} {node.id!r}, {folder}, does not exist; restore it, or ingest it from "
            "its new place."
        )
    return folder


def _check(kind: str, node: Model | Dataset, found: str) -> None:
    if node.properties.get("content_hash") != found:
        raise SourceChanged(
            f"The folder of {kind} {node.id!r} has changed since it was ingested; run "
            f"`matchgraph ingest {kind}s {shlex.quote(str(node.properties['source']))}` again."
        )


def _stamp(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    found = [(str(file), file.stat()) for file in files_below(folder)]
    return tuple((path, stat.st_size, stat.st_ino, stat.st_ctime_ns) for path, stat in found)
