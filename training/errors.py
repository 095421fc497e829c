"""Errors of fine-tuning, sampling and measuring that a user can cause and fix."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from matchgraph.errors import Error


class TrainingError(Error):
    """Base of everything that can go wrong here through what a user gave; shown as one line, exit code 2."""


class InvalidConfig(TrainingError, ValueError):
    """A fine-tuning or sampling configuration has an invalid value."""


class UnknownFamily(TrainingError):
    """A pipeline class that no module of `training.pipelines.families` knows how to train."""


class UnsupportedScheduler(TrainingError):
    """The pipeline's scheduler states an objective that its family does not have."""


class BadPipeline(TrainingError):
    """A model folder that is not a diffusers pipeline, or whose files cannot be read."""


class UnsafeWeights(BadPipeline):
    """A model folder holds pickled weights, which run code when they are opened."""


class ModelUnavailable(BadPipeline):
    """A model or its weights, named on the hub, that are neither on this machine nor to be had from there."""


class CannotProfile(BadPipeline):
    """A pipeline whose cost its configs do not give."""


class BadAdapter(TrainingError):
    """LoRA weights that cannot be read, or that do not fit the pipeline they are loaded into."""


class BadControlNet(TrainingError):
    """A ControlNet that cannot be read, or that does not fit the pipeline it is to steer."""


class NonFiniteLoss(TrainingError, ArithmeticError):
    """The training loss became infinite or not a number; nothing was saved."""


class NonFiniteEncoding(TrainingError, ArithmeticError):
    """A VAE or text encoder gave an infinite value or none at all; nothing was trained."""


class OutOfMemory(TrainingError, MemoryError):
    """A stage needs more memory than there is.

    Attributes:
        stage: which, as `training.memory.plan.STAGES` calls it.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class InsufficientMemory(TrainingError):
    """A model that does not fit this machine's device; another one may hold it."""


class NonFiniteImages(TrainingError, ArithmeticError):
    """Sampling gave latents or pixels that are infinite or not a number; nothing was measured."""


class EmptyImages(TrainingError):
    """All sampled images are of one colour, or the same; nothing was measured."""


class CheckpointMismatch(TrainingError):
    """A checkpoint belongs to another configuration, model or dataset; the message names the field."""


class BadImage(TrainingError):
    """An image file that cannot be used; the message names it."""


class BadDataset(TrainingError):
    """An image folder that cannot be used; the message names the file and the line."""


class BadPromptFile(TrainingError):
    """A file of prompts that cannot be read; the message names the line or what the file is."""


class ExtractorUnavailable(TrainingError):
    """The weights of a feature extractor cannot be had or read."""


class ScorerUnavailable(TrainingError):
    """What scores images is not there, or does not fit."""


class MissingLibrary(TrainingError, ImportError):
    """An optional library is not installed; the message says what to install."""


class UnknownMeasure(TrainingError):
    """A metric that no extractor and distance make, or whose extractor was not given."""


class DistanceError(TrainingError, ValueError):
    """A distance cannot be computed from what was given."""


class ShapeMismatch(DistanceError):
    """Means, covariances or features whose dimensions do not agree."""


class NonFiniteDistance(DistanceError):
    """An input or the result of a distance is infinite or not a number."""


class TooFewSamples(DistanceError):
    """Fewer than two samples, of which no covariance can be taken."""


# How CUDA, its libraries and the CPU's allocator word a lack of memory, where it is not an error of its own.
LACK = re.compile(
    r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is a lack of memory, or was caused by one: it comes as `torch.OutOfMemoryError`, as
    `AcceleratorError`, and as `RuntimeError` in loading.
    """
    while error is not None:
        # By name, since this module loads no torch.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and LACK.search(str(error)):
            return True
        error = error.__cause__
    return False


@contextmanager
def memory_of(stage: str) -> Iterator[None]:
    """Raise a lack of memory inside as `OutOfMemory`, which holds none of the tensors of what failed.

    Args:
        stage: what is done inside.
    """
    try:
        yield
        return
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        reason = first_line(error)
        # Python keeps this error as the context of the next one, and with it all that its frames hold.
        _empty(error)
    raise OutOfMemory(stage, f"Out of memory in {stage}: {reason}")


def _empty(error: BaseException) -> None:
    """Let go of all that an error, and those behind it, hold by their tracebacks."""
    behind: BaseException | None = error
    while behind is not None:
        traceback.clear_frames(behind.__traceback__)
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
