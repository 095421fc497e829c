"""The processes that the server starts to carry out runs, since nothing is fine-tuned in its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matchgraph.ui.desk import Desk


class Work:
    """The processes that this server has started to carry runs out; one set of them for all visitors.

    Args:
        desk: the services.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure = ""

    @property
    def going_on(self) -> bool:
        """Whether they are at work."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> None:
        """Start them, unless they are at work."""
        if not self.going_on:
            self._stop.clear()
            self.failure = ""
            self._thread = threading.Thread(target=self._work, name="runs of the page", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stop them at their next step, and wait for it; their runs go back into the queue."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            reasons = self._desk.work(self._stop)
            self.failure = "\n".join(
                f"Run {run[:8]} cannot be carried out here: {reason}" for run, reason in reasons.items()
            )
        except Exception as error:
            # The page shows it; a thread has nobody else to tell.
            self.failure = str(error)
