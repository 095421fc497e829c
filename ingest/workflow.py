"""Bringing models, datasets, results and whole records into the graph, and writing it out, as services.

The command line and the Python API call these functions, which print nothing. Fine-tuning runs are in
`ingest.runs.workflow`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.instruments import FEATURES_FOLDER, extractor_specs, load_instruments
from matchgraph.ingest.tables.comparison import METRIC
from matchgraph.ingest.tables.datasets import DatasetsReport, ingest_dataset_table, ingest_image_folders
from matchgraph.ingest.tables.export import write_records
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.ingest.tables.packed import packed_files
from matchgraph.ingest.tables.published import ingest_published
from matchgraph.ingest.tables.records import read_records, save_records
from matchgraph.ingest.tables.results import ingest_results
from matchgraph.ingest.tables.similarities import ingest_similarities
from matchgraph.progress import Progress, no_progress
from matchgraph.training.measure.names import PROBE, needed_extractors
from matchgraph.training.measure.scoring import Scorer
from matchgraph.training.pipelines.hub import cached_dataset, is_hub_name

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

__all__ = [
    "RecordCounts",
    "export_records",
    "ingest_datasets",
    "ingest_models",
    "ingest_published",
    "ingest_results",
    "ingest_similarities",
    "load_minizoo",
    "load_records",
]


@dataclass(frozen=True)
class RecordCounts:
    """How many rows of each kind a folder of records brought.

    Args:
        models: models.
        datasets: datasets.
        similarities: distances between datasets.
        results: values on edges from models to datasets.
        runs: fine-tuning runs.
        prompts: prompts.
        variants: models as they are served to prompts.
        scores: of variants on prompts.
    """

    models: int
    datasets: int
    similarities: int
    results: int
    runs: int
    prompts: int
    variants: int
    scores: int

    def to_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)


def ingest_datasets(
    graph: MatchingGraph,
    sources: Sequence[Path],
    *,
    home: Path,
    probe: str | None = None,
    extractors: Sequence[str] = (),
    metrics: Sequence[str] = (METRIC,),
    embedding: str = PROBE,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    neighbours: int = NEIGHBOURS,
    replace_content: bool = False,
    text: Collection[str] = (),
    skip_bad: bool = False,
    on_progress: Progress = no_progress,
) -> DatasetsReport:
    """Bring datasets into the graph: tables with embeddings, or folders of images.

    Args:
        graph: the graph.
        sources: tables, folders of images (also packed as Parquet, Arrow or WebDataset), folders of such
            folders, and names in the hub's cache of datasets (OWNER/NAME); taken one after another.
        home: the data folder, where features of images are kept, and images are unpacked.
        probe: the CLIP model for folders of images: a folder, or MODEL/TAG.
        extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
        metrics: what datasets are compared with each other by.
        embedding: the extractor whose mean features become the datasets' embedding.
        dataset_id: id of the dataset in the one folder that is given; its name by default.
        caption_column: the column of the images' metadata that holds the captions.
        neighbours: of how many nearest datasets each one's distances are kept; 0 for all.
        replace_content: whether a dataset of the graph may be replaced by one with other images; its results
            and runs are removed then.
        text: columns of tables to be kept as text although they look like numbers.
        skip_bad: leave bad rows, folders and images out instead of refusing all.
        on_progress: called with the step, and how much of it is done.

    Returns:
        What was written, of all sources together.

    Raises:
        BadInput: a source has problems; nothing of it, or of those after it, was written.
        IngestError: an extractor was not given, or an id for several sources.
    """
    if dataset_id is not None and len(sources) > 1:
        raise IngestError("--id names one dataset: give one folder with it.")
    extractor = scorer = None
    sources = [cached_dataset(source) if is_hub_name(source) else source for source in sources]
    of_images = {source for source in sources if source.is_dir() or packed_files(source)}
    if of_images:
        specs = extractor_specs(probe, extractors)
        instruments = load_instruments(specs, [embedding, *needed_extractors(metrics)])
        extractor = instruments[embedding]
        scorer = Scorer(metrics, instruments, home / FEATURES_FOLDER, also=[embedding])
    reports: list[DatasetsReport] = []
    for source in sources:
        if extractor is not None and source in of_images:
            reports.append(
                ingest_image_folders(
                    graph,
                    source,
                    extractor,
                    scorer=scorer,
                    dataset_id=dataset_id,
                    caption_column=caption_column,
                    neighbours=neighbours or None,
                    replace_content=replace_content,
                    skip_bad=skip_bad,
                    home=home,
                    on_progress=on_progress,
                )
            )
        else:
            reports.append(ingest_dataset_table(graph, source, text=text, skip_bad=skip_bad))
    return DatasetsReport(
        tuple(name for report in reports for name in report.written),
        tuple(name for report in reports for name in report.unchanged),
        sum(report.similarities for report in reports),
        tuple(problem for report in reports for problem in report.skipped),
        tuple(note for report in reports for note in report.notes),
        images=sum(report.images for report in reports),
        captioned=sum(report.captioned for report in reports),
    )


def export_records(graph: MatchingGraph, folder: Path, *, shareable: bool = False) -> dict[str, int]:
    """Write the whole graph as tables that `load_records` reads.

    Args:
        graph: the graph.
        folder: gets the tables; files of records that are there are replaced.
        shareable: leave out what is of this machine alone: where files lie, how fast models are here, and
            of runs those that are not done, hosts and times of the day.

    Returns:
        File name to how many rows it got.

    Raises:
        IngestError: a prompt, variant or score would not come back from a table as it was, or the folder has
            files of another graph's prompts.
    """
    return write_records(graph, graph.runner, folder, shareable=shareable)


def load_records(
    graph: MatchingGraph,
    folder: Path,
    *,
    without: Collection[str] = (),
    on_progress: Progress = no_progress,
) -> RecordCounts:
    """Load a folder of records that `export_records` wrote; what the graph has beside them stays, properties
    as well.

    Args:
        graph: the graph.
        folder: the folder.
        without: ids of datasets to leave out, with all that is known of them.
        on_progress: called with the step, the rows saved and all of them.

    Raises:
        BadInput: a table is missing or has problems; nothing was written.
        IngestError: a dataset to be left out is not among the records, or the graph has other content under
            the id of a model or dataset; nothing was written.
    """
    on_progress("Reading records", 0, 0)
    found = read_records(folder, graph.metric).without(without)
    save_records(graph, graph.runner, found, on_progress=on_progress)
    level = found.prompt_level
    return RecordCounts(
        models=len(found.models),
        datasets=len(found.datasets),
        similarities=len(found.similar),
        results=len(found.results),
        runs=len(found.runs),
        prompts=len(level.prompts),
        variants=len(level.variants),
        scores=len(level.scores),
    )


def load_minizoo(
    graph: MatchingGraph, *, without: Collection[str] = (), on_progress: Progress = no_progress
) -> RecordCounts:
    """Load the records that come with matchgraph: ten tiny models, 32 datasets, 320 measured fine-tunings.

    Args:
        graph: the graph.
        without: ids of datasets to leave out, with all that is known of them.
        on_progress: see `load_records`.

    Raises:
        IngestError: a dataset to be left out is not among the records.
    """
    with resources.as_file(resources.files("matchgraph.minizoo") / "records") as folder:
        return load_records(graph, folder, without=without, on_progress=on_progress)
