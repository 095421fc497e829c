"""What a run trained, put into a pipeline and taken out again: a LoRA adapter or a whole denoiser."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadAdapter
from matchgraph.training.files import write_tensors
from matchgraph.training.pipelines.adapters import changes_text, detach_adapter, load_adapter
from matchgraph.training.pipelines.weight_files import check_weight_files, opened_weights, weight_variant

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

DENOISER_FILE = "denoiser.safetensors"
# The header field that distinguishes a file of all weights from an adapter.
DENOISER_KEY = "denoiser"


def changes_encoders(weights: str | os.PathLike[str]) -> bool:
    """Whether `load_weights` changes text encoders, so that prompts have to be encoded again."""
    path = Path(weights)
    return not (path / DENOISER_FILE).exists() and not _is_denoiser(path) and changes_text(path)


def load_weights(pipe: Any, family: Family, weights: str | os.PathLike[str]) -> Callable[[], None]:
    """Load what a run trained, by either method, into a pipeline.

    Args:
        pipe: the pipeline, as it was loaded.
        family: its family.
        weights: the file, or the folder that `training.tune.finetune.fine_tune` wrote.

    Returns:
        A function that makes the pipeline what it was before.

    Raises:
        BadAdapter: the file is missing, no safetensors, damaged, or made for another model.
    """
    path = Path(weights)
    if path.is_dir() and (path / DENOISER_FILE).exists():
        path = path / DENOISER_FILE
    if not _is_denoiser(path):
        load_adapter(pipe, family, path)
        return lambda: detach_adapter(pipe, family)
    denoiser = family.denoiser(pipe)
    original = copied(denoiser)
    _load_denoiser(denoiser, path)
    return lambda: put_back(denoiser, original)


def _is_denoiser(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if path.name == DENOISER_FILE:
        return True
    try:
        with safe_open(path, framework="numpy") as file:
            return DENOISER_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        # The loader of adapters raises the error.
        return False


def _load_denoiser(denoiser: torch.nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{path} cannot be read as safetensors: {error}.") from None
    own = denoiser.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name in own if own[name].shape != weights[name].shape
    )
    if wrong:
        raise BadAdapter(
            f"{path} does not fit this {type(denoiser).__name__}: {wrong[0]} is missing, unknown or of "
            f"another shape, one of {len(wrong)}. Was it made for another model?"
        )
    denoiser.load_state_dict(weights)


def write_denoiser(folder: Path, target: Path) -> None:
    """Write the weights of a denoiser's folder as one file that `load_weights` takes, whole or not at all.

    Args:
        folder: as `save_pretrained` writes it, such as a pipeline's `unet`.
        target: the file; its folder is made.

    Raises:
        UnsafeWeights: the weights are pickled.
        BadPipeline: there are none, or they are not whole.
    """
    from safetensors.torch import load_file

    variant = weight_variant(folder.parent, [folder.name])
    check_weight_files(folder, variant)
    tensors: dict[str, torch.Tensor] = {}
    for name in opened_weights((file.name for file in folder.iterdir()), variant):
        if name.endswith(".safetensors"):
            tensors |= load_file(folder / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, tensors, {DENOISER_KEY: folder.name})


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights in the memory of the CPU, where there is more of it."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def put_back(module: torch.nn.Module, original: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict(keep_vars=True).items():
        tensor.data = original[name].to(tensor.device)
