"""Students that others distilled, published as a denoiser or a LoRA alone, made whole pipelines.

Whole published pipelines (Turbo, LCM_Dreamshaper_v7) need none of this: they load as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadAdapter, UnsafeWeights, first_line
from matchgraph.training.files import file_hash, folder_name, json_hash
from matchgraph.training.pipelines.adapters import ADAPTER_FILE, adapter_tensors, fuse_adapter, load_adapter
from matchgraph.training.pipelines.few_steps import of_weights
from matchgraph.training.pipelines.hub import is_hub_name, pipeline_folder, student_weights
from matchgraph.training.pipelines.loading import LoadedPipeline, quiet_libraries
from matchgraph.training.pipelines.lycoris import kind_of
from matchgraph.training.pipelines.samplers import guidance_width
from matchgraph.training.pipelines.weight_files import (
    PICKLED_SUFFIXES,
    check_weight_files,
    opened_weights,
    weight_variant,
)
from matchgraph.training.pipelines.weights import DENOISER_FILE
from matchgraph.training.tune.consistency import student_scheduler
from matchgraph.training.tune.session import circumstances
from matchgraph.training.tune.student_folder import check_output, check_teacher, plain_denoiser, write_student

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
# The weight that embeds the guidance scale in a U-Net; no teacher has it.
GUIDANCE_WEIGHT = "time_embedding.cond_proj.weight"
# Of the published latent consistency models, and the default of diffusers' LCMScheduler.
SOLVER_STEPS = 50


@dataclass(frozen=True)
class MadeStudent:
    """A student made from its teacher and published weights, as written to its `distillation.json`.

    Attributes:
        folder: the student's pipeline.
        teacher: its `name`, and the `sha256` of its components.
        weights: `name` as on the hub or of the file or folder, `kind` (lora or denoiser), and the `sha256` of
            the files used.
        scheduler: its `class`, and the `solver_steps` of the grid that it draws on, or the `steps` of weights
            that `training.pipelines.few_steps` knows.
        guidance_told: whether the denoiser takes the guidance scale as an input; if not, it is 1.
        notes: which weights were left out, one sentence each.
        used: versions and machine.
    """

    folder: Path
    teacher: dict[str, str]
    weights: dict[str, str]
    scheduler: dict[str, Any]
    guidance_told: bool
    notes: tuple[str, ...]
    used: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All but the folder, ready for JSON."""
        fields = asdict(self)
        del fields["folder"]
        return fields


def make_student(
    teacher: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    solver_steps: int = SOLVER_STEPS,
) -> MadeStudent:
    """Put published weights into a teacher and write the student as a pipeline folder, whole or not at all.

    A LoRA, in the form of diffusers or of kohya's scripts, is added to the teacher's denoiser in single
    precision. A denoiser replaces the teacher's: it must have the same weights in the same shapes, except
    for the guidance embedding of latent consistency models. The student uses diffusers' scheduler for
    consistency models with the teacher's noise process, or the one that SDXL-Lightning's and Hyper-SD's
    weights are made for, known by their file's name; it shares everything else with its teacher.

    Args:
        teacher: a pipeline folder of any family, or its name on the hub.
        weights: a safetensors file, a folder (with a LoRA, a denoiser as `save_pretrained` writes it, or one
            safetensors file), or a name on the hub, see `training.pipelines.hub.student_weights`.
        output: the student's folder; must not exist.
        solver_steps: places of the grid that the student was distilled on.

    Returns:
        The record.

    Raises:
        BadPipeline: the teacher cannot be loaded.
        BadAdapter: the weights cannot be read or do not fit the teacher.
        UnsafeWeights: they are pickled.
        InvalidConfig: the output exists, the teacher is a student, too many solver steps, or weights of
            SDXL-Lightning or Hyper-SD whose sampler is not known here.
        UnsupportedScheduler: the teacher's noise process is none that such students are drawn with here.

    Source:
        Luo et al., "LCM-LoRA: a universal Stable-Diffusion acceleration module" (2023), section 3, with the
        weights added up as diffusers' `fuse_lora` does.
    """
    target = Path(output)
    check_output(target)
    folder, place = pipeline_folder(teacher), student_weights(weights)
    check_teacher(folder)
    files = _weight_files(place)
    configured = files[0].name == CONFIG_FILE
    names = [] if configured else adapter_tensors(files[0])
    lora = kind_of(names) is not None or any("lora" in name for name in names)
    name = os.fspath(weights) if is_hub_name(weights) else Path(os.path.abspath(weights)).name
    # Weights are added up in single precision, in which a CPU's memory has more room.
    with LoadedPipeline(folder, device="cpu", precision="fp32") as loaded:
        known = of_weights(f"{name}/{files[-1].name}")
        if known is None:
            scheduler = student_scheduler(loaded.pipe.scheduler, loaded.family, solver_steps)
        else:
            scheduler = known.scheduler(loaded.pipe.scheduler)
        notes: list[str] = []
        if lora:
            notes = load_adapter(loaded.pipe, loaded.family, files[0], text_encoders=False)
            fuse_adapter(loaded.pipe, loaded.family)
            student: Any = loaded.family.denoiser(loaded.pipe)
        else:
            student = _denoiser(loaded, place if configured else files[0])
            setattr(loaded.pipe, loaded.family.denoiser_attribute, student)
        record = MadeStudent(
            target,
            teacher={"name": folder_name(folder), "sha256": loaded.weights_hash()},
            weights={
                "name": name,
                "kind": "lora" if lora else "denoiser",
                "sha256": json_hash([[file.name, file_hash(file)] for file in files]),
            },
            scheduler={"class": type(scheduler).__name__}
            | ({"solver_steps": solver_steps} if known is None else {"steps": known.steps}),
            guidance_told=guidance_width(loaded.pipe) is not None,
            notes=tuple(notes),
            used=circumstances(loaded),
        )
        write_student(loaded, student, scheduler, target, record.to_dict())
    return record


def _weight_files(place: Path) -> list[Path]:
    """The files that are used: a denoiser's configuration and weights, or one safetensors file."""
    if place.is_file():
        if place.suffix.lower() in PICKLED_SUFFIXES:
            raise _pickled(place)
        if place.suffix != ".safetensors":
            raise BadAdapter(f"{place} is not a .safetensors file; only safetensors are loaded.")
        return [place]
    if (place / "model_index.json").exists():
        raise BadAdapter(
            f"{place} is a complete pipeline and a student already: add it with `matchgraph ingest models`."
        )
    for known in (ADAPTER_FILE, DENOISER_FILE):
        if (place / known).is_file():
            return [place / known]
    if (place / CONFIG_FILE).is_file():
        variant = weight_variant(place.parent, [place.name])
        check_weight_files(place, variant)
        names = opened_weights([path.name for path in place.iterdir()], variant)
        return [place / CONFIG_FILE, *(place / name for name in names if name.endswith(".safetensors"))]
    found = sorted(place.glob("*.safetensors"))
    if not found:
        pickled = [path.name for path in sorted(place.iterdir()) if path.suffix.lower() in PICKLED_SUFFIXES]
        if pickled:
            raise _pickled(place / pickled[0])
        raise BadAdapter(f"{place} holds no safetensors; give a LoRA's or a denoiser's folder or file.")
    if len(found) > 1:
        raise BadAdapter(f"{place} holds {len(found)} safetensors files and no {CONFIG_FILE}; name one file.")
    return found


def _pickled(file: Path) -> UnsafeWeights:
    return UnsafeWeights(
        f"{file} holds pickled weights, which run code when they are opened. Give safetensors."
    )


def _denoiser(loaded: LoadedPipeline, place: Path) -> Any:
    """The published denoiser, in single precision."""
    from safetensors import SafetensorError

    teachers = loaded.family.denoiser(loaded.pipe)
    try:
        denoiser = _from_folder(type(teachers), place) if place.is_dir() else _from_file(loaded, place)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        kind = type(teachers).__name__
        raise BadAdapter(f"{place} cannot be loaded as a {kind}: {first_line(error)}") from error
    state = denoiser.state_dict()
    _check_fit(state, teachers.state_dict(), place, loaded)
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise BadAdapter(f"{place}: {broken[0]} is not a finite number. Fetch the weights again.")
    return denoiser.eval().requires_grad_(False)


def _from_folder(kind: type, folder: Path) -> Any:
    import torch

    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    named = config.get("_class_name") if isinstance(config, dict) else None
    if named != kind.__name__:
        raise BadAdapter(f"{folder} holds a {named}, the teacher's denoiser is a {kind.__name__}.")
    with quiet_libraries():
        loader: Any = kind
        denoiser, found = loader.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            variant=weight_variant(folder.parent, [folder.name]),
            output_loading_info=True,
        )
    if lost := sorted([*found["missing_keys"], *found["unexpected_keys"]]):
        raise BadAdapter(f"{folder}: its weights do not match its {CONFIG_FILE}, such as {lost[0]}.")
    return denoiser


def _from_file(loaded: LoadedPipeline, file: Path) -> Any:
    """Weights without a configuration: the teacher's applies, plus a guidance embedding if they have one."""
    from safetensors.torch import load_file

    weights = load_file(file)
    denoiser = plain_denoiser(loaded)
    guidance_weight = weights.get(GUIDANCE_WEIGHT)
    own = denoiser.state_dict()
    _check_fit(weights, own, file, loaded)
    if guidance_weight is not None:
        # Without those that begin with an underscore: one of them lists settings to be left at their default.
        settings = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
        denoiser = type(denoiser).from_config(settings | {"time_cond_proj_dim": guidance_weight.shape[-1]})
    denoiser.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return denoiser


def _check_fit(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], place: Path, loaded: LoadedPipeline
) -> None:
    wrong: Iterable[str] = sorted(own.keys() ^ (weights.keys() - {GUIDANCE_WEIGHT})) or sorted(
        name for name in own if own[name].shape != weights[name].shape
    )
    for first in wrong:
        raise BadAdapter(
            f"{place} does not fit {folder_name(loaded.folder)}: {first} is missing, unknown or of another "
            "shape. Was it made for another model?"
        )
