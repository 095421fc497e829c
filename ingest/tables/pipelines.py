"""Pipeline folders: which ones a folder holds, and what their configs and weight files say of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchgraph.graphdb.checks import INTEGER_RANGE
from matchgraph.graphdb.models import Model
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import Scalar, id_fault
from matchgraph.ingest.tables.fingerprints import pipeline_fingerprint
from matchgraph.training.contents import WEIGHTS, recognise, remedy
from matchgraph.training.files import folder_name
from matchgraph.training.pipelines.families import ALIASES
from matchgraph.training.pipelines.families import FAMILIES as TRAINABLE

INDEX = "model_index.json"
CARD = "README.md"
CONFIGS = ("config.json", "scheduler_config.json")
DENOISERS = ("unet", "transformer")
COMPONENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Components that turn text or images into tensors, or filter images: none of them shapes what a model draws.
UNREAD_COMPONENTS = ("tokenizer", "feature_extractor", "image_processor", "safety_checker")
# Keys about the file and its loader, not about the network. Private keys (leading underscore) go as well.
UNREAD_KEYS = {
    "architectures",
    "auto_map",
    "id2label",
    "label2id",
    "task_specific_params",
    "transformers_version",
}
RENAMED_KEYS = {"torch_dtype": "dtype"}
# Pipeline class -> family.
FAMILIES = {pipeline: family for family, (pipeline, _) in TRAINABLE.items()} | ALIASES
JSON_LIMIT_BYTES = 16 * 2**20
HEADER_LIMIT_BYTES = 100 * 2**20  # safetensors' own limit


@dataclass(frozen=True)
class PipelineReading:
    """What was read from pipeline folders.

    Args:
        models: the models, in the order of their folders.
        problems: folders that could not be read; none of them is among `models`.
        notes: what was passed over without harm, one sentence each.
    """

    models: tuple[Model, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


class _Unreadable(Exception):
    """Ends the reading of one pipeline folder."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def pipeline_folders(folder: Path) -> list[Path]:
    """Return the pipeline folders meant by `folder`: itself, or its visible subfolders in name order.

    Raises:
        BadInput: `folder` is not a folder, or has neither a model_index.json nor a subfolder.
    """
    if not folder.is_dir():
        problem = Problem(str(folder), 0, "is not a folder", "name a pipeline folder or a folder of them")
        raise BadInput([problem], skippable=False)
    if (folder / INDEX).exists():
        return [folder]
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not inside:
        problem = Problem(str(folder), 0, *_no_pipeline(folder))
        raise BadInput([problem], skippable=False)
    return inside


def _no_pipeline(folder: Path) -> tuple[str, str]:
    """Why a folder without subfolders holds no pipeline, and what to do."""
    for file in sorted(folder.iterdir()):
        content = recognise(file)
        if content is not None and content.kind in WEIGHTS:
            reason = f"holds single files of weights ({file.name}) and no {INDEX}"
            return reason, remedy(content, "model")
    return f"holds no {INDEX}", "name a pipeline folder or a folder of them"


def read_pipelines(folder: Path, *, model_id: str | None = None) -> PipelineReading:
    """Read one pipeline folder, or each pipeline folder in `folder`, without loading any weights.

    Args:
        folder: a folder with a model_index.json, or a folder of such folders.
        model_id: id of the model, of one folder only; if None `training.pipelines.hub.folder_name`.

    Returns:
        The models with their attributes, the folders that could not be read, and notes.

    Raises:
        BadInput: there is no pipeline folder at all, or an id is given for several or is none.
    """
    folders = pipeline_folders(folder)
    if model_id is not None:
        fault = id_fault(model_id, "model")
        if len(folders) > 1 or not (folder / INDEX).exists():
            fault = ("contains several pipelines, but --id names one", "name one of them")
        if fault:
            raise BadInput([Problem(str(folder), 0, *fault)], skippable=False)
    models: list[Model] = []
    problems: list[Problem] = []
    notes: list[str] = []
    first: dict[str, Path] = {}
    for pipeline in folders:
        try:
            model, remarks = _read_pipeline(pipeline, model_id)
        except _Unreadable as error:
            problems.append(error.problem)
            continue
        except RecursionError:
            problems.append(
                Problem(str(pipeline), 0, "a config is nested too deeply", "copy the folder again")
            )
            continue
        if model.id in first:
            reason = f"model {model.id!r} is {first[model.id]} already"
            problems.append(Problem(str(pipeline), 0, reason, "rename one of the folders"))
            continue
        first[model.id] = pipeline
        models.append(model)
        notes.extend(remarks)
    return PipelineReading(tuple(models), tuple(problems), tuple(notes))


def _read_pipeline(folder: Path, model_id: str | None) -> tuple[Model, list[str]]:
    name = model_id or folder_name(folder)
    fault = id_fault(name, "model")
    if fault:
        raise _Unreadable(Problem(repr(str(folder))[1:-1], 0, fault[0], "rename the folder"))
    source = folder.resolve()
    index = _load_json(folder / INDEX)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or not pipeline:
        reason = "has no pipeline class (_class_name)"
        raise _Unreadable(Problem(str(folder / INDEX), 1, reason, "save the pipeline with save_pretrained"))
    components = _components(folder, index)
    properties: dict[str, Any] = {
        "name": name,
        "family": FAMILIES.get(pipeline, pipeline.removesuffix("Pipeline").lower()),
        "pipeline": pipeline,
    }
    notes: list[str] = []
    for key, value in index.items():
        if key not in components and not key.startswith("_") and isinstance(value, str | bool | int | float):
            _put(properties, key, value, folder / INDEX)
    for component, class_name in components.items():
        config = next(
            (folder / component / name for name in CONFIGS if (folder / component / name).is_file()), None
        )
        if config is None:
            if component != "scheduler":
                reason = f"{component} is in {INDEX} but has no folder with a {CONFIGS[0]}"
                raise _Unreadable(Problem(str(folder), 0, reason, "download or copy the whole pipeline"))
            notes.append(f"{folder}: scheduler has no config here and adds only its class")
            if class_name:
                properties["scheduler_class"] = class_name
            continue
        _add_component(properties, component, class_name, config)
    denoiser = next((name for name in DENOISERS if name in components), None)
    if denoiser is None:
        reason = f"names no {' or '.join(DENOISERS)}"
        raise _Unreadable(
            Problem(str(folder / INDEX), 1, reason, "only pipelines with such a denoiser are known")
        )
    properties["denoiser"] = properties.get(f"{denoiser}_class", denoiser)
    params = count_parameters(folder / denoiser)
    if params is not None:
        properties["params"] = params
    licence, note = _licence(folder / CARD)
    properties |= {} if licence is None else {"license": licence}
    notes += [] if note is None else [note]
    properties["source"] = str(source)
    properties["content_hash"] = pipeline_fingerprint(source)
    return Model(name, dict(sorted(properties.items()))), notes


def _licence(card: Path) -> tuple[str | None, str | None]:
    """The licence that a model card names, and a note where it cannot be read."""
    if not card.is_file():
        return None, None
    import yaml
    from huggingface_hub import ModelCard

    try:
        # Of a card without a header, huggingface_hub would warn.
        if not card.read_text(encoding="utf-8").lstrip().startswith("---"):
            return None, None
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, f"{card}: its licence is not read: {str(error).splitlines()[0]}"
    # A licence that the hub has no name for is "other", with the name beside it.
    own = data.license if data.license != "other" else data.license_name or data.license
    if isinstance(own, list) and own and all(isinstance(one, str) for one in own):
        return " or ".join(own), None
    return (own if isinstance(own, str) and own else None), None


def _components(folder: Path, index: Mapping[str, Any]) -> dict[str, str | None]:
    """Return component name to class name, of the components that are read."""
    components: dict[str, str | None] = {}
    for key, value in index.items():
        # A component is written as [library, class]; [null, null] is one that the pipeline goes without.
        if key.startswith("_") or not isinstance(value, list) or key.startswith(UNREAD_COMPONENTS):
            continue
        if not COMPONENT.fullmatch(key):
            reason = f"component name {key[:40]!r} is not a plain name"
            raise _Unreadable(Problem(str(folder / INDEX), 1, reason, "use letters, digits and underscores"))
        if len(value) != 2 or not all(part is None or isinstance(part, str) for part in value):
            reason = f"component {key!r} is not [library, class]"
            raise _Unreadable(
                Problem(str(folder / INDEX), 1, reason, "save the pipeline with save_pretrained")
            )
        if value[1] is not None:
            components[key] = value[1]
    # Some published pipelines ship a scheduler that their index does not name.
    if "scheduler" not in components and (folder / "scheduler").is_dir():
        components["scheduler"] = None
    return components


def _add_component(properties: dict[str, Any], component: str, class_name: str | None, config: Path) -> None:
    values = _load_json(config)
    architectures = values.get("architectures")
    named = values.get("_class_name") or class_name
    if not named and isinstance(architectures, list) and architectures:
        named = architectures[0]
    if isinstance(named, str) and named:
        properties[f"{component}_class"] = named
    for key, value in values.items():
        if not key.startswith("_") and key not in UNREAD_KEYS:
            _put(properties, f"{component}_{RENAMED_KEYS.get(key, key)}", value, config)


def _put(properties: dict[str, Any], key: str, value: object, file: Path) -> None:
    """Flatten `value` under `key`: list items as key_0, key_1, dict items as key_name, None left out."""
    for name, scalar in _flatten(key, value, file):
        if name in properties and properties[name] != scalar:
            reason = f"two values fall on the attribute {name[:80]!r}"
            raise _Unreadable(Problem(str(file), 1, reason, "rename one of the keys"))
        properties[name] = scalar


def _flatten(key: str, value: object, file: Path) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flatten(f"{key}_{name}", item, file)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _flatten(f"{key}_{position}", item, file)
    elif isinstance(value, bool | str):
        yield key, value
    elif isinstance(value, float):
        # diffusers itself writes -Infinity for a bound that is off: a setting like a word, not a quantity.
        yield key, value if math.isfinite(value) else str(value)
    elif isinstance(value, int):
        if value not in INTEGER_RANGE:
            reason = f"{key[:80]} is {str(value)[:40]}"
            raise _Unreadable(Problem(str(file), 1, reason, "write a number that fits 64 bits"))
        yield key, value


def _load_json(file: Path) -> dict[str, Any]:
    def refuse(reason: str, remedy: str, line: int = 0) -> _Unreadable:
        return _Unreadable(Problem(str(file), line, reason, remedy))

    try:
        if file.stat().st_size > JSON_LIMIT_BYTES:
            raise refuse(
                f"is larger than {JSON_LIMIT_BYTES} bytes", "this is not a config file; copy the right one"
            )
        value = json.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise refuse("is missing", "name a folder saved with save_pretrained") from error
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})", "check the file and its permissions") from error
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8", "download or copy the file again") from error
    except json.JSONDecodeError as error:
        raise refuse(f"is not JSON ({error.msg})", "download or copy the file again", error.lineno) from error
    except (RecursionError, ValueError) as error:
        raise refuse(
            f"is not a config file ({str(error)[:60]})", "download or copy the file again"
        ) from error
    if not isinstance(value, dict):
        raise refuse("is not a JSON object", "download or copy the file again", 1)
    return value


def count_parameters(folder: Path) -> int | None:
    """Count a component's stored values from the headers of its safetensors files.

    Args:
        folder: the component's folder, with one weights file, or shards and their index. Of weights kept in
            several precisions the plain variant is counted.

    Returns:
        The number of values, persistent buffers included, or None where there are no safetensors weights.
    """
    if not folder.is_dir():
        return None
    indices = sorted(folder.glob("*.safetensors.index*.json"), key=lambda file: (len(file.name), file.name))
    if indices:
        shards = _load_json(indices[0]).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            reason = "has no weight_map"
            raise _Unreadable(Problem(str(indices[0]), 1, reason, "download or copy the file again"))
        if any(Path(name).name != name for name in shards.values()):
            reason = "names a shard outside its folder"
            raise _Unreadable(Problem(str(indices[0]), 1, reason, "download or copy the file again"))
        return sum(_values_in(folder / name) for name in sorted(set(shards.values())))
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (len(file.name), file.name))
    return _values_in(files[0]) if files else None


def _values_in(file: Path) -> int:
    def refuse(reason: str) -> _Unreadable:
        return _Unreadable(Problem(str(file), 0, reason, "download or copy the weights again"))

    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(HEADER_LIMIT_BYTES, file.stat().st_size - 8):
                raise refuse("is not a whole safetensors file")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if (
            8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            != file.stat().st_size
        ):
            raise refuse("is cut short")
        return sum(math.prod(entry["shape"]) for entry in tensors.values())
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise refuse("has no safetensors header") from error
