"""Processes that hold runs, named so that any process of the host can tell whether they still live."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Where there is no count of ticks since the boot, two readings of a start time may differ a little.
START_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a run, in a way that tells whether it still lives.

    Args:
        host: names one boot of one machine, or of one container on it.
        pid: process id there.
        started: when the process started, in a unit of the host's that no change of its clock moves.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Owner:
        """Return this process as an owner."""
        return cls(host_id(), os.getpid(), start_of(psutil.Process()))

    def to_json(self) -> str:
        """Return the owner as it is stored."""
        return json.dumps({"host": self.host, "pid": self.pid, "started": self.started})

    @classmethod
    def from_json(cls, text: str | None) -> Owner | None:
        """Return the stored owner, or None where there is none."""
        if not text:
            return None
        value = json.loads(text)
        return cls(value["host"], value["pid"], value["started"])

    def is_dead_here(self) -> bool:
        """Whether this is a process of this host that has ended; False if that is not known."""
        if self.host != host_id():
            return False
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return not alive or abs(start_of(process) - self.started) > START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def start_of(process: psutil.Process) -> float:
    """Return when a process started: clock ticks since the boot where the system tells them, else seconds.

    The seconds follow the system clock, so they change when it is set.
    """
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[19])
    except (OSError, IndexError, ValueError):
        return process.create_time()


def machine_id() -> str:
    """Return a name for this machine, the same after a restart."""
    return _short_hash([platform.node(), str(uuid.getnode())])


def host_id() -> str:
    """Return a name for this boot of this machine, and of this container where process ids are its own."""
    parts = [machine_id()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(file)
        try:
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text())
        except OSError:
            continue
    return _short_hash(parts)


def _short_hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
