"""Models of the zoo: from a table of attributes, or from the config files of diffusers pipeline folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.connection import settings_from_environment
from matchgraph.graphdb.errors import ContentChanged
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.names import alike
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.checkpoints import pipeline_of_checkpoint
from matchgraph.ingest.tables.csv_file import check_ids, check_unique, read_table, typed_columns
from matchgraph.ingest.tables.facts import (
    MEASURED,
    FactsConfig,
    check_device,
    is_measured,
    known_facts,
    profile_facts,
    throughput_facts,
)
from matchgraph.ingest.tables.identity import identity_of, taken_meanwhile
from matchgraph.ingest.tables.pipelines import read_pipelines
from matchgraph.progress import Progress, no_progress
from matchgraph.training.pipelines.hub import is_hub_name, pipeline_folder
from matchgraph.training.pipelines.single_file import is_single_file

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph


def read_model_table(
    path: Path, *, text: Collection[str] = (), skip_bad: bool = False, exact: bool = False
) -> tuple[tuple[Model, ...], tuple[Problem, ...]]:
    """Read models from a CSV file with a column `model` (or `id`) and any attributes.

    Args:
        path: the file.
        text: columns to be kept as text although they look like numbers.
        skip_bad: leave rows with a problem out instead of refusing the file.
        exact: keep ids as they stand, and add no name.

    Returns:
        The models in file order, and the problems of the rows left out.

    Raises:
        BadInput: the file has problems.
    """
    verbatim = ("model",) if exact else ()
    table = read_table(path, required=("model",), aliases={"id": "model"}, verbatim=verbatim, wanted="model")
    attributes = [column for column in table.columns if column != "model"]
    check_ids(table, {"model": "model"})
    check_unique(table, "model")
    values = typed_columns(table, attributes, text=text, exact=exact)
    skipped = table.finish(skip_bad=skip_bad)
    models = tuple(
        Model(name, values[row.line] if exact else {"name": name, **values[row.line]})
        for row in table.good_rows()
        if (name := row.cells["model"])
    )
    return models, skipped


@dataclass(frozen=True)
class ModelsReport:
    """What an ingestion of models did.

    Args:
        written: ids of the models.
        skipped: problems of what was left out.
        notes: what was passed over without harm.
        measured: `params`, `tflop` and `throughput` of the models read from folders, as far as known.
    """

    written: tuple[str, ...]
    skipped: tuple[Problem, ...]
    notes: tuple[str, ...]
    measured: Mapping[str, Mapping[str, float]]


def ingest_models(
    graph: MatchingGraph,
    path: Path,
    *,
    text: Collection[str] = (),
    skip_bad: bool = False,
    model_id: str | None = None,
    replace_content: bool = False,
    facts: FactsConfig | None = None,
    config: str | None = None,
    home: Path | None = None,
    on_progress: Progress = no_progress,
) -> ModelsReport:
    """Read a table or pipeline folders (see `read_model_table`, `read_pipelines`) and save the models.

    What the graph knows of a model and the input does not say is kept, so a table can add to what pipeline
    folders gave. A pipeline folder replaces all that a pipeline folder gave before. One transaction; then
    throughputs are measured, and each is saved as soon as it is known.

    Args:
        graph: the graph.
        path: a CSV file, a folder, a checkpoint in a single safetensors file, or a pipeline's name on the hub
            (OWNER/NAME), which is found or fetched by `training.pipelines.hub.pipeline_folder`.
        text: columns of the table to be kept as text although they look like numbers.
        skip_bad: leave bad rows and folders out instead of refusing all.
        model_id: id of the model in the one pipeline folder that `path` is; if None the folder's
            name, or OWNER/NAME of a model from the hub.
        replace_content: whether a model of the graph may be replaced by one with other weights; its results,
            runs and variants are removed then.
        facts: count parameters and operations of pipeline folders and measure their throughput, as it says;
            None takes what the configs and the weights' headers say. What was measured of an unchanged folder
            is not measured again.
        config: of a single file, a model of its architecture, see `checkpoints.pipeline_of_checkpoint`.
        home: the data folder, in which a single file is converted; None for the one of the environment.
        on_progress: called with the step, and how many of how many models are done.

    Returns:
        What was written.

    Raises:
        BadInput: the input has problems, or the graph has another model of its id; nothing was written.
        training.errors.InvalidConfig: this machine has no such device; nothing was written.
        training.errors.ModelUnavailable: the pipeline is neither here nor to be had from the hub.
    """
    if is_hub_name(path):
        path = pipeline_folder(path)
    elif is_single_file(path):
        path = pipeline_of_checkpoint(graph, path, config, home or settings_from_environment().home)
    if not path.is_dir():
        if model_id is not None:
            problem = Problem(str(path), 0, "is not a pipeline folder", "leave the id to the table's rows")
            raise BadInput([problem], skippable=False)
        models, skipped = read_model_table(path, text=text, skip_bad=skip_bad)
        names = tuple(model.id for model in models)
        similar = alike(names, (model.id for model in graph.models()))
        graph.save_models(models, merge=True)
        return ModelsReport(names, skipped, tuple(f"{path.name}: {note}" for note in similar), {})
    if facts is not None:
        check_device(facts)
    reading = read_pipelines(path, model_id=model_id)
    read = {model.id: model for model in graph.models()}
    stored = dict(read)
    identity = identity_of(graph, "model", stored, replace=replace_content)
    problems = list(reading.problems)
    usable: list[Model] = []
    for model in reading.models:
        source, content = str(model.properties["source"]), str(model.properties["content_hash"])
        if found := identity.problem(model.id, source, content, str(path)):
            problems.append(found)
        else:
            usable.append(model)
    if problems and not skip_bad:
        raise BadInput(problems)
    notes = list(reading.notes)
    replaced = [m.id for m in usable if identity.is_replaced(m.id, str(m.properties["content_hash"]))]
    for name in replaced:
        # Nothing of the former model is true of this one.
        del stored[name]
        if count := identity.measured.get(name):
            notes.append(
                f"{name}: replaced; what was measured with the former weights ({count}) was removed."
            )
    for model in usable:
        if note := identity.likely_same(model.id, str(model.properties["content_hash"])):
            notes.append(note)
    merged = []
    known = {model.id: known_facts(model, stored.get(model.id)) for model in usable}
    for number, model in enumerate(usable):
        counted: dict[str, Any] = {}
        if facts is not None:
            counted, remarks = profile_facts(model, known[model.id])
            notes.extend(remarks)
            on_progress("operations counted", number + 1, len(usable))
        properties = {
            **_without_components(_properties(stored, model.id)),
            **known[model.id],
            **model.properties,
            **counted,
        }
        if "params" not in properties:
            reason = "has no safetensors weights here, so params is left out"
            notes.append(f"{model.properties['source']}: the denoiser {reason}")
        merged.append(Model(model.id, properties))
    if merged:
        _save(graph, merged, str(path), replaced=replaced, read=read)
    for number, model in enumerate(merged):
        if facts is None:
            break
        timed, remarks = throughput_facts(model, known[model.id], facts)
        notes.extend(remarks)
        if timed:
            merged[number] = Model(model.id, {**model.properties, **timed})
            _save(graph, [merged[number]], str(path), read={model.id: model})
        on_progress("throughput measured", number + 1, len(merged))
    properties_of: Mapping[str, Mapping[str, Any]] = {model.id: model.properties for model in merged}
    measured = {
        model: {name: known[name] for name in MEASURED if name in known}
        for model, known in properties_of.items()
    }
    return ModelsReport(tuple(model.id for model in merged), tuple(problems), tuple(notes), measured)


def _save(
    graph: MatchingGraph,
    models: Sequence[Model],
    place: str,
    *,
    replaced: Collection[str] = (),
    read: Mapping[str, Model],
) -> None:
    """Save models read from folders, unless another writer has saved other weights under one of the ids."""
    try:
        graph.save_models(models, replaced=replaced, read=read)
    except ContentChanged as error:
        now = {model.id: model.properties.get("content_hash") for model in graph.models()}
        problems = []
        for model in models:
            source, content = (str(model.properties[name]) for name in ("source", "content_hash"))
            if now.get(model.id) not in (None, content):
                problems.append(
                    taken_meanwhile(graph, "model", model.id, source=source, content=content, place=place)
                )
        if not problems:
            raise
        raise BadInput(problems, skippable=False) from error


def _properties(stored: Mapping[str, Model], model_id: str) -> Mapping[str, Any]:
    return stored[model_id].properties if model_id in stored else {}


def _without_components(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that neither a component of a pipeline nor a measurement gave."""
    components = tuple(name.removesuffix("class") for name in properties if name.endswith("_class"))
    gone = (*components, "scheduler_")
    return {
        name: value
        for name, value in properties.items()
        if not name.startswith(gone) and not is_measured(name)
    }
