"""How long work tells a caller how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""


def no_progress(step: str, done: int, total: int) -> None:
    """Ignore it."""


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
