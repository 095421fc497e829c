"""A drawing is checked when it is built, and its name says only what is not the pipeline's own."""

from __future__ import annotations

from typing import Any

import pytest

from matchgraph.drawing import Drawing, InvalidDrawing
from matchgraph.settings import identity


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": True},
        {"steps": 2.0},
        {"guidance": float("nan")},
        {"guidance": -1.0},
        {"guidance": "2"},
        {"resolution_px": 0},
        {"resolution_px": None},
        {"cache_interval": 0},
        {"precision": "int8"},
    ],
)
def test_what_nothing_can_be_drawn_with_is_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(InvalidDrawing, match=f"{name} must be .*, got {value!r}"):
        Drawing(**wrong)


def test_names_say_what_is_not_the_pipelines_own() -> None:
    assert Drawing().name == "default"
    assert Drawing(4, resolution_px=32).name == "4"
    assert Drawing(10, 7.5, "DDIMScheduler").name == "10-DDIM-g7.5"
    assert Drawing(50, 1, cache_interval=3).name == "50-g1-cache3"
    assert Drawing(20, precision="bf16").name == "20-bf16"


def test_the_usual_precision_leaves_earlier_drawings_what_they_were() -> None:
    assert "precision" not in identity(Drawing())
    assert identity(Drawing(precision="fp16"))["precision"] == "fp16"
