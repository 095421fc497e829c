"""Where and with what something was measured, for the record of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any


def provenance(packages: Iterable[str], note: str = "") -> dict[str, Any]:
    """The machine, and the versions of what ran on it.

    Args:
        packages: distributions whose version counts.
        note: what else the machine was busy with.
    """
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "note": note,
        },
        "versions": {package: version(package) for package in packages},
    }
