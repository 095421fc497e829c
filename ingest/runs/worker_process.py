"""A worker as a child process of `matchgraph ingest run --workers`; see `ingest.runs.local`.

Its order comes as one line of JSON on stdin, which stays open as long as the parent lives. What it could not
do here goes as JSON to stdout at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchgraph.errors import Error
from matchgraph.graphdb.connection import Settings
from matchgraph.ingest.runs.worker import WorkerOptions, stopped_by_signals, work_queue

INTERRUPTED, USER_ERROR = 130, 2


def carry_out_order(order: dict[str, Any]) -> int:
    """Work as ordered and return the exit code.

    Args:
        order: `settings`, `ids`, `without` (runs to leave alone) and `options`, see
        `ingest.runs.local.order`.
    """
    settings = Settings(**{**order["settings"], "home": Path(order["settings"]["home"])})
    with stopped_by_signals() as stop:
        threading.Thread(target=_follow_parent, daemon=True).start()
        try:
            summary = work_queue(
                settings,
                order["ids"],
                ordered_options(order),
                without=order["without"],
                stop=stop,
            )
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            # An import that is interrupted may fail by an error of its own.
            if stop.is_set():
                print(f"Interrupted: {type(error).__name__}: {error}", file=sys.stderr)
                return INTERRUPTED
            if not isinstance(error, Error):
                raise
            print(f"Error: {error}", file=sys.stderr)
            return USER_ERROR
    json.dump({"not_here": dict(summary.not_here)}, sys.stdout)
    return 0


def ordered_options(order: Mapping[str, Any]) -> WorkerOptions:
    """The options of an order that came as JSON, which has no tuples."""
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in order["options"].items()
    }
    return WorkerOptions(**options)


def _follow_parent() -> None:
    """Ask this process to end when its parent has."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(carry_out_order(json.loads(sys.stdin.readline())))
