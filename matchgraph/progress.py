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
        seconds: how long the rest of them takes at the pace so far; None before the first are drawn.
    """

    images: int
    tflop: float
    seconds: float | None = None


OnWork = Callable[[Work], None]
"""Called before anything is drawn, and once more when the pace is known."""


def no_work(work: Work) -> None:
    """Ignore it."""


class Pace:
    """Says how much there is to draw, and after the first images how long it takes.

    Args:
        work: all of it; nothing is said of no images.
        on_work: see `OnWork`.
    """

    def __init__(self, work: Work, on_work: OnWork) -> None:
        self._work, self._on_work = work, on_work
        self._began: float | None = time.monotonic()
        if work.images:
            on_work(work)

    def drew(self, tflop: float) -> None:
        """Count what was drawn; only the first call says something."""
        if self._began is not None and 0 < tflop < self._work.tflop:
            taken = time.monotonic() - self._began
            self._on_work(replace(self._work, seconds=taken * (self._work.tflop / tflop - 1)))
        self._began = None


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
