"""The one training loop of the small zoo: seeded, resumable, with a cosine learning rate and averaged
weights.

Every draw of a step comes from a generator seeded by (seed, step), so a run that was interrupted and resumed
equals one that was not, without any random state on disk.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.errors import NonFiniteTraining
from matchgraph.minizoo.build.icons import WORK

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

LOGS = ROOT / "logs"


@dataclass(frozen=True)
class LoopConfig:
    """How to train one network.

    Attributes:
        name: names the checkpoint in the work folder and the loss curve in `minizoo/logs`.
        steps: optimiser steps.
        batch_size: images per step.
        learning_rate: the highest one, reached after the warm-up; the cosine ends at 2% of it.
        decay_share: share of the steps, the last ones, over which the cosine falls; 0: it never does.
            Until the fall begins, a run can be made longer or shorter without changing its past.
        stop_after: the last step done, for a run that ends before its rate has fallen; None does all.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's.
        seed: of the initial weights and of every draw.
        ema_decay: of the averaged weights, which are the ones exported.
        log_every: steps between rows of the loss curve.
        checkpoint_every: steps between checkpoints.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    decay_share: float = 1.0
    stop_after: int | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    ema_decay: float = 0.998
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if (
            self.steps < 1
            or self.batch_size < 1
            or not 0 <= self.ema_decay < 1
            or self.learning_rate <= 0
            or not 0 <= self.decay_share <= 1
        ):
            raise ValueError(f"invalid training configuration: {self}")

    @property
    def last_step(self) -> int:
        """How many steps the run does."""
        return self.steps if self.stop_after is None else min(self.steps, self.stop_after)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = self.decay_share * self.steps
        done = min(1.0, max(0.0, (step - (self.steps - fall)) / fall)) if fall else 0.0
        return self.learning_rate * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))


def generator_of(seed: int, step: int) -> torch.Generator:
    """The generator of one step's draws.

    Args:
        seed: the run's seed.
        step: 0-based.

    Returns:
        A CPU generator; another step or seed gives an unrelated stream.
    """
    import torch

    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + step * 7_919)


def checkpoint_path(name: str) -> Path:
    """Where a run keeps its newest checkpoint."""
    return WORK / "checkpoints" / f"{name}.safetensors"


def _write_checkpoint(path: Path, step: int, seconds: float, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={"step": str(step), "seconds": f"{seconds:.1f}"})
    partial.replace(path)


def _read_checkpoint(path: Path) -> tuple[int, float, dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
        return int(metadata["step"]), float(metadata["seconds"]), tensors


def is_finished(config: LoopConfig) -> bool:
    """Whether a run's newest checkpoint is its last one."""
    path = checkpoint_path(config.name)
    return path.is_file() and _read_checkpoint(path)[0] >= config.last_step


def averaged_weights(name: str) -> tuple[int, float, dict[str, Tensor]]:
    """Read a run's averaged weights, finished or not.

    Args:
        name: the run's.

    Returns:
        (steps done, seconds spent, parameter name -> averaged weights).
    """
    step, seconds, tensors = _read_checkpoint(checkpoint_path(name))
    return step, seconds, {key[4:]: value for key, value in tensors.items() if key.startswith("ema.")}


def train(
    config: LoopConfig, model: nn.Module, losses: Callable[[int, torch.Generator], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Train all of a model's parameters, going on from the newest checkpoint if there is one.

    Args:
        config: the run.
        model: trained in place; all its parameters are trainable.
        losses: (step, generator of that step) -> named terms; `loss` is minimised, the others are logged.

    Returns:
        Parameter name -> averaged weights. `model` is left holding them too.

    Raises:
        NonFiniteTraining: the loss stopped being a number; the last checkpoint stays as it was.
    """
    import torch

    torch.set_num_threads(1)
    parameters = dict(model.named_parameters())
    average = {name: value.detach().clone() for name, value in parameters.items()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    path, curve = checkpoint_path(config.name), LOGS / f"{config.name}.csv"
    start, seconds = 0, 0.0
    if path.is_file():
        start, seconds, stored = _read_checkpoint(path)
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(stored[f"now.{name}"])
                average[name].copy_(stored[f"ema.{name}"])
                if f"avg.{name}" not in stored:
                    continue
                # In the parameter's own memory layout, which the file does not keep.
                optimiser.state[value] = {
                    "step": torch.tensor(float(start)),
                    "exp_avg": torch.empty_like(value).copy_(stored[f"avg.{name}"]),
                    "exp_avg_sq": torch.empty_like(value).copy_(stored[f"sq.{name}"]),
                }
        logger.info("%s: going on at step %d", config.name, start)
    _keep_rows_before(curve, start)
    model.train()
    sums: dict[str, float] = {}
    began = time.monotonic()
    for step in range(start, config.last_step):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate_at(step)
        terms = losses(step, generator_of(config.seed, step))
        loss = terms["loss"]
        if not torch.isfinite(loss):
            raise NonFiniteTraining(
                f"{config.name}: loss {loss.item()} at step {step}; lower the learning rate"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        # A short memory early on: the first weights are noise and must not linger in the average.
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        done = step + 1
        if done % config.log_every == 0 or done == config.last_step:
            count = (done - 1) % config.log_every + 1
            means = {name: total / count for name, total in sums.items()}
            sums = {}
            elapsed = seconds + time.monotonic() - began
            _append_row(
                curve,
                {"step": done, "seconds": round(elapsed, 1), **{k: round(v, 5) for k, v in means.items()}},
            )
            logger.info("%s step %d/%d %.0fs %s", config.name, done, config.last_step, elapsed, means)
        if done % config.checkpoint_every == 0 or done == config.last_step:
            tensors = {f"now.{name}": value.detach() for name, value in parameters.items()}
            tensors |= {f"ema.{name}": value for name, value in average.items()}
            for name, value in parameters.items():
                # A class may have weights that this use of it never touches; they have no state.
                if state := optimiser.state.get(value):
                    tensors |= {f"avg.{name}": state["exp_avg"], f"sq.{name}": state["exp_avg_sq"]}
            _write_checkpoint(path, done, seconds + time.monotonic() - began, tensors)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(average[name])
    model.eval()
    return average


def _keep_rows_before(curve: Path, step: int) -> None:
    """Drop the rows that a resumed run will write again."""
    if not curve.is_file():
        return
    with curve.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if int(row["step"]) <= step]
    curve.unlink()
    for row in kept:
        _append_row(curve, row)


def _append_row(curve: Path, row: Mapping[str, object]) -> None:
    curve.parent.mkdir(parents=True, exist_ok=True)
    fresh = not curve.is_file()
    with curve.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)
