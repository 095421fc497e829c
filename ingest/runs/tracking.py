"""What runs are followed with while they train: TensorBoard and Weights & Biases, by their own libraries.

Both write to the data folder; W&B sends nothing anywhere unless its own WANDB_MODE says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from matchgraph.ingest.errors import TrackerUnavailable
from matchgraph.training.errors import first_line

if TYPE_CHECKING:
    from PIL import Image

# In the data folder.
TRACKING_FOLDER = "tracking"
PROJECT = "matchgraph"


@dataclass(frozen=True)
class Tracked:
    """The run that is followed.

    Args:
        run: its id.
        name: for people.
        settings: what it does.
        folder: where trackers write.
        done_steps: those that an earlier process made.
    """

    run: str
    name: str
    settings: Mapping[str, Any]
    folder: Path
    done_steps: int


class Tracker(Protocol):
    """Follows one run."""

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by name."""
        ...

    def pictures(self, step: int, images: Sequence[Image.Image]) -> None:
        """Images drawn after a step."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Writes event files, which `tensorboard --logdir` shows.

    Args:
        of: the run.
    """

    def __init__(self, of: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed process logged after its last checkpoint comes again.
        purge = of.done_steps + 1 if of.done_steps else None
        self._writer: Any = SummaryWriter(str(of.folder / "tensorboard" / of.run), purge_step=purge)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, images: Sequence[Image.Image]) -> None:
        """See `Tracker`."""
        import numpy as np

        for number, image in enumerate(images):
            self._writer.add_image(f"picture {number}", np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """Logs to Weights & Biases, offline unless WANDB_MODE says otherwise; `wandb sync` sends it later.

    Args:
        of: the run.
    """

    def __init__(self, of: Tracked) -> None:
        import wandb

        self._images = wandb.Image
        of.folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=PROJECT,
            id=of.run,
            name=of.name,
            config=dict(of.settings),
            dir=str(of.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
        )

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, images: Sequence[Image.Image]) -> None:
        """See `Tracker`."""
        self._run.log({"pictures": [self._images(image) for image in images]}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


# By the names that users know them by, which are those of their packages and extras.
TRACKERS: Mapping[str, Callable[[Tracked], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Trackers:
    """Several trackers as one. One that fails is left out: a run is worth more than what follows it.

    Args:
        names: keys of `TRACKERS`.
        of: the run.
        notice: told of one that failed.
    """

    def __init__(self, names: Sequence[str], of: Tracked, notice: Callable[[str], None]) -> None:
        self._opened: dict[str, Tracker] = {}
        self._notice = notice
        for name in names:
            try:
                self._opened[name] = TRACKERS[name](of)
            except Exception as error:
                self._leave_out(name, error)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.values(step, values))

    def pictures(self, step: int, images: Sequence[Image.Image]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.pictures(step, images))

    def close(self) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                act(tracker)
            except Exception as error:
                del self._opened[name]
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._notice(f"{name} failed, and the run goes on without it: {first_line(error)}")


@contextmanager
def tracked(
    names: Sequence[str], of: Tracked, notice: Callable[[str], None] = lambda _: None
) -> Iterator[Trackers]:
    """Follow a run inside.

    Args:
        names: keys of `TRACKERS`.
        of: the run.
        notice: told of a tracker that fails.

    Raises:
        TrackerUnavailable: a tracker's package is not installed.
    """
    check_trackers(names)
    trackers = Trackers(names, of, notice)
    try:
        yield trackers
    finally:
        trackers.close()


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed.

    Args:
        names: keys of `TRACKERS`.

    Raises:
        TrackerUnavailable: a package is missing.
    """
    for name in names:
        spec = find_spec(name)
        # A folder of this name in the working folder is none: W&B leaves such folders.
        if spec is None or spec.origin is None:
            raise TrackerUnavailable(f"--track {name} needs its package: pip install 'matchgraph[{name}]'.")
