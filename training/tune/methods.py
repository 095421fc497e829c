"""What of a denoiser is trained, and in which file that ends up: a LoRA adapter, or all of its weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from matchgraph.training.errors import BadAdapter
from matchgraph.training.files import write_tensors
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune.adapters import (
    ADAPTER_FILE,
    attach_adapter,
    detach_adapter,
    load_adapter,
    save_adapter,
)

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

DENOISER_FILE = "denoiser.safetensors"
# The header's mark by which a file of all weights is told from an adapter.
DENOISER_KEY = "denoiser"
WEIGHT_FILES = (ADAPTER_FILE, DENOISER_FILE)


class Method(Protocol):
    """One way of fine-tuning a pipeline; an object serves one run."""

    def attach(self, loaded: LoadedPipeline, generator: torch.Generator) -> dict[str, torch.nn.Parameter]:
        """Make the pipeline ready, and return the float32 parameters to train, by name.

        Args:
            loaded: the pipeline, as it was loaded.
            generator: CPU generator of start values.
        """

    def save(self, loaded: LoadedPipeline, folder: Path) -> Path:
        """Write the trained weights as one safetensors file, whole or not at all, and return its path."""

    def detach(self, loaded: LoadedPipeline) -> None:
        """Make the pipeline exactly what it was before `attach`."""


class Lora:
    """Trains a low-rank adapter beside frozen weights; see `training.tune.adapters`.

    Args:
        rank: of the adapter.
        alpha: its update is scaled by alpha / rank.
    """

    def __init__(self, rank: int, alpha: float) -> None:
        self.rank = rank
        self.alpha = alpha

    def attach(self, loaded: LoadedPipeline, generator: torch.Generator) -> dict[str, torch.nn.Parameter]:
        """See `Method.attach`."""
        attach_adapter(loaded.pipe, loaded.family, rank=self.rank, alpha=self.alpha, generator=generator)
        return _trainable(loaded)

    def save(self, loaded: LoadedPipeline, folder: Path) -> Path:
        """See `Method.save`."""
        return save_adapter(loaded.pipe, loaded.family, folder)

    def detach(self, loaded: LoadedPipeline) -> None:
        """See `Method.detach`."""
        detach_adapter(loaded.pipe, loaded.family)


class Full:
    """Trains all of the denoiser's weights, in float32 whatever they were loaded in.

    The file has them in the precision of the run, under the names of the denoiser's own `state_dict`.
    """

    def __init__(self) -> None:
        self._original: dict[str, torch.Tensor] | None = None

    def attach(self, loaded: LoadedPipeline, generator: torch.Generator) -> dict[str, torch.nn.Parameter]:  # noqa: ARG002
        """See `Method.attach`."""
        import torch

        for component in loaded.pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.requires_grad_(False)
        denoiser = loaded.family.denoiser(loaded.pipe)
        self._original = _copied(denoiser)
        for parameter in denoiser.parameters():
            parameter.data = parameter.data.float()
        denoiser.requires_grad_(True)
        return _trainable(loaded)

    def save(self, loaded: LoadedPipeline, folder: Path) -> Path:
        """See `Method.save`."""
        assert self._original is not None
        denoiser = loaded.family.denoiser(loaded.pipe)
        weights = {
            name: tensor.to(self._original[name].dtype) for name, tensor in denoiser.state_dict().items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / DENOISER_FILE, weights, {DENOISER_KEY: type(denoiser).__name__})
        return folder / DENOISER_FILE

    def detach(self, loaded: LoadedPipeline) -> None:
        """See `Method.detach`."""
        if self._original is not None:
            denoiser = loaded.family.denoiser(loaded.pipe)
            denoiser.requires_grad_(False)
            # A step that was broken off leaves gradients, which the next run would add its own to.
            denoiser.zero_grad(set_to_none=True)
            _put_back(denoiser, self._original)
            self._original = None


def load_weights(pipe: Any, family: Family, weights: str | os.PathLike[str]) -> Callable[[], None]:
    """Load what a run trained, by either method, into a pipeline.

    Args:
        pipe: the pipeline, as it was loaded.
        family: its family.
        weights: the file, or the folder that `training.tune.lora.fine_tune` wrote.

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
    original = _copied(denoiser)
    _load_denoiser(denoiser, path)
    return lambda: _put_back(denoiser, original)


def _is_denoiser(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if path.name == DENOISER_FILE:
        return True
    try:
        with safe_open(path, framework="numpy") as file:
            return DENOISER_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        # Told by the loader of adapters, in its words.
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


def _trainable(loaded: LoadedPipeline) -> dict[str, torch.nn.Parameter]:
    named = loaded.family.denoiser(loaded.pipe).named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights in the memory of the CPU, where there is more of it."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _put_back(module: torch.nn.Module, original: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict(keep_vars=True).items():
        tensor.data = original[name].to(tensor.device)
