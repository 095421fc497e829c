"""Training steps of consistency distillation: a student that is taught by its teacher's guided solver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.training.config import DistillConfig
from matchgraph.training.pipelines.encoding import EncodedDataset
from matchgraph.training.pipelines.families.objectives import training_noise
from matchgraph.training.pipelines.families.rows import repeat_row
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune.consistency import TeacherPath
from matchgraph.training.tune.loop import Loop

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.rows import Conditioning

# Guidance that means none to every family's pipeline; where guidance is an input, the student's value.
NO_GUIDANCE = 1.0


class ConsistencyTraining(Loop[DistillConfig]):
    """The training loop with consistency distillation's loss, and a target that follows the student.

    One module serves as student, target and teacher, with three sets of its trained weights: those of now,
    their moving average, and those it started from.

    Args:
        loaded: the pipeline, its method attached.
        parameters: what is trained, by name, still as it was attached.
        dataset: latents and captions.
        config: how.
        path: the teacher's.
        guidance: the teacher's scale.
        negative: one row, the unconditional one.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: EncodedDataset,
        config: DistillConfig,
        path: TeacherPath,
        guidance: float,
        negative: Conditioning,
    ) -> None:
        super().__init__(loaded, parameters, dataset, config)
        self._path, self._guidance, self._negative = path, guidance, negative
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._target = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def step(self, number: int) -> float:
        """See `Loop.step`; the target moves after it."""
        config = self._config
        last = config.decay_share * config.steps
        share = min(1.0, (config.steps - number + 1) / last) if last else 1.0
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * share
        loss = super().step(number)
        for name, parameter in self.parameters.items():
            self._target[name].lerp_(parameter.detach(), 1 - config.ema)
        return loss

    def keep_target(self) -> None:
        """Give the student the target's weights."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self._target[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Loop.tensors`; the target is among them."""
        return super().tensors() | {f"target/{name}": tensor for name, tensor in self._target.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], **numbers: Any) -> None:
        """See `Loop.restore`."""
        super().restore(tensors, **numbers)
        for name, tensor in self._target.items():
            tensor.copy_(tensors[f"target/{name}"])

    def _losses(self, noise: torch.Generator) -> Iterator[torch.Tensor]:
        for _ in range(self._config.gradient_accumulation):
            yield self._loss(noise)

    def _loss(self, noise: torch.Generator) -> torch.Tensor:
        import torch

        config, path, count = self._config, self._path, self._config.batch_size
        latents, conditioning = self._dataset.batch(self._order.take(count), [True] * count, self._device)
        places = torch.randint(1, len(path) + 1, (count,), generator=noise).to(self._device)
        noisy = path.noised(latents, training_noise(latents, noise), places)
        with self.narrowed():
            with torch.no_grad():
                output = self._teach(noisy, path.levels[places], conditioning)
                below = path.step(noisy, output, places)
                output = self._predict(
                    _Weighted(self._denoiser, self._target), below, places - 1, conditioning
                )
                target = path.consistent(below, output, places - 1)
            output = self._predict(self._denoiser, noisy, places, conditioning)
            return pseudo_huber(path.consistent(noisy, output, places), target, config.huber)

    def _predict(
        self, denoiser: Any, noisy: torch.Tensor, places: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        loaded, levels = self._loaded, self._path.levels[places]
        return loaded.family.predict(loaded.pipe, denoiser, noisy, levels, conditioning, NO_GUIDANCE).float()

    def _teach(self, noisy: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The teacher's guided output.

        Source:
            Ho and Salimans, "Classifier-free diffusion guidance" (2022), Eq. 6, in the pipelines' scale,
            w + 1.
        """
        import torch

        family, pipe, guidance = self._loaded.family, self._loaded.pipe, self._guidance
        denoiser: Any = _Weighted(self._denoiser, self._start)
        if not family.classifier_free or guidance == NO_GUIDANCE:
            return family.predict(pipe, denoiser, noisy, levels, conditioning, guidance).float()
        count = len(noisy)
        without = conditioning | repeat_row(self._negative, count)
        # Autocast cannot join rows of another half precision than its own, as Sana's text encoder gives them.
        with torch.autocast(noisy.device.type, enabled=False):
            both = {name: torch.cat([rows, without[name]]) for name, rows in conditioning.items()}
        output = family.predict(pipe, denoiser, noisy.repeat(2, 1, 1, 1), levels.repeat(2), both).float()
        guided, plain = output.chunk(2)
        return plain + guidance * (guided - plain)


class _Weighted:
    """A module that computes with other weights than it has."""

    def __init__(self, module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        self._module, self._weights = module, dict(weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.func import functional_call

        return functional_call(self._module, self._weights, args, kwargs)


def pseudo_huber(values: torch.Tensor, targets: torch.Tensor, huber: float) -> torch.Tensor:
    """The mean of sqrt(d^2 + c^2) - c over all differences d.

    Args:
        values: of any shape.
        targets: of the same.
        huber: c.
    """
    return ((values.float() - targets.float()).square() + huber**2).sqrt().mean() - huber
