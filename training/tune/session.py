"""A training run across processes: its steps, its checkpoints, and taking it up again."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matchgraph.settings import settings_of
from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import NonFiniteLoss
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune.checkpoint import (
    Checkpoints,
    DamagedCheckpoint,
    RunState,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from matchgraph.training.pipelines.memory import PeakMemory
    from matchgraph.training.tune.loop import Loop


@dataclass
class Session:
    """One process's part of a run, which may be taken up where another stopped.

    Attributes:
        steps: of the whole run.
        checkpoints: where its state is kept and what it goes on from.
        identity: what the run is of, as `identity_of` tells it.
        began: `time.perf_counter()` when this part began.
        memory: what it takes.
        compiling: whether to compile the denoiser.
        losses: of each step done.
        validate: called after each step; what it finds is kept.
    """

    steps: int
    checkpoints: Checkpoints | None
    identity: dict[str, Any]
    began: float
    memory: PeakMemory
    compiling: bool = False
    losses: list[float] = field(default_factory=list)
    validate: Callable[[int], dict[str, float] | None] = lambda _: None
    validations: list[dict[str, float]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped_steps: int = 0
    compiled: bool = False
    # Of this part, for looks, which are no time of training.
    looking_seconds: float = 0.0
    # Of the parts before this one.
    seconds_before: float = 0.0
    peak_before: int = 0

    @property
    def seconds(self) -> float:
        """Wall time of all parts; looks left out."""
        return self.seconds_before + time.perf_counter() - self.began - self.looking_seconds

    @property
    def peak_memory_bytes(self) -> int:
        return max(self.peak_before, self.memory.bytes())

    def train(self, training: Loop[Any], on_step: Callable[[int, float], None] | None) -> None:
        """Make the steps that are left, and keep checkpoints of them.

        Raises:
            NonFiniteLoss: a loss, gradient or weight is infinite or NaN; no checkpoint is left, that to go on
                from included, as it would only lead there again.
        """
        try:
            self._train(training, on_step)
        except NonFiniteLoss:
            if self.checkpoints is not None:
                remove_checkpoint(self.checkpoints.folder)
                if self.checkpoints.resume_from is not None:
                    remove_checkpoint(self.checkpoints.resume_from)
            raise

    def _train(self, training: Loop[Any], on_step: Callable[[int, float], None] | None) -> None:
        saved = self._take_up(training)
        self.compiled = self.compiling and training.compile()
        self.notes += training.notes
        last = self.steps
        for step in range(len(self.losses) + 1, last + 1):
            self.losses.append(training.step(step))
            before = time.perf_counter()
            if (found := self.validate(step)) is not None:
                self.validations.append(found)
            self.looking_seconds += time.perf_counter() - before
            if self.checkpoints and (step % self.checkpoints.every_steps == 0 or step == last):
                self._save(training)
                saved = step
            if on_step is not None:
                try:
                    on_step(step, self.losses[-1])
                except BaseException:
                    # A requested stop loses no step; its error is raised even if saving fails.
                    if self.checkpoints and saved != step:
                        with suppress(OSError, NonFiniteLoss):
                            self._save(training)
                    raise
        training.check_finite(last)
        self.skipped_steps = training.skipped_steps

    def _take_up(self, training: Loop[Any]) -> int | None:
        """Restore the state that the run is to go on from, and return its step; None to start from step 1."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return None
        resume_from = checkpoints.resume_from
        found = None
        try:
            if resume_from is not None:
                found = read_checkpoint(resume_from, self.identity)
            if found is not None:
                progress, tensors = found
                training.restore(
                    tensors,
                    position=progress.position,
                    skipped_steps=progress.skipped_steps,
                    scaler=progress.scaler,
                )
        except (DamagedCheckpoint, ValueError) as error:
            self.notes.append(f"A damaged checkpoint was ignored; training started again: {error}")
            found = None
        if found is None:
            remove_checkpoint(checkpoints.folder)
            return None
        self.losses, self.validations = list(progress.losses), list(progress.validations)
        self.seconds_before, self.peak_before = progress.seconds, progress.peak_memory_bytes
        self.resumed_at = [*progress.resumed_at, progress.step]
        self.notes = [*progress.notes, *self.notes]
        if resume_from is None or resume_from.resolve() != checkpoints.folder.resolve():
            remove_checkpoint(checkpoints.folder)
            return None
        return progress.step

    def _save(self, training: Loop[Any]) -> None:
        assert self.checkpoints is not None
        # Weights that no longer are numbers would only fail again.
        training.check_finite(len(self.losses))
        progress = RunState(
            step=len(self.losses),
            losses=self.losses,
            position=training.position,
            skipped_steps=training.skipped_steps,
            scaler=training.scaler,
            seconds=self.seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            resumed_at=self.resumed_at,
            notes=self.notes,
            validations=self.validations,
        )
        write_checkpoint(self.checkpoints.folder, self.identity, progress, training.tensors())


def identity_of(loaded: LoadedPipeline, data: str, config: Any) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other stopped.

    Args:
        loaded: the pipeline; all of its files count.
        data: hash of what is trained on.
        config: with `to_dict`; all of it counts but how it is carried out.
    """
    known = {**settings_of(FineTuneConfig), **settings_of(config.__class__)}
    whole = {
        name: value
        for name, value in config.to_dict().items()
        if name not in known
        or known[name].about.identity == "always"
        or (known[name].about.identity == "changed" and value != known[name].default)
    }
    whole["batch_size"] *= whole.pop("gradient_accumulation")
    return whole | {"model": loaded.weights_hash(), "dataset": data}


def circumstances(loaded: LoadedPipeline) -> dict[str, Any]:
    """Versions, machine and device of a run, for its record."""
    import importlib.metadata

    import torch

    packages = ("torch", "diffusers", "transformers", "peft", "safetensors")
    on_gpu = loaded.device.type == "cuda"
    return {
        "family": loaded.family.name,
        "pipeline_class": loaded.family.pipeline_class,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(loaded.device) if on_gpu else str(loaded.device),
        "threads": torch.get_num_threads(),
    }
