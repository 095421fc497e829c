"""The pipeline folder of a student of few steps: how it is recognised, and how it is written."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig
from matchgraph.training.files import SCRATCH_PREFIX, files_below, write_json
from matchgraph.training.pipelines.few_steps import STUDENT_SCHEDULERS
from matchgraph.training.pipelines.loading import (
    UNUSED_COMPONENTS,
    LoadedPipeline,
    quiet_libraries,
    read_model_index,
)
from matchgraph.training.pipelines.weight_files import weight_variant

if TYPE_CHECKING:
    import torch

RECORD_FILE = "distillation.json"


def is_student(folder: str | os.PathLike[str]) -> bool:
    """Whether a pipeline folder holds a consistency-distilled model, ours or another's.

    Args:
        folder: with a `model_index.json`.

    Raises:
        BadPipeline: it has none.
    """
    entry = read_model_index(folder).get("scheduler")
    named = isinstance(entry, list) and entry[-1] in STUDENT_SCHEDULERS
    return named or (Path(folder) / RECORD_FILE).exists()


def check_output(target: Path) -> None:
    """Refuse a student's folder that is there already or cannot be made.

    Raises:
        InvalidConfig: naming it.
    """
    if target.exists() or target.is_symlink():
        raise InvalidConfig(f"{target} exists already; remove it or give another output folder.")
    if target.name == "" or (target.parent.exists() and not target.parent.is_dir()):
        raise InvalidConfig(f"{target} cannot be made a folder; give another output folder.")


def check_teacher(folder: Path) -> None:
    """Refuse a teacher that is a student.

    Raises:
        InvalidConfig: naming it.
        BadPipeline: the folder has no `model_index.json`.
    """
    if is_student(folder):
        raise InvalidConfig(f"{folder} is a student already; give the model that it was distilled from.")


def plain_denoiser(loaded: LoadedPipeline) -> Any:
    """The teacher's denoiser as its folder has it, in single precision, whatever the run's."""
    import diffusers
    import torch

    family = loaded.family
    index = read_model_index(loaded.folder)
    kind = getattr(diffusers, index[family.denoiser_attribute][1])
    with quiet_libraries():
        return kind.from_pretrained(
            loaded.folder / family.denoiser_attribute,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            variant=_variant(loaded.folder),
        )


def _variant(folder: Path) -> str | None:
    index = read_model_index(folder)
    return weight_variant(
        folder,
        [name for name, entry in index.items() if isinstance(entry, list) and name not in UNUSED_COMPONENTS],
    )


def _stored_precision(folder: Path) -> torch.dtype:
    """The floating-point type that a component's weights are stored in."""
    import torch
    from safetensors import safe_open

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                stored = file.get_slice(name).get_dtype()
                if stored.startswith(("F", "BF")):
                    return kinds.get(stored, torch.float32)
    return torch.float32


def write_student(
    loaded: LoadedPipeline, student: Any, scheduler: Any, target: Path, record: Mapping[str, Any]
) -> None:
    """Write a student's folder; what it shares with its teacher takes no room where links can be made.

    Args:
        loaded: the teacher.
        student: its denoiser in single precision, which is stored in the precision of the teacher's.
        scheduler: what it is drawn with.
        target: the folder, which must not exist.
        record: how it came to be, for its `distillation.json`.

    Raises:
        InvalidConfig: the folder exists.
        OSError: it cannot be written; nothing is left behind.
    """
    import torch

    teacher, family = loaded.folder, loaded.family
    attribute = family.denoiser_attribute
    index = read_model_index(teacher)
    # The module's own method, because diffusers' would warn of what is meant here.
    torch.nn.Module.to(student, _stored_precision(teacher / attribute))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{SCRATCH_PREFIX}{os.getpid()}-{secrets.token_hex(6)}")
    scratch.mkdir()
    try:
        for name, entry in index.items():
            if isinstance(entry, list) and name not in (attribute, "scheduler") and entry[0] is not None:
                _share(teacher / name, scratch / name)
        with quiet_libraries():
            student.save_pretrained(scratch / attribute, safe_serialization=True, variant=_variant(teacher))
            scheduler.save_pretrained(scratch / "scheduler")
        _forget_origin(scratch / attribute / "config.json")
        for path in (scratch / attribute).glob("*.safetensors"):
            # The library makes files that their owner alone may read.
            path.chmod((scratch / attribute / "config.json").stat().st_mode & 0o777)
        index["scheduler"] = ["diffusers", type(scheduler).__name__]
        index.pop("_name_or_path", None)
        write_json(scratch / "model_index.json", index)
        write_json(scratch / RECORD_FILE, record)
        check_output(target)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(component: Path, target: Path) -> None:
    """Link a component's files, or copy them where the file system cannot."""
    for file in files_below(component):
        place = target / file.relative_to(component)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(file), place)
        except OSError:
            with suppress(FileNotFoundError):
                place.unlink()
            shutil.copyfile(file, place)


def _forget_origin(config: Path) -> None:
    """Take the folder that a component was loaded from out of its configuration."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
