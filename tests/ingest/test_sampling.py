"""How many images are enough, and what decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matchgraph.cli.runs import run_config
from matchgraph.ingest.runs.config import Execution, RunConfig
from matchgraph.ingest.runs.sampling import FIRST_LOOK, Sampling, next_look
from tests.ingest.stub import CONFIG, score


def scored(value: float, error: float | None) -> tuple:
    return (
        replace(score("clip_fid", value), standard_error=error),
        replace(score("kid", 1.0), standard_error=None),
    )


@pytest.mark.parametrize(
    ("error", "tolerance", "expected"),
    [
        (9.0, None, 256),
        (0.4, 0.05, 256),
        # Twice the error takes four times the images.
        (1.0, 0.05, 1024),
        (0.75, 0.05, 576),
        # Not again for a handful.
        (0.51, 0.05, FIRST_LOOK + FIRST_LOOK // 2),
        (9.0, 0.01, 1024),
        (None, 0.05, 256),
    ],
)
def test_the_next_look_follows_from_the_error(
    error: float | None, tolerance: float | None, expected: int
) -> None:
    assert next_look(scored(10.0, error), 256, 5000, tolerance) == expected


def test_frechet_distances_decide_where_there_are_any() -> None:
    kid = replace(score("kid", 0.001), standard_error=0.5, bias=None)
    assert next_look((*scored(10.0, 0.4), kid), 256, 1024, 0.05) == 256
    assert next_look((kid,), 256, 1024, 0.05) == 1024


def test_no_more_than_the_most_are_drawn() -> None:
    assert next_look(scored(10.0, 5.0), 256, 300, 0.01) == 300
    assert next_look(scored(10.0, 5.0), 300, 300, 0.01) == 300


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_image_that_is_gone_costs_the_picture_alone(tmp_path: Path, content: bytes | None) -> None:
    image = tmp_path / "real.png"
    if content is not None:
        image.write_bytes(content)
    shown = SimpleNamespace(caption="a cat", path=image)
    job: Any = SimpleNamespace(config=CONFIG, dataset="cats", images=[shown])
    unused: Any = None
    notices: list[str] = []
    sampling = Sampling(job, unused, unused, unused, Execution("cpu"), None, unused)
    sampling.save_real(tmp_path / "grid.png", notices.append)
    (notice,) = notices
    assert notice.startswith(f"cats: no picture of real images: {image}")
    assert not (tmp_path / "grid.png").exists()


def test_auto_is_a_tolerance_and_a_most() -> None:
    assert run_config({"samples": "auto", "tolerance": None}) == RunConfig(samples=10_000, tolerance=0.05)
    assert run_config({"samples": "auto", "tolerance": 0.01}).tolerance == 0.01
    assert run_config({"samples": 7, "tolerance": None}) == RunConfig(samples=7)
    # Runs without it are what they were before there was one.
    assert "tolerance" not in RunConfig().asked()
    assert RunConfig(tolerance=0.1).asked()["tolerance"] == 0.1
