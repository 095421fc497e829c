"""What of a denoiser is trained, and in which file that ends up: a LoRA adapter, or all of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from matchgraph.training.files import write_tensors
from matchgraph.training.pipelines.adapters import (
    ADAPTER_FILE,
    attach_adapter,
    detach_adapter,
    save_adapter,
)
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.weights import DENOISER_FILE, DENOISER_KEY, copied, put_back

if TYPE_CHECKING:
    import torch


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
    """Trains a low-rank adapter beside frozen weights; see `training.pipelines.adapters`.

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
        self._original = copied(denoiser)
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
            put_back(denoiser, self._original)
            self._original = None


def _trainable(loaded: LoadedPipeline) -> dict[str, torch.nn.Parameter]:
    named = loaded.family.denoiser(loaded.pipe).named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}
