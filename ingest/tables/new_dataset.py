"""A folder of images as a new dataset: measured as an ingested one is, and written nowhere."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.models import MeasuredDataset
from matchgraph.ingest.errors import BadInput, ExtractorMismatch, NothingToCompare, Problem
from matchgraph.ingest.tables.comparison import METRIC, Comparison
from matchgraph.ingest.tables.identity import identity_of
from matchgraph.ingest.tables.image_folders import (
    ImageFolder,
    dataset_folders,
    image_problem,
    images_hash,
    list_folder,
    too_few_images,
)
from matchgraph.ingest.tables.packed import packed_files
from matchgraph.progress import Progress, no_progress

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.models import Dataset
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.images import CaptionedImage

PROBE_HINT = "give it with --probe SPEC or in MATCHGRAPH_PROBE"


def target(
    name: str | Path,
    probe: str | None = None,
    caption_column: str | None = None,
    home: Path | None = None,
) -> str | NewFolder:
    """What a user asks about: a folder of images, or the id of a dataset of the graph.

    Args:
        name: a folder that is there, or a file of packed images, or an id.
        probe: the CLIP model that looks at a folder: a folder in open_clip's layout, or MODEL/TAG.
        caption_column: the column of a folder's metadata that holds the captions; None for the usual ones.
        home: the data folder, for what is unpacked; None for the one of the environment.
    """
    is_folder = bool(str(name)) and (Path(name).is_dir() or bool(packed_files(Path(name))))
    return NewFolder(Path(name), probe, caption_column, home=home) if is_folder else str(name)


@dataclass(frozen=True)
class NewFolder:
    """A folder of images to predict for.

    Args:
        folder: the images of one dataset.
        probe: the CLIP model that the graph's datasets were embedded with.
        caption_column: the column of its metadata that holds the captions; None for the usual ones.
        home: the data folder, for what is unpacked; None for the one of the environment.
    """

    folder: Path
    probe: str | None = None
    caption_column: str | None = None
    metric: str = METRIC
    home: Path | None = None

    def measured(
        self,
        graph: MatchingGraph,
        known: Sequence[Dataset],
        on_progress: Progress = no_progress,
        *,
        save: bool = False,
    ) -> MeasuredDataset:
        """Embed the images and measure their distance to every known dataset; writes nothing.

        A predicted folder and an ingested one are the same node with the same edges. Each image is decoded
        once.

        Args:
            graph: the graph.
            known: its datasets.
            on_progress: called with the step, and how much of it is done.
            save: whether it is to be saved under its own id.

        Raises:
            BadInput: the folder, or an image in it, cannot be used, or it is to be saved and the graph has
                another dataset of its id.
            ExtractorMismatch: no probe was given, or the graph's datasets were embedded by another one.
            NothingToCompare: the graph has no statistics to compare with.
        """
        from matchgraph.training.measure.extractors import load_clip

        folders = dataset_folders(self.folder)
        if len(folders) > 1:
            reason = f"holds {len(folders)} folders"
            problem = Problem(str(self.folder), 0, reason, "name one of them, with the images")
            raise BadInput([problem], skippable=False)
        if self.probe is None:
            raise ExtractorMismatch(_which_probe(known))
        found = list_folder(folders[0], caption_column=self.caption_column, home=self.home)
        if few := too_few_images(found):
            raise BadInput([few], skippable=False)
        extractor = load_clip(self.probe)
        check_same_extractor(known, extractor.hash, str(self.folder))
        comparison = Comparison(graph, extractor, datasets=known)
        if not comparison.has_statistics:
            raise NothingToCompare(
                f"No dataset of the graph has feature statistics by probe {extractor.hash}, so {self.folder} "
                "cannot be compared with any. Add image folders with `matchgraph ingest datasets FOLDER "
                "--probe SPEC`."
            )
        content = images_hash(found)
        found = _under_own_id(graph, found, content, known, save=save)
        measured = comparison.measure(found, content, save=save, load=_loader(found.images, on_progress))
        notes = (*found.notes, *measured.notes)
        return MeasuredDataset(
            measured.dataset, measured.statistics, measured.similar, comparison.compared, notes
        )


def _under_own_id(
    graph: MatchingGraph, found: ImageFolder, content: str, known: Sequence[Dataset], *, save: bool
) -> ImageFolder:
    """A folder under an id of its own, where the graph has another dataset of the same name."""
    stored = {dataset.id: dataset for dataset in known}
    identity = identity_of(graph, "dataset", stored, replace=False)
    if not identity.is_other(found.id, content):
        return found
    if save:
        source = str(found.folder.resolve())
        problem = identity.problem(found.id, source, content, str(found.folder))
        reason = problem.reason if problem else f"dataset {found.id!r} has changed since it was ingested"
        remedy = "save it with `matchgraph ingest datasets`, which takes --id and --replace"
        raise BadInput([Problem(str(found.folder), 0, reason, remedy)], skippable=False)
    number = next(n for n in itertools.count(2) if f"{found.id} ({n})" not in stored)
    return replace(found, id=f"{found.id} ({number})")


def check_same_extractor(known: Sequence[Dataset], extractor: str, what: str) -> None:
    """Refuse to compare embeddings of different feature extractors.

    Args:
        known: the graph's datasets; those without an embedding or without a recorded extractor cannot
            disagree.
        extractor: hash of the extractor of the new embedding.
        what: whose embedding it is, for the message.

    Raises:
        ExtractorMismatch: naming both hashes.
    """
    others = Counter(
        str(dataset.properties["extractor"])
        for dataset in known
        if dataset.embedding is not None and "extractor" in dataset.properties
    )
    if others and extractor not in others:
        hashes = ", ".join(f"{name} ({count} datasets)" for name, count in others.most_common())
        raise ExtractorMismatch(
            f"{what} was embedded by extractor {extractor}, but the graph's datasets by {hashes}. Give the "
            "probe that the graph was built with: --probe SPEC."
        )


def _which_probe(known: Sequence[Dataset]) -> str:
    probed = [dataset.properties for dataset in known if "probe" in dataset.properties]
    used = sorted({f"{own['probe']} ({own.get('extractor')})" for own in probed})
    return (
        "An image folder needs the probe model that the graph's datasets were embedded with"
        + (f", {', '.join(used)}" if used else "")
        + f": {PROBE_HINT}."
    )


def _loader(images: Sequence[CaptionedImage], on_progress: Progress) -> Callable[[Path], Image.Image]:
    """Decodes the images, in their order; at a bad one, the rest are looked through for more bad ones.

    So each image is decoded once, whether all are good or some are not.
    """
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import load_rgb

    done = 0

    def load(path: Path) -> Image.Image:
        nonlocal done
        on_progress("embedding images", done, len(images))
        done += 1
        try:
            return load_rgb(path)
        except TrainingError as error:
            problems = [image_problem(path, error)]
        for image in images[done:]:
            try:
                load_rgb(image.path)
            except TrainingError as error:
                problems.append(image_problem(image.path, error))
        raise BadInput(problems, skippable=False)

    return load
