"""The most memory that a stretch of work took."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PROCESS_STATUS = Path("/proc/self/status")
PROCESS_PEAK_RESET = Path("/proc/self/clear_refs")
# What Linux wants written there to reset the highest resident size.
RESET_PEAK = "5"


class PeakMemory:
    """The peak since this object was made: of a GPU's allocated memory, else of the process's resident size.

    Where the resident peak cannot be reset (systems other than Linux), it is that of the process so far.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            PROCESS_PEAK_RESET.write_text(RESET_PEAK)

    def bytes(self) -> int:
        """The peak up to now."""
        import torch

        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB$", PROCESS_STATUS.read_text(), re.MULTILINE)
        except OSError:
            found = None
        if found:
            return int(found[1]) * 1024
        import psutil

        facts = psutil.Process().memory_info()
        return getattr(facts, "peak_wset", facts.rss)
