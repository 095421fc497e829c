"""What each level of `matchgraph choose` gives each prompt, on tables small enough to work out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click import BadParameter, UsageError
from click.testing import CliRunner

from matchgraph.cli.choose import Way, adapters_of, plans, with_teacher
from matchgraph.cli.main import matchgraph
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import Calibration, Distilled, Tuned
from matchgraph.graphdb.prompts import Variant
from matchgraph.minizoo import ROOT
from matchgraph.routing.errors import BudgetTooSmall

VARIANTS = (
    Variant("student@1", "student", Drawing(1, 1.0, resolution_px=32), 1.0),
    Variant("big@4", "big", Drawing(4), 4.0),
    Variant("other@4", "other", Drawing(4), 4.0),
    Variant("big@20", "big", Drawing(20), 20.0),
)
# Of the chosen models the student is good for the first half of the prompts, big@4 for the second.
QUALITY = np.array([[0.6, 0.5, 0.9, 0.7]] * 4 + [[0.1, 0.5, 0.9, 0.6]] * 4)
CALIBRATION = Calibration(
    "clip_score", "0" * 16, Drawing(1, 1.0, resolution_px=32), 100, tuple(np.linspace(0, 0.8, 101).tolist())
)
TUNED = Tuned(50.0, 0.5, Drawing(4, resolution_px=32), 2.0, 0.65)
STUDENT = Distilled("student", "big", CALIBRATION, TUNED)


class Encoder:
    def encode(self, prompts: Any) -> Any:
        return prompts


class Known:
    """A router that knows the qualities."""

    variants = VARIANTS
    cost = np.array([variant.tflop for variant in VARIANTS])

    def compared(self, prompts: Any) -> np.ndarray:
        return QUALITY[: len(prompts)]


def planned(
    budget: float, students: dict[str, Distilled], **adapters: str
) -> dict[str, tuple[list[str], float, float]]:
    made = plans(
        Known(),
        Encoder(),
        ["v"] * 8,
        ["p"] * 8,
        {"big"},
        students,
        {model: Path(file) for model, file in adapters.items()},
        budget,
        "clip_score",  # type: ignore[arg-type]
    )
    return {
        name: ([way.name for way in ways], float(np.mean([way.tflop for way in ways])), expected)
        for name, (ways, expected) in made.items()
    }


def test_each_level_narrows_or_widens_the_choice() -> None:
    made = planned(4.0, {"student": Distilled("student", "big")})
    assert made["one choice"] == (["other@4"] * 8, 4.0, pytest.approx(0.9))
    assert made["model"] == (["big@4"] * 8, 4.0, pytest.approx(0.5))
    assert made["model + prompt"] == (["student@1"] * 4 + ["big@4"] * 4, 2.5, pytest.approx(0.55))
    # Without a choice of the model the best one is free to be taken.
    assert made["prompt"] == (["other@4"] * 8, 4.0, pytest.approx(0.9))
    # Nothing is tuned: no teacher stands behind the student.
    assert made["model + prompt + image"] == made["model + prompt"]


def test_a_teacher_behind_the_student_costs_and_gains_what_was_tuned() -> None:
    made = planned(4.0, {"student": STUDENT})
    # 0.65 tuned, 0.4 before: 0.85 and 0.35 for 2 TFLOP.
    assert made["model + prompt + image"] == (
        ["student@1 + teacher"] * 4 + ["big@4"] * 4,
        3.0,
        pytest.approx((0.85 + 0.5) / 2),
    )
    # Where that is too much for all of them, the student is left alone.
    assert planned(1.9, {"student": STUDENT})["model + prompt + image"] == (
        ["student@1"] * 8,
        1.0,
        pytest.approx(0.35),
    )
    assert planned(2.0, {"student": STUDENT})["model + prompt + image"] == (
        ["student@1 + teacher"] * 8,
        2.0,
        pytest.approx(0.6),
    )
    # A student that nobody says is one is no candidate of its teacher.
    assert planned(4.0, {})["model + prompt"][0] == ["big@4"] * 8


@pytest.mark.parametrize("changed", [{"steps": 2}, {"guidance": None}, {"resolution_px": 64}])
def test_a_student_drawn_otherwise_has_no_teacher(changed: dict[str, Any]) -> None:
    from dataclasses import replace

    way = Way(VARIANTS[0], 1.0)
    assert with_teacher(way, STUDENT, "clip_score").distilled == STUDENT
    assert with_teacher(way, STUDENT, "sharpness") == way
    drawing = replace(CALIBRATION.drawing, **changed)
    tuned = replace(TUNED, teacher=replace(TUNED.teacher, resolution_px=drawing.resolution_px))
    other = replace(STUDENT, calibration=replace(CALIBRATION, drawing=drawing), tuned=tuned)
    assert with_teacher(way, other, "clip_score") == way


def test_what_was_fine_tuned_is_drawn_so_where_it_was_chosen_for_the_images() -> None:
    made = planned(4.0, {"student": STUDENT}, big="adapter")
    # The student was not fine-tuned with its teacher: it is left out.
    assert made["model + prompt"][0] == made["model"][0] == ["big@4 + adapter"] * 8
    # What was not chosen for the images is compared as it is.
    assert made["prompt"][0] == ["other@4"] * 8
    both = planned(4.0, {"student": STUDENT}, big="adapter", student="its")
    assert both["model + prompt"][0] == ["student@1 + adapter"] * 4 + ["big@4 + adapter"] * 4
    # The threshold is of the student as it is.
    assert both["model + prompt + image"] == both["model + prompt"]
    with pytest.raises(UsageError, match=r"other was not chosen for the images \(big was\)"):
        planned(4.0, {}, other="adapter")


def test_adapters_are_named_with_their_models(tmp_path: Path) -> None:
    file = tmp_path / "a=b.safetensors"
    file.touch()
    assert adapters_of([f"big={file}"]) == {"big": file}
    for wrong, message in (
        (["big"], "MODEL=FILE"),
        ([f"={file}"], "MODEL=FILE"),
        (["big=nowhere"], "There is no nowhere"),
        ([f"big={file}"] * 2, "two adapters"),
    ):
        with pytest.raises(BadParameter, match=message):
            adapters_of(wrong)


def test_a_budget_below_all_is_said() -> None:
    with pytest.raises(BudgetTooSmall, match="below 1, what the cheapest candidate of big"):
        planned(0.5, {"student": STUDENT})


@pytest.mark.usefixtures("graph")
def test_all_three_levels_draw_and_say_what_each_was_worth(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From folders and prompts to images, on a real graph."""
    monkeypatch.chdir(tmp_path)
    clip = str(ROOT / "probes" / "clip")

    def invoke(*arguments: str) -> str:
        own = {**environment, "MATCHGRAPH_PROBE": clip}
        result = CliRunner().invoke(matchgraph, arguments, env=own, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    for folder in ("students/tiny-sdxl-lcm", "models/tiny-sdxl", "models/tiny-sd3"):
        invoke("ingest", "models", str(ROOT / folder), "--no-throughput")
    datasets = [ROOT / "datasets" / name for name in ("noto-food", "noto-travel", "openmoji-symbols")]
    invoke("ingest", "datasets", *map(str, datasets))
    rows = [
        f"{model},{dataset.name},clip_fid,{value + number}"
        for model, value in (("tiny-sdxl", 20), ("tiny-sd3", 30))
        for number, dataset in enumerate(datasets)
    ]
    Path("results.csv").write_text("\n".join(["model,dataset,metric,value", *rows]), encoding="utf-8")
    invoke("ingest", "results", "results.csv")
    lines = (ROOT / "prompts.txt").read_text(encoding="utf-8").splitlines()[:16]
    Path("prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    invoke("route", "prompts", "prompts.txt", "--largest-similarity", "1.01")
    for model, guidance in (("tiny-sdxl-lcm", "1"), ("tiny-sdxl", "2"), ("tiny-sd3", "2")):
        invoke("route", "variants", "--model", model, "--steps", "2", "--guidance", guidance)
    invoke("route", "score", "--metric", "clip_score", "--samples", "1")
    invoke("route", "fit", "--kind", "gaussian")
    pair = ("tiny-sdxl-lcm", "tiny-sdxl")
    shown = ("--steps", "2", "--guidance", "1", "--resolution", "32", "--prompts", "prompts.txt")
    invoke("collaborate", "calibrate", *pair, *shown)
    tried = ("--teacher-steps", "3", "--refine-steps", "2", "--rollbacks", "0.9", "--prompts", "prompts.txt")
    invoke("collaborate", "tune", pair[0], "--budget", "1", *tried)

    Path("asked.txt").write_text("\n".join(lines[:3]), encoding="utf-8")
    asked = ("choose", "--images", str(datasets[0]), "--prompts", "asked.txt", "--budget", "0.001")
    found = json.loads(invoke(*asked, "--out", "out", "--json"))
    assert found["models"] == ["tiny-sdxl"]
    levels = {level["name"]: level for level in found["levels"]}
    assert list(levels) == [
        "one choice",
        "prompt",
        "prompt + image",
        "model",
        "model + prompt",
        "model + prompt + image",
    ]
    assert len(list(Path("out").glob("*.png"))) == 3
    for level in levels.values():
        assert len(level["ways"]) == 3
        assert level["distance"] > 0
        assert 0 < level["tflop"] < 0.002
    # One choice is the same for all, and its own measure.
    assert len(set(levels["one choice"]["ways"])) == 1
    assert levels["one choice"]["over_one_choice"] == [0, 0, 0]
    for level in ("model", "model + prompt"):
        assert {way.partition("@")[0] for way in levels[level]["ways"]} <= {*pair}
        assert levels[level]["tflop"] == pytest.approx(levels[level]["expected_tflop"])
