"""Datasets: brought into the graph from a table with embeddings, or from image folders."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.errors import ContentChanged
from matchgraph.graphdb.models import Dataset
from matchgraph.graphdb.names import alike
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.comparison import Comparison
from matchgraph.ingest.tables.csv_file import (
    Row,
    Table,
    check_ids,
    check_unique,
    number_problem,
    parse_number,
    read_table,
    typed_columns,
)
from matchgraph.ingest.tables.identity import identity_of, taken_meanwhile
from matchgraph.ingest.tables.image_folders import ImageFolder, images_hash, read_folders
from matchgraph.progress import Progress, no_progress
from matchgraph.training.measure.scoring import Scorer
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.extractors import CaptionExtractor, Extractor


# As others call the dimensions of an embedding, of which there are more than of numbered attributes.
NUMBERED_COLUMN = re.compile(r"(\D+)\d+", re.ASCII)
FEWEST_DIMENSIONS = 8
EMBEDDING_COLUMN = re.compile(r"e(0|[1-9]\d*)", re.ASCII)


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
        reserved={"embedding": "write its numbers into columns e0, e1 and so on"},
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
    values = typed_columns(table, attributes, text=text, exact=exact)
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
    names = tuple(dataset.id for dataset in datasets)
    notes = [*alike(names, (dataset.id for dataset in graph.datasets())), *_likely_embeddings(datasets)]
    graph.save_datasets(datasets, merge=True)
    return DatasetsReport(names, (), 0, skipped, tuple(f"{path.name}: {note}" for note in notes))


def _likely_embeddings(datasets: Sequence[Dataset]) -> list[str]:
    """That numbered columns of numbers are attributes, in a table without an embedding."""
    if any(dataset.embedding is not None for dataset in datasets):
        return []
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for dataset in datasets for name in dataset.properties):
        numbered = NUMBERED_COLUMN.fullmatch(name)
        kinds = {type(dataset.properties.get(name, 0)) for dataset in datasets}
        if numbered and kinds <= {int, float}:
            found.setdefault(numbered[1], []).append(name)
    return [
        f"{names[0]} to {names[-1]} are attributes: for an embedding, call them e0 to e{len(names) - 1}."
        for names in found.values()
        if len(names) >= FEWEST_DIMENSIONS
    ]


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
