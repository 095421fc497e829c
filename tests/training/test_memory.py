"""Peak memory is that of the work measured, and what is not trained makes room on a GPU."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace

import pytest
import torch

from matchgraph.training.pipelines.memory import PeakMemory, encoders_parked

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


class Watched(torch.nn.Module):
    """A module that says where it was sent, for lack of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, place: object) -> Watched:
        self.places.append(str(place))
        return self


def pipeline(device: str) -> tuple[SimpleNamespace, dict[str, Watched]]:
    parts = {name: Watched() for name in ("vae", "text_encoder", "unet")}
    pipe = SimpleNamespace(components={**parts, "scheduler": object(), "text_encoder_2": None})
    family = SimpleNamespace(denoiser=lambda _: parts["unet"])
    return SimpleNamespace(pipe=pipe, family=family, device=torch.device(device)), parts


@pytest.mark.parametrize("fails", [False, True])
def test_encoders_leave_the_gpu_and_come_back(fails):
    loaded, parts = pipeline("cuda")
    try:
        with encoders_parked(loaded):
            assert [parts[name].places for name in ("vae", "text_encoder", "unet")] == [["cpu"], ["cpu"], []]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [parts[name].places for name in ("vae", "text_encoder")] == [["cpu", "cuda"]] * 2
    assert parts["unet"].places == []


def test_nothing_moves_within_the_cpus_memory():
    loaded, parts = pipeline("cpu")
    with encoders_parked(loaded):
        pass
    assert [part.places for part in parts.values()] == [[], [], []]
