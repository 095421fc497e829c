"""Checkpoints in a single file, as Civitai and ComfyUI have them: converted once into a pipeline folder.

diffusers converts the weights. What the file lacks (configurations, tokenizers, the sampler, and text
encoders or a VAE that are not in it) comes from the folder of its base model; nothing is fetched.
"""

from __future__ import annotations

import importlib
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadPipeline, UnsafeWeights, first_line, is_out_of_memory
from matchgraph.training.files import SCRATCH_PREFIX
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.few_steps import of_weights
from matchgraph.training.pipelines.loading import loaded_components, quiet_libraries, read_model_index
from matchgraph.training.pipelines.weight_files import PICKLED_SUFFIXES, check_weight_files

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
# What tensors of a VAE begin with: in the files of Stable Diffusion's authors, and of others.
VAE_PARTS = ("first_stage_model.", "vae.")
# Tensors by which trainers of SDXL say that it predicts velocity, and that its noise ends without signal.
VELOCITY_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
QUANTISED = ("F8_", "I8", "U8")


def is_single_file(path: Path) -> bool:
    """Whether a path is that of weights in a file, safe or not."""
    return path.is_file() and path.suffix.lower() in {SUFFIX, *PICKLED_SUFFIXES}


def usual_base(file: Path) -> str:
    """The model on the hub that a checkpoint has the architecture of, as diffusers recognises it.

    Args:
        file: the checkpoint; only its header is read.

    Raises:
        UnsafeWeights: it is pickled.
        BadPipeline: it cannot be read, is a LoRA or quantised.
    """
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import safe_open

    names = _tensors(file)
    with safe_open(file, framework="pt") as opened:
        # Types are told by names and shapes.
        shapes = {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in names}
    return str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])


def convert(file: Path, base: Path, target: Path) -> None:
    """Write a checkpoint as a pipeline folder, whole or not at all.

    Args:
        file: the checkpoint.
        base: the pipeline folder of a model of its architecture; its own weights are needed for what the file
            does not hold.
        target: the folder; must not exist.

    Raises:
        UnsafeWeights: the checkpoint, or a part that is taken from the base, is pickled.
        BadPipeline: the checkpoint cannot be read or does not fit the base.
        UnknownFamily: no family knows the base's pipeline class.
    """
    import diffusers

    names = _tensors(file)
    index = read_model_index(base)
    family = family_of(index)
    present, absent = loaded_components(base, index, family)
    for component in present:
        if any(path.suffix.lower() in {SUFFIX, *PICKLED_SUFFIXES} for path in (base / component).glob("*")):
            check_weight_files(base / component)
    dtype = _precision(names.values())
    given: dict[str, Any] = {**family.load_options, **absent}
    try:
        with quiet_libraries():
            for component in present:
                if _is_taken_from(base / component, component, index[component][1], names):
                    kind = getattr(importlib.import_module(index[component][0]), index[component][1])
                    given[component] = kind.from_pretrained(
                        base / component, torch_dtype=dtype, use_safetensors=True, local_files_only=True
                    )
            pipe = getattr(diffusers, family.pipeline_class).from_single_file(
                str(file), config=str(base), local_files_only=True, dtype=dtype, **given
            )
            if VELOCITY_MARK in names:
                pipe.scheduler.register_to_config(
                    prediction_type="v_prediction", rescale_betas_zero_snr=ZERO_SNR_MARK in names
                )
            if (known := of_weights(file.name)) is not None:
                pipe.scheduler = known.scheduler(pipe.scheduler)
            scratch = target.with_name(f"{SCRATCH_PREFIX}{secrets.token_hex(6)}")
            try:
                pipe.save_pretrained(scratch)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except NotImplementedError as error:  # of a network that is left without values
        raise BadPipeline(
            f"{file} lacks weights of a {family.pipeline_class} as {base} has them; give its base with "
            "--config."
        ) from error
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise BadPipeline(
            f"{file} cannot be loaded as a {family.pipeline_class} with {base}: {first_line(error)}"
        ) from error


def _is_taken_from(folder: Path, component: str, kind: str, names: Mapping[str, str]) -> bool:
    """Whether a network beside the denoiser is not in a checkpoint, which has tensors of these names."""
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file

    if not (folder / "config.json").is_file():
        return False
    if component == "vae":
        return not any(name.startswith(VAE_PARTS) for name in names)
    if not component.startswith("text_encoder"):
        return False
    held = (
        is_t5_in_single_file(names)
        if kind.startswith("T5")
        else is_clip_model_in_single_file(type(kind, (), {}), names)
    )
    return not held


def _tensors(file: Path) -> dict[str, str]:
    """Names of a checkpoint's tensors and their types, as safetensors names these."""
    from safetensors import SafetensorError, safe_open

    if file.suffix.lower() in PICKLED_SUFFIXES:
        raise UnsafeWeights(
            f"{file} holds pickled weights, which run code when they are opened. Give its safetensors."
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            found = {name: str(opened.get_slice(name).get_dtype()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadPipeline(f"{file} cannot be read as safetensors: {first_line(error)}.") from None
    if any("lora_" in name or "hada_w1" in name or "lokr_w1" in name for name in found):
        raise BadPipeline(
            f"{file} is an adapter, not a whole model; `matchgraph ingest adapter` scores it, and "
            "`matchgraph collaborate student` makes a student of a few-step LoRA."
        )
    if any(kind.startswith(QUANTISED) for kind in found.values()):
        raise BadPipeline(f"{file} is quantised; give the checkpoint in fp16, bf16 or fp32.")
    return found


def _precision(types: Any) -> torch.dtype:
    """The type of most tensors, which the folder is written in."""
    import torch

    kinds = list(types)
    known = {"F16": torch.float16, "BF16": torch.bfloat16}
    return known.get(max(set(kinds), key=kinds.count), torch.float32)
