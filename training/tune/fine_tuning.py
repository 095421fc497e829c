"""Fine-tuning's own course: its learning-rate schedule, and an average of the weights that are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.training.tune.loop import Training

if TYPE_CHECKING:
    import torch

    from matchgraph.training.config import FineTuneConfig
    from matchgraph.training.pipelines.encoding import EncodedDataset
    from matchgraph.training.pipelines.loading import LoadedPipeline


class FineTuning(Training):
    """Training on images; see `Training`.

    Args:
        loaded: see `Training`, as for the next two.
        parameters: what is trained.
        dataset: what it is trained on.
        config: how.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: EncodedDataset,
        config: FineTuneConfig,
    ) -> None:
        super().__init__(loaded, parameters, dataset, config)
        self._average = (
            {name: parameter.detach().clone() for name, parameter in parameters.items()} if config.ema else {}
        )

    def step(self, number: int) -> float:
        """See `Training.step`; the average moves after it."""
        config = self._config
        share = learning_rate_share(config.schedule, number, config.steps, config.warmup_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * share
        loss = super().step(number)
        for name, average in self._average.items():
            average.lerp_(self.parameters[name].detach(), 1 - average_decay(config.ema, number))
        return loss

    def keep_average(self) -> None:
        """Give the average's values to what was trained, where there is one."""
        for name, average in self._average.items():
            self.parameters[name].data.copy_(average)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Training.tensors`; the average is among them."""
        return super().tensors() | {f"average/{name}": tensor for name, tensor in self._average.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], **numbers: Any) -> None:
        """See `Training.restore`."""
        super().restore(tensors, **numbers)
        for name, average in self._average.items():
            average.copy_(tensors[f"average/{name}"])


def average_decay(most: float, step: int) -> float:
    """The decay of the weights' average after a step, as diffusers' `EMAModel` has it.

    It rises to `most`, so that the average of a short run does not keep the start weights.

    Args:
        most: the decay that is asked for.
        step: from 1.
    """
    passed = step - 1
    return min(most, (1 + passed) / (10 + passed)) if passed else 0.0


def learning_rate_share(schedule: str, step: int, steps: int, warmup_steps: int) -> float:
    """The share of the learning rate that a step is made with.

    It rises on a line over the first steps, and then stays, falls on a line to 0, or as half a cosine, all as
    diffusers' `get_scheduler` has them.

    Args:
        schedule: one of `training.config.SCHEDULES`.
        step: from 1.
        steps: of the run.
        warmup_steps: over which it rises.
    """
    # Before the step, so the first one of a warm-up is made with 0.
    before = step - 1
    if before < warmup_steps:
        return before / warmup_steps
    passed = (before - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "linear":
        return 1 - passed
    return 0.5 * (1 + math.cos(math.pi * passed)) if schedule == "cosine" else 1.0
