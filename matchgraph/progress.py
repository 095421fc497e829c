"""How long work tells a caller how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""


def no_progress(step: str, done: int, total: int) -> None:
    """Ignore it."""


@dataclass(frozen=True)
class Work:
    """What is about to be drawn.

    Attributes:
        images: how many.
        tflop: what they cost.
        seconds: how long the rest of them takes at the pace so far, if it follows the number of images, and
            if it follows their cost, the shorter time first; None before the pace is known.
    """

    images: int
    tflop: float
    seconds: tuple[float, float] | None = None


OnWork = Callable[[Work], None]
"""Called before anything is drawn, and again as the pace is known better."""


def no_work(work: Work) -> None:
    """Ignore it."""


class Pace:
    """Says how much there is to draw, and then how long it takes: after the second batch, as the first is
    slowed by what is loaded for it, and each time that twice as long has passed.

    Args:
        work: all of it; nothing is said of no images.
        on_work: see `OnWork`.
    """

    def __init__(self, work: Work, on_work: OnWork) -> None:
        self._work, self._on_work = work, on_work
        self._images, self._tflop, self._wait = 0, 0.0, 0.0
        self._first: tuple[float, int, float] | None = None
        if work.images:
            on_work(work)

    def drew(self, images: int, tflop: float) -> None:
        """Count a batch.

        Args:
            images: of the batch.
            tflop: what they cost.
        """
        self._images, self._tflop = self._images + images, self._tflop + tflop
        now = time.monotonic()
        if self._first is None:
            self._first = (now, self._images, self._tflop)
            return
        began, drawn, spent = self._first
        taken = now - began
        if taken < self._wait or self._images >= self._work.images:
            return
        self._wait = 2 * taken
        shorter, longer = sorted(
            (
                taken / (self._images - drawn) * (self._work.images - self._images),
                taken / (self._tflop - spent) * (self._work.tflop - self._tflop),
            )
        )
        self._on_work(replace(self._work, seconds=(shorter, longer)))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar in a terminal or notebook, gone when the work is done; nothing where stderr is neither."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    visible = console.is_terminal or console.is_jupyter
    with Bar(*columns, console=console, transient=True, disable=not visible) as bar:
        task = bar.add_task("", total=None)

        def note(step: str, done: int, total: int) -> None:
            bar.update(task, description=escape(step), completed=done, total=total or None)

        yield note
