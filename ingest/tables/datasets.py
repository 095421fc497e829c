"""Datasets: from a table with embeddings, or from image folders that the probe model looks at."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.connection import settings_from_environment
from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.errors import ContentChanged, GraphChanged, UnknownMetric
from matchgraph.graphdb.models import Dataset, Metric, Property, Similar, Statistics
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import (
    Row,
    Table,
    check_ids,
    check_unique,
    id_fault,
    number_problem,
    parse_number,
    read_table,
    typed_columns,
)
from matchgraph.ingest.tables.fingerprints import fingerprint_files
from matchgraph.ingest.tables.identity import identity_of, taken_meanwhile
from matchgraph.ingest.tables.nearest import KnownSamples
from matchgraph.ingest.tables.packed import packed_files, unpack
from matchgraph.progress import Progress, no_progress
from matchgraph.training.captions import METADATA_FILES, concept_of
from matchgraph.training.contents import recognise, remedy
from matchgraph.training.dataset_files import OTHER_SUFFIXES, SUFFIXES, holds_images, is_junk, is_split
from matchgraph.training.files import folder_name
from matchgraph.training.measure.kernels import Distance
from matchgraph.training.measure.scoring import OF_FEATURES, PROBE, Scorer
from matchgraph.words import some

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.images import CaptionedImage, DatasetFolder
    from matchgraph.training.measure.extractors import CaptionExtractor, Extractor
    from matchgraph.training.measure.scoring import Measure, Reference, Sample

EMBEDDING_COLUMN = re.compile(r"e(0|[1-9]\d*)", re.ASCII)
METRIC = "clip_fid"
MINIMUM_IMAGES = 2  # a covariance needs two
FOLDER_HINT = "name a folder of images, or a folder of such folders"


@dataclass(frozen=True)
class ImageFolder:
    """The images of one dataset.

    Args:
        id: the dataset's id, see `dataset_name`.
        folder: the folder.
        images: with their captions; those that can be used, once they were decoded.
        caption_column: the column of its metadata that holds the captions, where the user named it.
        notes: what the folder holds and is not read.
    """

    id: str
    folder: Path
    images: tuple[CaptionedImage, ...]
    caption_column: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def captioned(self) -> int:
        """How many images have a caption."""
        return sum(image.caption is not None for image in self.images)


@dataclass(frozen=True)
class FoldersReading:
    """What was found in image folders.

    Args:
        folders: the datasets, in the order of their folders.
        problems: folders and images that cannot be used.
    """

    folders: tuple[ImageFolder, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class DatasetsReport:
    """What an ingestion of datasets did.

    Args:
        written: ids of the datasets that were written.
        unchanged: ids of those that the graph held already, with the same images and the same probe.
        similarities: how many pairs were measured.
        skipped: problems of what was left out.
        notes: what was not read, or could not be measured, and why.
        images: how many images the folders hold.
        captioned: how many of these have a caption.
    """

    written: tuple[str, ...]
    unchanged: tuple[str, ...]
    similarities: int
    skipped: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    images: int = 0
    captioned: int = 0


def read_dataset_table(
    path: Path, *, text: Collection[str] = (), skip_bad: bool = False, exact: bool = False
) -> tuple[tuple[Dataset, ...], tuple[Problem, ...]]:
    """Read datasets from a CSV file with a column `dataset` (or `id`).

    Any other column is an attribute, and the columns e0..eN together are the mean embedding.

    Args:
        path: the file.
        text: columns to be kept as text although they look like numbers.
        skip_bad: leave rows with a problem out instead of refusing the file.
        exact: keep ids as they stand, and add no name.

    Returns:
        The datasets in file order, and the problems of the rows left out.

    Raises:
        BadInput: the file has problems.
    """
    table = read_table(
        path,
        required=("dataset",),
        aliases={"id": "dataset"},
        reserved=("embedding",),
        verbatim=("dataset",) if exact else (),
        wanted="dataset",
    )
    embedding = sorted((c for c in table.columns if EMBEDDING_COLUMN.fullmatch(c)), key=lambda c: int(c[1:]))
    gaps = [f"e{position}" for position in range(len(embedding)) if f"e{position}" not in embedding]
    if gaps:
        reason = f"the embedding ends at {embedding[-1]} but has no {', '.join(gaps[:5])}"
        raise BadInput([Problem(str(path), 1, reason, "number its columns from e0 on")], skippable=False)
    attributes = [column for column in table.columns if column != "dataset" and column not in embedding]
    check_ids(table, {"dataset": "dataset"})
    check_unique(table, "dataset")
    values = typed_columns(table, attributes, text=text)
    vectors = {row.line: _vector(table, row, embedding) for row in table.rows}
    skipped = table.finish(skip_bad=skip_bad)
    datasets = tuple(
        Dataset(name, values[row.line] if exact else {"name": name, **values[row.line]}, vectors[row.line])
        for row in table.good_rows()
        if (name := row.cells["dataset"])
    )
    return datasets, skipped


def _vector(table: Table, row: Row, columns: Sequence[str]) -> tuple[float, ...] | None:
    """Return the row's embedding, or None where all its cells are empty; note a cell that is not a number."""
    cells = [row.cells[column] for column in columns]
    if not any(cells):
        return None
    values: list[float] = []
    for column, cell in zip(columns, cells, strict=True):
        value = parse_number(cell)
        if value is None:
            reason, _ = number_problem(cell)
            table.problem(
                row.line, f"embedding {column}: {reason}", "write all of the embedding or none of it"
            )
            return None
        values.append(value)
    return tuple(values)


def dataset_folders(folder: Path) -> list[Path]:
    """Return the dataset folders meant by `folder`.

    That is `folder` itself where it holds images, metadata, a folder for each split (train, validation, test)
    or files that images are packed in, or where its subfolders are named as for kohya's scripts; else its
    subfolders. Also a single file of packed images.

    Raises:
        BadInput: `folder` is not a folder, holds neither images nor folders, or has folders of images beside
            those of its splits.
    """
    if folder.is_file() and packed_files(folder):
        return [folder]
    if not folder.is_dir():
        content = recognise(folder)
        reason = "is not a folder" if content is None else f"is {content.name}, not a folder of images"
        hint = FOLDER_HINT if content is None else remedy(content, "dataset")
        raise BadInput([Problem(str(folder), 0, reason, hint)], skippable=False)
    if (folder / "model_index.json").exists():
        problem = Problem(str(folder), 0, "is a pipeline, not images", "use `matchgraph ingest models`")
        raise BadInput([problem], skippable=False)
    entries = sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))
    if any(entry.is_file() and _looks_like_data(entry) for entry in entries):
        return [folder]
    inside = [entry for entry in entries if entry.is_dir()]
    with_images = [entry for entry in inside if holds_images(entry)]
    if not with_images and packed_files(folder):
        return [folder]
    if not inside:
        raise BadInput([Problem(str(folder), 0, "holds no images", FOLDER_HINT)], skippable=False)
    if with_images and all(concept_of(entry.name) for entry in with_images):
        return [folder]
    splits = [entry.name for entry in with_images if is_split(entry.name)]
    if splits:
        others = [entry.name for entry in with_images if not is_split(entry.name)]
        if others:
            reason = f"holds the splits {', '.join(splits)} beside other folders, {', '.join(others)}"
            hint = "give the folders one by one, or move those that are not splits elsewhere"
            raise BadInput([Problem(str(folder), 0, reason, hint)], skippable=False)
        return [folder]
    return inside


def _looks_like_data(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES | OTHER_SUFFIXES or file.name in METADATA_FILES


def dataset_name(folder: Path) -> str:
    """What a dataset's folder is called.

    That is the folder's own name; for the folder of a split (train, validation, test) the name of its
    parent; in the cache of the Hugging Face hub the repository's, with its owner; of a file its name without
    the suffix.
    """
    path = Path(os.path.abspath(folder))
    if path.is_file():
        return path.stem
    if is_split(path.name) and path.parent.name:
        path = path.parent
    return folder_name(path)


def read_folders(
    folder: Path,
    *,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    home: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> FoldersReading:
    """Find the image datasets in a folder and decode every image once, so that bad ones are known at once.

    Args:
        folder: a folder of images, or a folder of such folders.
        dataset_id: id of the dataset, where there is one; None for `dataset_name`.
        caption_column: the column of the metadata that holds the captions; None for the usual ones.
        home: see `list_folder`.
        on_image: called after each image with the number done and the number found so far.

    Returns:
        The datasets with their good images, and what is wrong with the rest.

    Raises:
        BadInput: there is no dataset folder at all, or an id is given for several.
    """
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import load_rgb

    listed: list[ImageFolder] = []
    problems: list[Problem] = []
    places = dataset_folders(folder)
    if dataset_id is not None and places != [folder]:
        problem = Problem(str(folder), 0, "holds several datasets", "name one of them, or leave --id out")
        raise BadInput([problem], skippable=False)
    for place in places:
        try:
            listed.append(list_folder(place, dataset_id=dataset_id, caption_column=caption_column, home=home))
        except BadInput as error:
            problems += error.problems
    total = sum(len(each.images) for each in listed)
    done = 0
    found: list[ImageFolder] = []
    for each in listed:
        good: list[CaptionedImage] = []
        for image in each.images:
            try:
                load_rgb(image.path)
                good.append(image)
            except TrainingError as error:
                problems.append(image_problem(image.path, error))
            done += 1
            if on_image is not None:
                on_image(done, total)
        usable = replace(each, images=tuple(good))
        if few := too_few_images(usable):
            problems.append(few)
        else:
            found.append(usable)
    return FoldersReading(tuple(found), tuple(problems))


def list_folder(
    place: Path,
    *,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    home: Path | None = None,
) -> ImageFolder:
    """The images of one dataset, as they are listed; none is decoded.

    Args:
        place: the folder. Packed images are unpacked first, once, see `packed.unpack`.
        dataset_id: id of the dataset; None for `dataset_name`.
        caption_column: the column of the metadata that holds the captions; None for the usual ones.
        home: the data folder, for what is unpacked; None for the one of the environment.

    Raises:
        BadInput: the folder's name is not an id, or it cannot be listed.
    """
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import DatasetFolder, read_image_folder

    name = dataset_id or dataset_name(place)
    if fault := id_fault(name, "dataset"):
        problem = Problem(repr(str(place))[1:-1], 0, fault[0], "rename the folder")
        raise BadInput([problem], skippable=False)
    notes: list[str] = []
    folder = place
    try:
        if packed_files(place) and not holds_images(place):
            folder = unpack(place, name, home or settings_from_environment().home)
            notes.append(f"its images were unpacked into {folder}; keep that folder for fine-tuning")
        listing = read_image_folder(DatasetFolder(folder, caption_column))
    except TrainingError as error:
        raise BadInput([_folder_problem(place, error)], skippable=False) from error
    notes += listing.notes
    return ImageFolder(
        name, folder, tuple(listing.images), caption_column, tuple(f"{name}: {note}" for note in notes)
    )


def too_few_images(found: ImageFolder) -> Problem | None:
    """What is wrong with a dataset of a single image, or none; None of one with more."""
    count = len(found.images)
    if count >= MINIMUM_IMAGES:
        return None
    reason = f"holds {count} usable image{'s' if count != 1 else ''}"
    return Problem(str(found.folder), 0, reason, f"a dataset needs {MINIMUM_IMAGES} at least")


def _folder_problem(folder: Path, error: Exception) -> Problem:
    # The message says what to do after a semicolon, and may begin with the folder, which is the place.
    reason, _, hint = str(error).removeprefix(f"{folder} ").rstrip(".").partition("; ")
    return Problem(str(folder), 0, reason, hint or "correct the folder")


def image_problem(file: Path, error: Exception) -> Problem:
    """An image that cannot be used."""
    # The message begins with the file's name, which the problem's place says already.
    reason = str(error).removeprefix(f"{file} ").rstrip(".")
    return Problem(str(file), 0, reason, "replace or delete the image")


def ingest_dataset_table(
    graph: MatchingGraph, path: Path, *, text: Collection[str] = (), skip_bad: bool = False
) -> DatasetsReport:
    """Read a table of datasets (see `read_dataset_table`) and save it in the graph, in one transaction.

    What the graph knows of a dataset and the table does not say is kept.

    Args:
        graph: the graph.
        path: the file.
        text: columns to be kept as text although they look like numbers.
        skip_bad: leave rows with a problem out instead of refusing the file.

    Returns:
        What was written.

    Raises:
        BadInput: the file has problems; nothing was written.
    """
    datasets, skipped = read_dataset_table(path, text=text, skip_bad=skip_bad)
    graph.save_datasets(datasets, merge=True)
    return DatasetsReport(tuple(dataset.id for dataset in datasets), (), 0, skipped)


def ingest_image_folders(
    graph: MatchingGraph,
    folder: Path,
    extractor: Extractor | CaptionExtractor,
    *,
    scorer: Scorer | None = None,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    neighbours: int | None = NEIGHBOURS,
    replace_content: bool = False,
    skip_bad: bool = False,
    home: Path | None = None,
    on_progress: Progress = no_progress,
) -> DatasetsReport:
    """Bring image folders into the graph: attributes, mean embedding, feature statistics, distances.

    All images are decoded before anything is written. Each dataset is then written in one transaction, with
    its distances to the nearest datasets that the same extractors looked at, so an interrupted ingestion is
    completed by running it again. A dataset that is there already, unchanged, is left alone.

    Args:
        graph: the graph.
        folder: a folder of images, or a folder of such folders.
        extractor: the probe model, whose mean features become a dataset's embedding.
        scorer: the metrics that datasets are compared by, with their extractors, the probe among them; by
            default CLIP-FID of the probe.
        dataset_id: id of the dataset, where there is one; None for `dataset_name`.
        caption_column: the column of the metadata that holds the captions; None for the usual ones.
        neighbours: of how many nearest datasets each one's distances are kept; None for all.
        replace_content: whether a dataset of the graph may be replaced by one with other images; its results
            and runs are removed then.
        skip_bad: leave bad images and folders out instead of refusing all.
        home: see `list_folder`.
        on_progress: called with the step, and how much of it is done.

    Returns:
        What was written.

    Raises:
        BadInput: an image or a folder cannot be used, or the graph has another dataset of its id; nothing was
            written.
        BadDataset: a metric of captions finds too few of them.
    """
    reading = read_folders(
        folder,
        dataset_id=dataset_id,
        caption_column=caption_column,
        home=home,
        on_image=lambda done, of: on_progress("checking images", done, of),
    )
    stored = {dataset.id: dataset for dataset in graph.datasets()}
    identity = identity_of(graph, "dataset", stored, replace=replace_content)
    problems = list(reading.problems)
    usable: list[tuple[ImageFolder, str]] = []
    for found in reading.folders:
        content = images_hash(found)
        problem = identity.problem(found.id, str(found.folder.resolve()), content, str(found.folder))
        if problem is None:
            usable.append((found, content))
        else:
            problems.append(problem)
    if problems and not skip_bad:
        raise BadInput(problems)
    comparison = Comparison(graph, extractor, scorer, neighbours=neighbours)
    written: list[str] = []
    unchanged: list[str] = []
    notes: list[str] = []
    small: dict[int, dict[str, int]] = {}
    measured = 0
    for position, (found, content) in enumerate(usable):
        on_progress("measuring datasets", position, len(usable))
        notes += found.notes
        if not found.captioned:
            notes.append(f"{found.id}: none of its {len(found.images)} images has a caption.")
        if comparison.is_known(found.id, content):
            if (moved := comparison.moved(found)) is not None:
                graph.save_datasets([moved], read=stored)
            unchanged.append(found.id)
            continue
        if note := identity.likely_same(found.id, content):
            notes.append(note)
        replaced = [found.id] if identity.is_replaced(found.id, content) else []
        if replaced and (count := identity.measured.get(found.id)):
            notes.append(
                f"{found.id}: replaced; what was measured on the former images ({count}) was removed."
            )
        changed = comparison.forget_changed(found.id, content, replaced=bool(replaced))
        try:
            saved = comparison.measure_and_save(
                graph, found, content, changed=changed, replaced=replaced, read=stored
            )
        except ContentChanged:
            source, place = str(found.folder.resolve()), str(found.folder)
            problem = taken_meanwhile(graph, "dataset", found.id, source=source, content=content, place=place)
            if not skip_bad:
                raise BadInput([problem]) from None
            problems.append(problem)
            continue
        written.append(found.id)
        measured += len(saved.similar)
        notes += saved.notes
        for statistics in saved.statistics:
            if statistics.n <= statistics.mean.size:
                small.setdefault(statistics.mean.size, {})[found.id] = statistics.n
    for dimension, counts in small.items():
        names = some([f"{name} ({n})" for name, n in counts.items()])
        need = f"distances in {dimension} dimensions need more than {dimension} images"
        notes.append(f"{names}: {need}, so those of these datasets are unreliable.")
    on_progress("measuring datasets", len(usable), len(usable))
    return DatasetsReport(
        tuple(written),
        tuple(unchanged),
        measured,
        tuple(problems),
        tuple(notes),
        images=sum(len(found.images) for found, _ in usable),
        captioned=sum(found.captioned for found, _ in usable),
    )


@dataclass(frozen=True, eq=False)
class DatasetMeasurement:
    """A dataset as it was measured: what `save_datasets` takes, and more.

    Args:
        dataset: the node.
        statistics: of its features, by each extractor.
        similar: its distances to other datasets.
        notes: distances that could not be measured, and why.
        reference: its features, to compare others with.
    """

    dataset: Dataset
    statistics: tuple[Statistics, ...]
    similar: tuple[Similar, ...]
    notes: tuple[str, ...]
    reference: Reference


class Comparison:
    """Compares datasets with those of the graph; of each, what distances need is read and computed once.

    Args:
        graph: the graph; read, and metrics that it does not know are defined in it.
        extractor: the probe model.
        scorer: the metrics, with their extractors, the probe among them; by default CLIP-FID of the probe.
        datasets: those of the graph, where they have been read already.
        neighbours: how many nearest datasets each one is compared with; None for all.
    """

    def __init__(
        self,
        graph: MatchingGraph,
        extractor: Extractor | CaptionExtractor,
        scorer: Scorer | None = None,
        *,
        datasets: Sequence[Dataset] | None = None,
        neighbours: int | None = NEIGHBOURS,
    ) -> None:
        self._probe = extractor
        self._scorer = scorer or Scorer((METRIC,), {PROBE: extractor})
        self._graph = graph
        known = graph.datasets() if datasets is None else datasets
        self._stored = {dataset.id: dataset for dataset in known}
        self._neighbours = neighbours
        self._samples = {
            name: KnownSamples(graph, instrument.hash) for name, instrument in self._scorer.extractors.items()
        }
        for measure in self._scorer.measures:
            define_metric(graph, measure)

    @cached_property
    def _pairs(self) -> dict[str, dict[tuple[str, str], float]]:
        """Distances of the datasets that were compared, by metric."""
        hashes = {name: instrument.hash for name, instrument in self._scorer.extractors.items()}
        return {
            measure.metric: self._graph.compared(measure.metric, hashes[measure.extractor])
            for measure in self._scorer.measures
        }

    @property
    def has_statistics(self) -> bool:
        """Whether there is any dataset to compare another one with."""
        return any(map(len, self._samples.values()))

    def is_known(self, dataset: str, content: str) -> bool:
        """Say whether the graph holds all there is to measure of a dataset with these images."""
        stored = self._stored.get(dataset)
        if stored is None or not _is_same(stored, content, self._probe):
            return False
        for measure in self._scorer.measures:
            known = self._samples[measure.extractor]
            pairs = self._pairs[measure.metric]
            apart = (other for other in known if other != dataset and _pair(dataset, other) not in pairs)
            if any(not self._were_searched(measure, dataset, other) for other in apart):
                return False
        return all(dataset in known for known in self._samples.values())

    def moved(self, found: ImageFolder) -> Dataset | None:
        """A known dataset with the folder where its images are now; None if it is the one that is known."""
        stored, source = self._stored[found.id], str(found.folder.resolve())
        if stored.properties.get("source") == source:
            return None
        self._stored[found.id] = replace(stored, properties={**stored.properties, "source": source})
        return self._stored[found.id]

    def forget_changed(self, dataset: str, content: str, *, replaced: bool = False) -> list[str]:
        """Forget what was measured on other images of a dataset; returns its id if there are any.

        Args:
            dataset: its id.
            content: hash of its images now.
            replaced: whether it is another dataset now, of which nothing known is true.
        """
        stored = self._stored.get(dataset)
        before = stored.properties.get("content_hash") if stored is not None else None
        if before in (None, content):
            return []
        if replaced:
            del self._stored[dataset]
        for known in self._samples.values():
            known.forget(dataset)
        for metric, pairs in self._pairs.items():
            self._pairs[metric] = {pair: value for pair, value in pairs.items() if dataset not in pair}
        return [dataset]

    def measure(
        self,
        found: ImageFolder,
        content: str,
        *,
        save: bool = False,
        load: Callable[[Path], Image.Image] | None = None,
    ) -> DatasetMeasurement:
        """Measure a dataset and its distances to the known datasets nearest to it; nothing is written.

        Args:
            found: the dataset.
            content: hash of its images, see `images_hash`.
            save: whether it is going to be saved: it is then also compared with datasets that it is one of
                the nearest of, and with those of which it is not known that they were compared with others.
            load: how an image is decoded, see `Scorer.reference`.

        Raises:
            BadDataset: a metric of captions finds too few of them.
        """
        reference = self._scorer.reference(found.folder, content, images=found.images, load=load)
        similar: list[Similar] = []
        notes: list[str] = []
        for measure in self._scorer.measures:
            instrument = self._scorer.extractors[measure.extractor]
            own = reference.samples[measure.extractor]
            near = self._nearest(found.id, own, measure, save=save)
            if measure.distance not in OF_FEATURES:
                there = self._samples[measure.extractor].samples(near)
                distances = [Distance(value) for value in near.values()]
            else:
                others = {other: self._sample(other, measure) for other in near}
                notes += [
                    f"{measure.metric} of {found.id!r} and {other!r} was not measured: the images of "
                    f"{other!r} are not here as they were ingested."
                    for other, sample in others.items()
                    if sample is None
                ]
                there = {other: sample for other, sample in others.items() if sample is not None}
                distances = own.distances(list(there.values()), measure.distance)
            for (other, sample), distance in zip(there.items(), distances, strict=True):
                provenance: dict[str, Property] = {
                    "extractor": instrument.hash,
                    "extractor_name": instrument.name,
                    "resize": instrument.resize,
                    "version": measure.version,
                    # Of two samples the smaller one limits how far their distance can be trusted.
                    "n_real": min(own.n, sample.n),
                }
                if distance.std is not None:
                    provenance["std"] = distance.std
                similar.append(Similar(found.id, other, measure.metric, distance.value, provenance))
        statistics = {
            name: Statistics(
                found.id,
                instrument.hash,
                instrument.resize,
                reference.samples[name].n,
                reference.samples[name].statistics.mean,
                reference.samples[name].statistics.covariance,
                self._searched_by(found.id, name),
            )
            for name, instrument in self._scorer.extractors.items()
        }
        probed = next(known for known in statistics.values() if known.extractor == self._probe.hash)
        dataset = _merged(self._stored.get(found.id), _described(found, content, probed, self._probe))
        return DatasetMeasurement(
            dataset, tuple(statistics.values()), tuple(similar), tuple(notes), reference
        )

    def measure_and_save(
        self,
        graph: MatchingGraph,
        found: ImageFolder,
        content: str,
        *,
        changed: Collection[str] = (),
        replaced: Collection[str] = (),
        read: Mapping[str, Dataset] | None = None,
    ) -> DatasetMeasurement:
        """Measure a dataset, and save it with its distances to all others of the graph.

        Where another writer adds a dataset in the meantime, the two are compared before this one is saved.

        Args:
            graph: the graph.
            found: the dataset.
            content: hash of its images, see `images_hash`.
            changed: see `MatchingGraph.save_datasets`.
            replaced: likewise.
            read: likewise.

        Returns:
            What was saved.

        Raises:
            ContentChanged: another writer has saved other images under its id; nothing was written.
            BadDataset: a metric of captions finds too few of them.
        """
        while True:
            measured = self.measure(found, content, save=True)
            try:
                graph.save_datasets(
                    [measured.dataset],
                    measured.statistics,
                    measured.similar,
                    changed=changed,
                    replaced=replaced,
                    compared=self.compared,
                    read=read,
                )
            except ContentChanged:
                raise
            except GraphChanged:
                self._read_new(graph)
            else:
                self.add(measured)
                return measured

    @property
    def compared(self) -> dict[str, set[str]]:
        """By the hash of each extractor, the datasets that `measure` compares with."""
        return {
            instrument.hash: set(self._samples[name]) for name, instrument in self._scorer.extractors.items()
        }

    def _read_new(self, graph: MatchingGraph) -> None:
        """Add datasets that others have added to the graph to the known ones."""
        self._stored |= {
            dataset.id: dataset for dataset in graph.datasets() if dataset.id not in self._stored
        }
        for known in self._samples.values():
            known.read()

    def add(self, measured: DatasetMeasurement) -> None:
        """Take a dataset among the known ones."""
        self._stored[measured.dataset.id] = measured.dataset
        for name, sample in measured.reference.samples.items():
            searched = self._searched_by(measured.dataset.id, name)
            self._samples[name].add(measured.dataset.id, sample, searched)
        for similar in measured.similar:
            self._pairs[similar.metric][similar.pair] = similar.value

    def _nearest(self, dataset: str, own: Sample, measure: Measure, *, save: bool) -> dict[str, float]:
        """The datasets to compare one with by a metric, and their Frechet distances, sorted by id."""
        known = self._samples[measure.extractor]
        always: list[str] = []
        radii: dict[str, float] = {}
        if save and self._neighbours is not None and len(known) > self._neighbours:
            always = [other for other in known if measure.metric not in known.searched(other)]
            if measure.distance not in OF_FEATURES:
                radii = self._radii(measure.metric)
        found = known.nearest(own, self._neighbours, without=dataset, always=always, radii=radii)
        return dict(sorted(found.items()))

    def _radii(self, metric: str) -> dict[str, float]:
        """How far the last of each dataset's nearest ones is, as far as there are that many."""
        distances: dict[str, list[float]] = {}
        for pair, value in self._pairs[metric].items():
            for dataset in pair:
                distances.setdefault(dataset, []).append(value)
        count = self._neighbours or 0
        return {name: sorted(own)[count - 1] for name, own in distances.items() if len(own) >= count > 0}

    def _searched_by(self, dataset: str, extractor: str) -> tuple[str, ...]:
        """Metrics of an extractor that a dataset is compared with its nearest ones by, once it is saved."""
        now = {measure.metric for measure in self._scorer.measures if measure.extractor == extractor}
        return tuple(sorted(now | self._samples[extractor].searched(dataset)))

    def _were_searched(self, measure: Measure, *datasets: str) -> bool:
        known = self._samples[measure.extractor]
        return self._neighbours is not None and all(
            measure.metric in known.searched(dataset) for dataset in datasets
        )

    def _sample(self, dataset: str, measure: Measure) -> Sample | None:
        """A known dataset as a metric needs it; None where its images would have to be here and are not."""
        from matchgraph.training.errors import TrainingError

        sample = self._samples[measure.extractor].samples([dataset]).get(dataset)
        if sample is None or sample.features is not None:
            return sample
        properties = self._stored[dataset].properties
        folder = source_of(self._stored[dataset])
        content = str(properties.get("content_hash"))
        try:
            if listed_hash(folder) != content:
                return None
            seen = self._scorer.reference(folder, content)
        except TrainingError:
            return None
        for name, known in seen.samples.items():
            # Of the others the graph has no statistics yet.
            if dataset in self._samples[name]:
                self._samples[name].add(dataset, known)
        return seen.samples[measure.extractor]


def define_metric(graph: MatchingGraph, measure: Measure) -> None:
    """Define a metric in the graph where it is not known, as one of which less is better."""
    try:
        graph.metric(measure.metric)
    except UnknownMetric:
        # Kernel distances are unbiased estimates, which may fall a little below zero.
        graph.save_metric(Metric(measure.metric, minimum=0 if measure.distance == "fid" else None))


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def images_hash(found: ImageFolder) -> str:
    """Return 16 hex digits over a dataset's images, their names, captions and split."""
    digest = hashlib.sha256(fingerprint_files(found.folder, [image.path for image in found.images]).encode())
    digest.update(json.dumps([image.caption for image in found.images]).encode())
    if any(image.held_out for image in found.images):
        digest.update(json.dumps([image.held_out for image in found.images]).encode())
    return digest.hexdigest()[:16]


def source_of(dataset: Dataset) -> DatasetFolder:
    """The folder that a dataset was ingested from, with the column of its captions."""
    from matchgraph.training.images import DatasetFolder

    properties = dataset.properties
    return DatasetFolder(Path(str(properties.get("source"))), properties.get("caption_column"))


def listed_hash(folder: str | os.PathLike[str]) -> str:
    """Return the hash of a folder's images as they are now, without decoding them.

    Args:
        folder: a folder of images, see `training.images.read_image_folder`.

    Returns:
        What `images_hash` gave when the dataset was ingested, if nothing has changed since.

    Raises:
        BadDataset: the folder holds no images or a faulty metadata file.
        BadImage: a file is in an image format that is not read.
    """
    from matchgraph.training.images import list_captioned_images

    place = Path(folder)
    return images_hash(ImageFolder(place.name, place, tuple(list_captioned_images(folder))))


def _described(
    found: ImageFolder, content: str, statistics: Statistics, extractor: Extractor | CaptionExtractor
) -> Dataset:
    properties: dict[str, Any] = {
        "name": found.id,
        "images": len(found.images),
        "captioned": found.captioned,
        "probe": extractor.name,
        "extractor": extractor.hash,
        "resize": extractor.resize,
        "n_real": statistics.n,
        "source": str(found.folder.resolve()),
        "content_hash": content,
    }
    if found.caption_column is not None:
        properties["caption_column"] = found.caption_column
    return Dataset(found.id, properties, tuple(statistics.mean.tolist()))


def _is_same(stored: Dataset, content: str, extractor: Extractor | CaptionExtractor) -> bool:
    had = (stored.properties.get("content_hash"), stored.properties.get("extractor"))
    return had == (content, extractor.hash)


def _merged(stored: Dataset | None, new: Dataset) -> Dataset:
    """Return `new` with what `stored` says in addition."""
    if stored is None:
        return new
    embedding = stored.embedding if new.embedding is None else new.embedding
    return Dataset(new.id, {**stored.properties, **new.properties}, embedding)
