"""Checkpoints: the whole state of a run between two steps, in one file that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import CheckpointMismatch, InvalidConfig
from matchgraph.training.files import write_json, write_tensors

if TYPE_CHECKING:
    import torch

CHECKPOINT_FILE = "checkpoint.safetensors"
# For people and ledgers to read; training itself goes by the header of the file above, since two files cannot
# be replaced at once.
SUMMARY_FILE = "checkpoint.json"
HEADER_KEY = "checkpoint"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run's state is kept, and what it goes on from.

    Args:
        folder: gets `checkpoint.safetensors` and `checkpoint.json`; those of an earlier run are removed when
            training starts, unless `resume_from` is this very folder.
        every_steps: steps between two checkpoints; one is also written after the last step.
        resume_from: a folder that holds a checkpoint; one without is as good as None.

    Raises:
        InvalidConfig: `every_steps` is not a whole number above 0.
    """

    folder: Path
    every_steps: int
    resume_from: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.resume_from is not None:
            object.__setattr__(self, "resume_from", Path(self.resume_from))
        if (
            not isinstance(self.every_steps, int)
            or isinstance(self.every_steps, bool)
            or self.every_steps < 1
        ):
            raise InvalidConfig(
                f"every_steps must be a whole number of at least 1, got {self.every_steps!r}."
            )


@dataclass(frozen=True)
class RunState:
    """What of a run's state is not a tensor.

    Attributes:
        step: steps done.
        losses: of each of them.
        position: images taken of the current epoch; with aspect buckets, steps taken of the run.
        skipped_steps: steps whose update was left out, since float16 overflowed in them.
        scaler: state of the loss scaler; empty but in fp16.
        seconds: wall time that all parts of the run took up to here.
        peak_memory_bytes: highest of all parts.
        resumed_at: the steps after which the run was taken up again.
        notes: what the record should tell.
        validations: see `training.tune.validation.Validator`.
    """

    step: int
    losses: list[float]
    position: int
    skipped_steps: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    resumed_at: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read; training starts from step 1 rather than stop for it."""


def write_checkpoint(
    folder: Path, identity: Mapping[str, Any], progress: RunState, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write a checkpoint; a crash leaves the one before.

    Args:
        folder: made if need be.
        identity: what the run is of; a checkpoint serves no other run.
        progress: the state's numbers.
        tensors: its tensors, by name.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "identity": dict(identity),
        "progress": asdict(progress),
        "sha256": _tensors_hash(tensors),
    }
    write_tensors(folder / CHECKPOINT_FILE, tensors, {HEADER_KEY: json.dumps(header, allow_nan=False)})
    write_json(folder / SUMMARY_FILE, {name: header[name] for name in ("format", "identity", "progress")})


def read_checkpoint(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[RunState, dict[str, torch.Tensor]] | None:
    """Read the checkpoint in a folder.

    Args:
        folder: where it may be.
        identity: what the run that goes on is of.

    Returns:
        Its numbers and tensors (on the CPU); None where there is none.

    Raises:
        CheckpointMismatch: it is another run's.
        DamagedCheckpoint: it cannot be read, or its content is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            # Cloned, so that nothing depends on the file after this.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise DamagedCheckpoint(f"{path} has format {header['format']!r}, not {FORMAT}")
        progress = RunState(**header["progress"])
        written, digest = header["identity"], header["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if _tensors_hash(tensors) != digest:
        raise DamagedCheckpoint(f"{path} is not what was written to it")
    _check_identity(path, written, identity)
    return progress, tensors


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint in a folder, if there is one."""
    for name in (CHECKPOINT_FILE, SUMMARY_FILE):
        (folder / name).unlink(missing_ok=True)


def checkpoint_step(folder: Path) -> int | None:
    """How many steps the checkpoint in a folder stands for, without loading it; None where there is none."""
    if not (folder / CHECKPOINT_FILE).exists():
        return None
    try:
        step = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))["progress"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _check_identity(path: Path, written: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [
        name for name in sorted(written.keys() | asked.keys()) if written.get(name) != asked.get(name)
    ]
    if differing:
        name = differing[0]
        others = f" {', '.join(differing[1:])} differ as well." if differing[1:] else ""
        raise CheckpointMismatch(
            f"{path} is of another run: its {name} is {written.get(name)!r}, this one's {asked.get(name)!r}."
            f"{others} Continue with the settings it was made with, or start over."
        )


def _tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
