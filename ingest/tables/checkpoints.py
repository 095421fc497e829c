"""Models that are a single file of weights: their base model, and the folder they are converted into."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.fingerprints import fingerprint_files, pipeline_fingerprint
from matchgraph.training.errors import TrainingError
from matchgraph.training.pipelines.hub import cached_pipeline, is_hub_name, pipeline_folder
from matchgraph.training.pipelines.single_file import convert, usual_base

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

CONVERTED_FOLDER = "models"
INDEX = "model_index.json"


def pipeline_of_checkpoint(graph: MatchingGraph, file: Path, base: str | None, home: Path) -> Path:
    """Convert a single-file checkpoint into a pipeline folder in the data folder, unless that is done.

    Args:
        graph: the graph, whose models may be its base.
        file: the checkpoint.
        base: a model of its architecture, which gives what the file lacks: a pipeline folder, the id of a
            model of the graph, or OWNER/NAME on the hub; if None the model that diffusers recognises, where
            it is in the graph or in the hub's cache.
        home: the data folder.

    Returns:
        The pipeline folder, named as the file.

    Raises:
        BadInput: there is no such base, or the checkpoint cannot be read or does not fit it.
        ModelUnavailable: the base is neither here nor to be had from the hub.
    """
    try:
        wanted = base or usual_base(file)
        folder = _base_folder(graph, wanted, fetched=base is not None)
        if folder is None:
            reason = f"lacks configurations and tokenizers, and its base ({wanted}) is not here"
            remedy = "give the folder or the id of a model of its kind with --config"
            raise BadInput([Problem(str(file), 0, reason, remedy)], skippable=False)
        parts = [fingerprint_files(file.parent, [file]), pipeline_fingerprint(folder)]
        digest = hashlib.sha256("".join(parts).encode()).hexdigest()[:8]
        target = home / CONVERTED_FOLDER / digest / file.stem
        if not (target / INDEX).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            convert(file, folder, target)
    except TrainingError as error:
        reason, _, remedy = str(error).removeprefix(f"{file} ").rstrip(".").partition("; ")
        remedy = remedy or "give the folder or the id of a model of its kind with --config"
        raise BadInput([Problem(str(file), 0, reason, remedy)], skippable=False) from error
    return target


def _base_folder(graph: MatchingGraph, wanted: str, *, fetched: bool) -> Path | None:
    if (Path(wanted) / INDEX).is_file():
        return Path(wanted)
    sources = {model.id: model.properties.get("source") for model in graph.models()}
    source = sources.get(wanted) or sources.get(wanted.rpartition("/")[2])
    if source and (Path(str(source)) / INDEX).is_file():
        return Path(str(source))
    if not is_hub_name(wanted):
        return None
    return pipeline_folder(wanted) if fetched else cached_pipeline(wanted)
