"""Peak memory is that of the work measured."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

from matchgraph.training.pipelines.memory import PeakMemory

MEGABYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a process's peak")
def test_the_peak_is_that_since_the_start():
    large = torch.ones(400 * MEGABYTE // 4)
    del large
    gc.collect()
    memory = PeakMemory(torch.device("cpu"))
    before = memory.bytes()
    passing = torch.ones(200 * MEGABYTE // 4)
    del passing
    grown = memory.bytes() - before
    assert 150 * MEGABYTE < grown < 300 * MEGABYTE
