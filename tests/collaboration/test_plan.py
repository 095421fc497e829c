"""What student and teacher are to do is checked before anything is drawn."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matchgraph.collaboration.corrections import Corrections, correction_of
from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.plan import Correction, Plan, price
from matchgraph.collaboration.trials import Grid
from matchgraph.drawing import Drawing

STUDENT, TEACHER = Drawing(2, 1.0, resolution_px=32), Drawing(10, 7.5, "DDIMScheduler", 32)
PLAN = Plan(STUDENT, Correction(TEACHER))


def test_corrections_are_named_by_what_they_do() -> None:
    assert Correction(TEACHER, 0.5).id == "refine-0.5@10-DDIM-g7.5"
    assert Correction(Drawing(10)).id == "regenerate@10"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_of_a_schedule_are_between_none_and_all(share: float) -> None:
    with pytest.raises(InvalidPlan, match="rollback"):
        Correction(TEACHER, share)
    with pytest.raises(InvalidPlan, match="strength"):
        replace(PLAN, strength=share)
    assert replace(PLAN, strength=0.5).strength == Correction(TEACHER, 0.5).rollback == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": replace(STUDENT, steps=None)}, "number of steps"),
        ({"correction": Correction(replace(TEACHER, steps=None))}, "number of steps"),
    ],
)
def test_both_draw_in_a_known_number_of_steps(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        replace(PLAN, **changed)


def test_a_grid_is_every_rollback_with_every_refiner() -> None:
    grid = Corrections((4, 9), (2,), (0.3, 0.7), 3.0, "DDIMScheduler").grid((STUDENT,), 2, 7)
    assert [drawing.name for drawing in grid.teachers] == ["4-DDIM-g3", "9-DDIM-g3"]
    assert [one.id for one in grid.refinements] == ["refine-0.3@2-DDIM-g3", "refine-0.7@2-DDIM-g3"]
    assert (grid.samples, grid.seed) == (2, 7)
    assert {drawing.resolution_px for drawing in (*grid.teachers, *grid.refiners)} == {32}
    larger = Corrections((4,), (2,), (0.3,), teacher_resolution_px=64).grid((STUDENT,), 1, 0)
    assert [drawing.resolution_px for drawing in (*larger.teachers, *larger.refiners)] == [64, 64]
    assert larger.students[0].resolution_px == 32
    half = Corrections((4,), (2,), (0.3,)).grid((replace(STUDENT, precision="bf16"),), 1, 0)
    assert {drawing.precision for drawing in (*half.teachers, *half.refiners)} == {"bf16"}
    assert correction_of("refine-0.7@2-DDIM-g3", grid) == (0.7, grid.refiners[0])
    assert correction_of("regenerate@9-DDIM-g3", grid) == (None, grid.teachers[1])
    # The student alone: what the teacher would do at the least.
    assert correction_of(None, grid) == (None, grid.refiners[0])
    with pytest.raises(InvalidPlan, match="one correction"):
        Grid((STUDENT,), (), (), ())
    with pytest.raises(InvalidPlan, match=r"one resolution, got \[32, 64\] pixels"):
        Grid((STUDENT,), (TEACHER, replace(TEACHER, resolution_px=64)), (), ())
    with pytest.raises(InvalidPlan, match=r"one precision, got \['bf16', 'fp32'\]"):
        Grid((STUDENT,), (TEACHER, replace(TEACHER, precision="bf16")), (), ())


def operations(drawing: Drawing) -> dict[str, Any]:
    """What of a drawing decides how many they are: all but the precision."""
    return {name: value for name, value in asdict(drawing).items() if name != "precision"}


def test_an_image_costs_denoising_and_control_and_a_pipeline_is_built_once_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built, asked = [], []

    class Profiler:
        def __init__(self, *given: Any) -> None:
            built.append(given)

        def price(self, **drawing: Any) -> Any:
            asked.append(drawing)
            return SimpleNamespace(parts={"denoising": 3.0, "control": 0.5, "decoding": 9.0})

    class Loaded:
        folder = str(tmp_path)
        pipe = SimpleNamespace(components={})

    monkeypatch.setattr("matchgraph.training.pipelines.profile.PipelineProfiler", Profiler)
    loaded: Any = Loaded()
    assert [price(loaded, TEACHER), price(loaded, STUDENT)] == [3.5, 3.5]
    loaded.pipe.components["controlnet"] = SimpleNamespace(config={"of": "edges", "from": tmp_path})
    price(loaded, TEACHER)
    assert built == [(str(tmp_path), None), (str(tmp_path), {"of": "edges", "from": str(tmp_path)})]
    assert asked == [operations(TEACHER), operations(STUDENT), operations(TEACHER)]
