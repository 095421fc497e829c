"""Every stage of a run on a GPU that is not there: types and devices that do not go together fail here.

Pipelines are tiny; `bench.fake_cards` takes the ten published models through the same stages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.fake_card import GPU, Card
from bench.fake_cards import plans_after, run_through, traced, write_images
from matchgraph.training.measure.extractors.base import Extractor
from matchgraph.training.memory.plan import GIB, MemoryPlan, Work, plan_memory, stage_bytes
from tests.training import tiny

BATCH = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), BATCH)


def extractor() -> Extractor:
    weights = torch.zeros(3 * 8 * 8, 5, device=GPU)
    half = (0.5, 0.5, 0.5)
    return Extractor("e", "0" * 16, 5, 8, half, half, lambda pixels: pixels.flatten(1) @ weights, GPU)


def planned(folder: Path, **decided: object) -> MemoryPlan:
    work = Work(BATCH, 2, prompt_batch=16, image_batch=BATCH, **decided)
    return plan_memory(traced(folder, tiny.RESOLUTION_PX), 24 * GIB, work)


def run(folder: Path, plan: MemoryPlan, images: Path, card: Card) -> dict[str, int]:
    return run_through(folder, plan, images, card, side=tiny.RESOLUTION_PX, extractor=extractor)


WAITING = dict.fromkeys(("parked", "encoder_offload", "training_offload", "sampling_offload"), True)
OFFLOADED = {"placement": WAITING, "gradient_checkpointing": True}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decided"), [("sdxl", {}), ("sd3", {}), ("flux", OFFLOADED)])
def test_every_stage_of_a_run_goes_through_under_its_plan(
    tiny_folder: Callable[..., Path], images: Path, name: str, decided: dict[str, object]
) -> None:
    folder = tiny_folder(name)
    peaks = run(folder, planned(folder, **decided), images, Card(GIB))
    assert list(peaks) == ["loading", "encoding", "training", "sampling and decoding", "scoring"]
    # Of a pipeline that is offloaded, nothing is there yet.
    assert (peaks.pop("loading") == 0) == bool(decided)
    assert min(peaks.values()) > 0


@pytest.mark.slow
def test_a_plan_that_proves_too_large_is_followed_by_one_that_trains(
    tiny_folder: Callable[..., Path], images: Path
) -> None:
    folder = tiny_folder("flux")
    plan = planned(folder)
    size = int(0.8 * stage_bytes(plan, "training"))
    plans = plans_after(folder, plan, images, size, side=tiny.RESOLUTION_PX)
    assert [found.micro_batch for found in plans] == [BATCH, BATCH // 2]
