"""The training loop's moving parts, with everything that a checkpoint has to bring back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from matchgraph.training.errors import InvalidConfig, NonFiniteLoss, first_line
from matchgraph.training.pipelines.encoding import EncodedDataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.seeds import seeded_generator
from matchgraph.training.tune.methods import Method
from matchgraph.training.tune.optimisers import from_tensors, make_optimiser, state_tensors
from matchgraph.training.tune.order import PURPOSE, BucketedOrder, ShuffledOrder

if TYPE_CHECKING:
    import torch

    from matchgraph.training.config import FineTuneConfig

# torch.compile's default; it needs a C++ compiler, or Triton on a GPU.
COMPILE_BACKEND = "inductor"
# How often torch compiles a network by default, before it goes on without, and says so in a log at most.
COMPILED_ANEW = 8
# Below this scale no float16 gradient overflows that float32 would not.
SMALLEST_SCALE = 2.0**-14


class LoopSettings(Protocol):
    """What every training loop reads of its settings; see `training.config.FineTuneConfig`."""

    @property
    def batch_size(self) -> int: ...
    @property
    def gradient_accumulation(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_gradient_norm(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...


Config = TypeVar("Config", bound=LoopSettings)


class Loop(ABC, Generic[Config]):
    """One run's parameters, optimiser and random numbers, a step at a time; subclasses give the loss.

    Args:
        loaded: the pipeline, `method` attached.
        parameters: what is trained, by name.
        dataset: what it is trained on.
        config: how.
        optimiser: one of `training.config.OPTIMISERS`.
        denoiser: what predicts; the pipeline's own by default.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: EncodedDataset,
        config: Config,
        *,
        optimiser: str = "adamw",
        denoiser: Any = None,
    ) -> None:
        import torch

        self.parameters = dict(parameters)
        self.skipped_steps = 0
        self.notes: list[str] = []
        self._loaded, self._dataset, self._config = loaded, dataset, config
        self._device = loaded.device
        self._denoiser: Any = denoiser or loaded.family.denoiser(loaded.pipe)
        self._optimiser = make_optimiser(
            optimiser,
            self.parameters.values(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        # Overflow in float16 gradients is found and undone by scaling the loss; bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        self._order = (
            ShuffledOrder(len(dataset), purpose_generator(config.seed, PURPOSE))
            if dataset.shapes is None
            else BucketedOrder(dataset.shapes, config.batch_size * config.gradient_accumulation, config.seed)
        )
        self._dropout = purpose_generator(config.seed, "dropout")
        self._noise = purpose_generator(config.seed, "noise")

    def step(self, number: int) -> float:
        """Make one optimiser step and return its loss, the mean over its batches.

        Raises:
            NonFiniteLoss: the loss or a gradient is infinite or NaN; the parameters are as before the step.
        """
        import torch

        config = self._config
        losses = []
        for loss in self._losses(self._noise):
            self._scaler.scale(loss / config.gradient_accumulation).backward()
            losses.append(loss.detach())
        self._scaler.unscale_(self._optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_gradient_norm)
        # One transfer for both: each makes the CPU wait for the GPU.
        value, gradient = torch.stack([torch.stack(losses).mean(), norm.to(losses[0].dtype)]).tolist()
        overflowed = not math.isfinite(gradient)
        if not math.isfinite(value) or (overflowed and not self._can_scale_down()):
            raise NonFiniteLoss(
                f"At step {number} the loss was {value} and the gradient norm {gradient}; nothing was saved. "
                f"Try a learning rate below {config.learning_rate:g}"
                f"{'' if config.precision == 'fp32' else ', or fp32'}."
            )
        # Leaves the update out where a scaled gradient overflowed, and lowers the scale for the next step.
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self.skipped_steps += overflowed
        return value

    def check_finite(self, step: int) -> None:
        """Refuse parameters that the optimiser has driven out of range.

        Raises:
            NonFiniteLoss: one is infinite or NaN.
        """
        import torch

        if not all(torch.isfinite(parameter).all() for parameter in self.parameters.values()):
            raise NonFiniteLoss(
                f"After step {step} a weight was infinite or NaN; nothing was saved. "
                f"Try a learning rate below {self._config.learning_rate:g}."
            )

    def compile(self) -> bool:
        """Compile the denoiser; where that fails, go on with it as it is and note why.

        Tried out on a batch of its own with a generator of its own, so that the run is the same run
        whether compilation works or not, but for rounding.

        Returns:
            Whether the denoiser is compiled.
        """
        import torch

        plain = self._denoiser
        order, dropout = self._order.epoch_state(), self._dropout.get_state()
        position = self._order.position
        try:
            if self._dataset.shapes is not None:
                from torch._dynamo import config as limits

                # By the name that all versions have.
                needed = COMPILED_ANEW + len(set(self._dataset.shapes))
                limits.cache_size_limit = max(limits.cache_size_limit, needed)
            self._denoiser = torch.compile(plain, backend=COMPILE_BACKEND, dynamic=False)
            next(self._losses(purpose_generator(self._config.seed, "trial"))).backward()
        except Exception as error:
            # Whatever a backend raises: the plain denoiser trains as well, or has the telling error.
            self._denoiser = plain
            torch.compiler.reset()
            reason = first_line(error)
            self.notes.append(f"torch.compile failed, trained without it: {reason}")
            return False
        finally:
            self._order.restore(order, position)
            self._dropout.set_state(dropout)
            self._optimiser.zero_grad(set_to_none=True)
        return True

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state's tensors by name; its numbers are `position`, `skipped_steps` and `scaler`."""
        found = {f"parameter/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in state_tensors(self._optimiser.state.get(parameter, {})).items():
                found[f"optimiser/{name}/{key}"] = value
        return found | {
            "generator/order": self._order.epoch_state(),
            "generator/dropout": self._dropout.get_state(),
            "generator/noise": self._noise.get_state(),
        }

    @property
    def position(self) -> int:
        """How far into its order the run is, as the order counts it."""
        return self._order.position

    @property
    def scaler(self) -> dict[str, Any]:
        """State of the loss scaler; empty but in fp16."""
        return self._scaler.state_dict()

    def restore(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        position: int,
        skipped_steps: int,
        scaler: Mapping[str, Any],
    ) -> None:
        """Go on where a run with this state was.

        Raises:
            ValueError: the tensors are not of these parameters, or the order not of these images.
        """
        names = list(self.parameters)
        kept: dict[int, dict[str, torch.Tensor]] = {}
        for full_name, tensor in tensors.items():
            kind, _, name = full_name.partition("/")
            if kind == "optimiser":
                name, _, key = name.rpartition("/")
                kept.setdefault(names.index(name), {})[key] = tensor
        shapes = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("parameter/")}
        if shapes != {f"parameter/{name}": parameter.shape for name, parameter in self.parameters.items()}:
            raise ValueError("its parameters are not those of this run")
        # Before anything is changed, as it may refuse.
        self._order.restore(tensors["generator/order"], position)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"parameter/{name}"])
        groups = self._optimiser.state_dict()["param_groups"]
        states = {number: from_tensors(tensors) for number, tensors in kept.items()}
        self._optimiser.load_state_dict({"state": states, "param_groups": groups})
        self._dropout.set_state(tensors["generator/dropout"])
        self._noise.set_state(tensors["generator/noise"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(scaler))
        self.skipped_steps = skipped_steps

    def _can_scale_down(self) -> bool:
        return self._scaler.is_enabled() and self._scaler.get_scale() > SMALLEST_SCALE

    @abstractmethod
    def _losses(self, noise: torch.Generator) -> Iterator[torch.Tensor]:
        """The losses of a step's passes, one after another."""

    def narrowed(self) -> torch.autocast:
        """Compute in the run's precision inside."""
        import torch

        narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._config.precision)
        return torch.autocast(self._device.type, dtype=narrow, enabled=narrow is not None)


class Training(Loop["FineTuneConfig"]):
    """The training loop with the family's own loss.

    Args:
        loaded: see `Loop`, as for the next two.
        parameters: what is trained.
        dataset: what it is trained on.
        config: how.
        denoiser: what predicts, for `Family.loss`; the pipeline's own by default.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: EncodedDataset,
        config: FineTuneConfig,
        denoiser: Any = None,
    ) -> None:
        super().__init__(loaded, parameters, dataset, config, optimiser=config.optimiser, denoiser=denoiser)

    def _losses(self, noise: torch.Generator) -> Iterator[torch.Tensor]:
        """The losses of a step's passes, one after another.

        What is random is drawn for all images of the step, so it does not depend on how they are divided;
        nor does it with aspect buckets, as all of them are of one.
        """
        import torch

        config, loaded = self._config, self._loaded
        count = config.batch_size * config.gradient_accumulation
        picked = self._order.take(count)
        kept = torch.rand(count, generator=self._dropout) >= config.caption_dropout
        latents, conditioning = self._dataset.batch(picked, kept.tolist(), self._device)
        before = noise.get_state()
        for first in range(0, count, config.batch_size):
            noise.set_state(before)
            rows = slice(first, first + config.batch_size)
            weighting = () if config.snr_gamma is None else (config.snr_gamma,)
            with self.narrowed():
                loss = loaded.family.loss(
                    loaded.pipe, self._denoiser, latents, conditioning, noise, rows, *weighting
                )
            yield loss


@contextmanager
def attached(
    loaded: LoadedPipeline, method: Method, config: LoopSettings
) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Make a pipeline trainable inside; as it was after.

    Args:
        loaded: the pipeline.
        method: what is trained.
        config: gives the seed of start values, and whether activations are computed twice to save memory.

    Yields:
        The parameters to train, by name.

    Raises:
        InvalidConfig: the denoiser has no gradient checkpointing.
    """
    denoiser: Any = loaded.family.denoiser(loaded.pipe)
    if config.gradient_checkpointing and not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise InvalidConfig(
            f"{type(denoiser).__name__} has no gradient checkpointing; train without gradient_checkpointing."
        )
    try:
        parameters = method.attach(loaded, purpose_generator(config.seed, "adapter"))
        # Not train(): the only thing it would switch on is dropout, which draws from the global generator.
        denoiser.eval()
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        yield parameters
    finally:
        if config.gradient_checkpointing:
            denoiser.disable_gradient_checkpointing()
        method.detach(loaded)


def purpose_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose, so that more draws for one never shift those for another."""
    return seeded_generator(purpose, seed)
