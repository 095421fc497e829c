"""`matchgraph collaborate` from two models to images and a report, on a real graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from matchgraph.cli.main import matchgraph
from matchgraph.collaboration import calibration
from matchgraph.graphdb.distillation import DistillationGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.minizoo import ROOT
from tests.collaboration.conftest import CLIP

STUDENT, TEACHER = "tiny-juggernaut", "tiny-sdxl"
PROMPTS = [f"noto style, {thing}" for thing in ("red apple, food and drink", "cat, animal")]
SMALL = ("--teacher-steps", "3", "--refine-steps", "2", "--rollbacks", "0.5", "--samples", "1")


@pytest.fixture
def invoke(environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "FEWEST_PROMPTS", 1)

    def invoke(*arguments: str, code: int = 0) -> Result:
        own = {**environment, "MATCHGRAPH_PROBE": CLIP}
        result = CliRunner().invoke(matchgraph, arguments, env=own, catch_exceptions=code not in (0, 1))
        assert result.exit_code == code or code == 2, result.output
        return result

    return invoke


def message(result: Result) -> str:
    return result.output + str(result.exception)


@pytest.mark.slow
@pytest.mark.usefixtures("graph")
def test_from_two_models_to_a_report(invoke: Callable[..., Result], runner: Runner, tmp_path: Path) -> None:
    for model in (STUDENT, TEACHER):
        invoke("ingest", "models", str(ROOT / "models" / model), "--no-throughput")
    assert "has no teacher" in message(invoke("collaborate", "tune", STUDENT, "--budget-tflop", "1", code=2))

    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS), encoding="utf-8")
    # Icons of 32 pixels: the student's own size.
    options = ("--steps", "2", "--guidance", "1", "--prompts", str(file), "--json")
    calibrated = invoke("collaborate", "calibrate", STUDENT, TEACHER, *options)
    assert "To draw: 2 images" in calibrated.stderr
    found = json.loads(calibrated.stdout)
    assert (found["samples"], found["steps"], found["guidance"], found["resolution_px"]) == (2, 2, 1, 32)
    known = DistillationGraph(runner).load(STUDENT)
    assert known is not None
    assert (known.teacher, known.tuned) == (TEACHER, None)
    assert "no validation prompts" in message(
        invoke("collaborate", "tune", STUDENT, "--budget-tflop", "1", code=2)
    )
    out = tmp_path / "out"
    drawn = ("collaborate", "generate", STUDENT, *PROMPTS, "--out", str(out))
    assert "not tuned" in message(invoke(*drawn, code=2))

    more = [
        f"{style} style, {thing}" for style in ("noto", "twemoji") for thing in ("cup", "tree", "key", "fish")
    ]
    file.write_text("\n".join(PROMPTS + more), encoding="utf-8")
    invoke("route", "prompts", str(file), "--largest-similarity", "1.01")
    tuned = json.loads(invoke("collaborate", "tune", STUDENT, "--budget-tflop", "1", *SMALL, "--json").stdout)
    frontier = tuned["frontier"]
    assert tuned["tuned"]["quality"] == max(row["quality"] for row in frontier)
    known = DistillationGraph(runner).load(STUDENT)
    assert known is not None
    assert known.tuned is not None
    assert known.calibration is not None
    assert known.tuned.quality == tuned["tuned"]["quality"]
    least = message(invoke("collaborate", "tune", STUDENT, "--budget-tflop", "1e-9", *SMALL, code=2))
    assert "the cost of the student alone" in least

    shown = invoke(*drawn, "--percentile", "50", "--regenerate", "--json")
    assert "To draw: 2 images" in shown.stderr
    images = json.loads(shown.stdout)["images"]
    assert len(list(out.glob("*.png"))) == 2
    again = [image["steps"] for image in images if image["decision"] == "regenerated"]
    assert again == [2 + known.tuned.teacher.steps]
    for image in images:
        assert (image["score"] < known.calibration.threshold(50)) == (image["decision"] == "regenerated")

    picture = str(next(out.glob("*.png")))
    edited = ("--edit", picture, "--strength", "0.5", "--percentile", "0")
    assert invoke(*drawn[:4], "--out", str(tmp_path / "edited"), *edited).output.count("accepted") == 1

    edges = str(tmp_path / "edges.png")
    invoke("collaborate", "control-image", picture, "--out", edges)
    steered = ("--controlnet", str(ROOT / "controls" / "tiny-sdxl-canny"), "--control-image", edges)
    ours = (*drawn, "--percentile", "50", "--regenerate", "--json")
    free, bound = (json.loads(invoke(*ours, *further).stdout)["images"] for further in ((), steered))
    for one, other in zip(
        *(sorted(some, key=lambda image: image["prompt"]) for some in (free, bound)), strict=True
    ):
        assert one["score"] != other["score"]
        if one["decision"] == other["decision"]:
            assert other["tflop"] > 1.2 * one["tflop"]
    assert "--controlnet and --control-image must be given together" in message(
        invoke(*ours, *steered[:2], code=2)
    )

    page = tmp_path / "page"
    own = ("--student-steps", "4", "--test-prompts", str(file), "--out", str(page))
    shown = invoke("collaborate", "evaluate", STUDENT, *SMALL, *own).output
    assert "10 test prompts, 1 images each" in shown
    written = json.loads((page / "collaboration.json").read_text(encoding="utf-8"))
    assert written["command"].endswith(
        f"evaluate {STUDENT} --teacher-steps 3 --refine-steps 2 --rollbacks 0.5 --student-steps 4 "
        "--test-prompts prompts.txt --samples 1 --out page"
    )
    study = written["study"]
    assert {each["kind"] for each in study["strategies"]} >= {"student", "teacher", "refine all"}
    assert (page / "collaboration.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("graph")
def test_what_is_no_pair_is_refused(invoke: Callable[..., Result]) -> None:
    for model in (STUDENT, TEACHER):
        invoke("ingest", "models", str(ROOT / "models" / model), "--no-throughput")
    file = Path("prompts.txt")
    file.write_text("a cat\n", encoding="utf-8")
    options = ("--metric", "sharpness", "--steps", "1", "--resolution", "32", "--prompts", str(file))
    assert "1 images" in invoke("collaborate", "calibrate", STUDENT, TEACHER, *options).output
    # As it was calibrated it draws later, and its teacher with it.
    half = ("--precision", "bf16")
    assert "1 images" in invoke("collaborate", "calibrate", STUDENT, TEACHER, *options, *half).output
    drawn = ("--percentile", "100", "--teacher-steps", "1", "--regenerate", "--out", "out")
    assert "regenerated" in invoke("collaborate", "generate", STUDENT, "a cat", *drawn).output
    blank = Path("blank.txt")
    blank.write_text("\n \n", encoding="utf-8")
    none = (*options[:-1], str(blank))
    assert "holds no prompt" in message(invoke("collaborate", "calibrate", STUDENT, TEACHER, *none, code=2))
    assert "itself" in message(invoke("collaborate", "calibrate", STUDENT, STUDENT, *options, code=2))
    assert "ingest" in message(invoke("collaborate", "calibrate", STUDENT, "gone", *options, code=2))
