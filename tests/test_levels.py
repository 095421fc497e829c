"""What each level of `matchgraph choose` gives each prompt, on tables small enough to work out by hand."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from matchgraph import candidates
from matchgraph.candidates import PromptDrawer
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import Calibration, Distilled, Tuned
from matchgraph.graphdb.prompt_models import Budget, Variant
from matchgraph.levels import choosing as levels
from matchgraph.levels import routed
from matchgraph.levels.choosing import Candidate, NotChosen, plans, with_teacher
from matchgraph.routing.errors import BudgetTooSmall
from matchgraph.training.images import DatasetFolder
from tests.routing import circle

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
    cost = np.array([variant.cost for variant in VARIANTS])

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
        name: (
            [each.name for each in candidates],
            float(np.mean([each.tflop for each in candidates])),
            expected,
        )
        for name, (candidates, expected) in made.items()
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
    # A student that nobody says is one is not a candidate of its teacher.
    assert planned(4.0, {})["model + prompt"][0] == ["big@4"] * 8


@pytest.mark.parametrize(
    "changed", [{"steps": 2}, {"guidance": None}, {"resolution_px": 64}, {"precision": "bf16"}]
)
def test_a_student_drawn_otherwise_has_no_teacher(changed: dict[str, Any]) -> None:
    candidate = Candidate(VARIANTS[0], 1.0)
    assert with_teacher(candidate, STUDENT, "clip_score").distilled == STUDENT
    fine_tuned = replace(candidate, adapter=Path("its"))
    assert with_teacher(fine_tuned, STUDENT, "clip_score", {"student": Path("its")}) == fine_tuned
    assert with_teacher(candidate, STUDENT, "sharpness") == candidate
    drawing = replace(CALIBRATION.drawing, **changed)
    tuned = replace(TUNED, teacher=replace(TUNED.teacher, resolution_px=drawing.resolution_px))
    other = replace(STUDENT, calibration=replace(CALIBRATION, drawing=drawing), tuned=tuned)
    assert with_teacher(candidate, other, "clip_score") == candidate


def test_what_was_fine_tuned_is_drawn_so_where_it_was_chosen_for_the_images() -> None:
    made = planned(4.0, {"student": STUDENT}, big="adapter")
    # The student was not fine-tuned with its teacher: it is left out.
    assert made["model + prompt"][0] == made["model"][0] == ["big@4 + adapter"] * 8
    # What was not chosen for the images is compared as it is.
    assert made["prompt"][0] == ["other@4"] * 8
    both = planned(4.0, {"student": STUDENT}, big="adapter", student="its")
    assert both["model + prompt"][0] == ["student@1 + adapter"] * 4 + ["big@4 + adapter"] * 4
    # Behind it stands the teacher, fine-tuned as well.
    assert both["model + prompt + image"][0] == (
        ["student@1 + adapter + teacher"] * 4 + ["big@4 + adapter"] * 4
    )
    with pytest.raises(NotChosen, match=r"other was not chosen for the images \(big was\)"):
        planned(4.0, {}, other="adapter")


def test_the_model_is_the_best_by_the_measure_within_the_budget() -> None:
    router: Any = Known()
    assert levels.models_by(router, QUALITY, 20.0) == ["other"]
    assert levels.models_by(router, QUALITY, 20.0, 2) == ["other", "big"]
    assert levels.models_by(router, QUALITY, 1.0) == ["student"]
    with pytest.raises(BudgetTooSmall, match="below 1, the cost of the cheapest candidate"):
        levels.models_by(router, QUALITY, 0.5)


def test_a_budget_below_all_is_said() -> None:
    with pytest.raises(BudgetTooSmall, match="below 1, the cost of the cheapest candidate of big"):
        planned(0.5, {"student": STUDENT})


def test_the_notes_of_the_prediction_come_with_the_models(monkeypatch: pytest.MonkeyPatch):
    def predicted(_graph: Any, target: Any, **_: Any) -> Any:
        assert (target.folder, target.probe, target.caption_column) == (Path("my"), "clip", "title")
        return SimpleNamespace(ranking=[SimpleNamespace(model=m) for m in "ab"], notes=("only 2 images",))

    monkeypatch.setattr(levels, "predict", predicted)
    images: Any = DatasetFolder(Path("my"), "title")
    assert levels.models_for(None, images, "clip", 1) == (["a"], ("only 2 images",))


def test_a_router_learns_where_the_student_is_bound_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student draws prompts of the first third well, of the last badly, and of the middle at random."""
    table = circle.table(300)
    angles = np.array([float(prompt.text) for prompt in table.prompts])
    luck = np.random.default_rng(0).uniform(size=300) < 0.5
    fails = (angles > 2.1) | ((angles > 1.05) & luck)
    good = np.where(fails, 0.1, 0.8)
    good += np.random.default_rng(1).normal(scale=0.01, size=300)
    mean = np.column_stack([np.full(300, np.nan), good, np.full(300, 0.8)])
    priced = [
        replace(own, unit="s", cost=cost) for own, cost in zip(table.variants, (1, 10, 20), strict=True)
    ]
    scores = replace(table, mean=mean, variants=tuple(priced))
    monkeypatch.setattr(routed, "PromptGraph", lambda _: SimpleNamespace(table=lambda _: scores))
    pair = ("m-4", "m-20", "quality", "confidence")
    # An image costs 10, 20 and 10 + 20 / 2 by the best ways, 16.7 on average; 20, drawn by the student first.
    found, unit = routed.route_first(None, *pair, budget=Budget(17.0, "s"))  # type: ignore[arg-type]
    assert (unit, found.prompts, found.plan.ways) == ("s", 30, ("student", "teacher", "cascade"))
    assert min(found.shares["student"].value, found.shares["cascade"].value) > 0.1
    assert found.over_cascade.value > 0
    assert found.quality.value > 0.7
    bound, _ = routed.route_first(None, *pair, longest_seconds=20.0)  # type: ignore[arg-type]
    assert (bound.plan.ways, bound.longest_seconds) == (("student", "teacher"), 20.0)


def test_drawing_is_paced_by_batches_at_the_cost_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, behind = Candidate(VARIANTS[1], 4.0), Candidate(VARIANTS[0], 2.0, distilled=STUDENT)
    monkeypatch.setattr(PromptDrawer, "_alone", lambda *given: ((row, row) for row in given[2]))
    monkeypatch.setattr(PromptDrawer, "_together", lambda *given: ((row, -row) for row in given[2]))
    drawer = PromptDrawer({}, None, ["p"] * 40, 0, "cpu", None, lambda *_: None)  # type: ignore[arg-type]
    said: list[tuple[int, float]] = []
    drawn = drawer.draw([alone] * 35 + [behind] * 5, lambda *batch: said.append(batch))
    assert drawn == [*range(35), *range(-35, -40, -1)]
    assert said == [(32, 128.0), (3, 12.0), (5, 10.0)]


@pytest.mark.parametrize("enough", [False, True])
def test_the_threshold_of_a_fine_tuned_student_is_of_its_own_scores(
    monkeypatch: pytest.MonkeyPatch, enough: bool
) -> None:
    """The same percentile, with the adapters on: of what it draws anyway, or of prompts held out."""
    loaded, asked, drawn, precisions = [], [], [], []

    def calibrated(student: Any, _scorer: Any, prompts: Any, drawing: Drawing, **_: Any) -> Calibration:
        asked.append((student.pipe, list(prompts), drawing))
        return replace(CALIBRATION, percentiles=tuple(np.linspace(0, 8, 101).tolist()))

    class Judged:
        def __init__(self, student: Any, teacher: Any, _scorer: Any, threshold: Any, _plan: Any) -> None:
            value = threshold(np.linspace(0, 8, 20)) if callable(threshold) else threshold
            drawn.append((student.pipe, teacher.pipe, pytest.approx(value)))

        def generate(self, texts: Any, **_: Any) -> Any:
            return [
                SimpleNamespace(place=place, failure=None, decision="refined", image=text, tflop=1.0)
                for place, text in enumerate(texts)
            ]

    @contextmanager
    def opened(*folders: Path, precision: str, teacher_px: int, **_: Any) -> Any:
        precisions.append(precision)
        assert teacher_px == TUNED.teacher.resolution_px
        yield [SimpleNamespace(pipe=folder.name, family="family") for folder in folders]

    monkeypatch.setattr("matchgraph.training.memory.drawing.opened_pair_to_draw", opened)
    monkeypatch.setattr(
        "matchgraph.training.pipelines.weights.load_weights", lambda *given: loaded.append(given)
    )
    monkeypatch.setattr(candidates, "calibrate", calibrated)
    monkeypatch.setattr(candidates, "Collaboration", Judged)
    scorer: Any = SimpleNamespace(metric="clip_score", hash="0" * 16)
    folders = {"student": Path("student"), "big": Path("big")}
    count = 20 if enough else 1
    prompts = ["p"] * (1 + count)
    drawer = PromptDrawer(folders, scorer, prompts, 0, "cpu", None, lambda *_: None, ["held", "out"])
    plain = with_teacher(Candidate(VARIANTS[0], 1.0), STUDENT, "clip_score")
    adapters = {"student": Path("own"), "big": Path("its")}
    tuned = with_teacher(Candidate(VARIANTS[0], 1.0, adapter=Path("own")), STUDENT, "clip_score", adapters)
    said: list[tuple[int, float]] = []
    made = drawer.draw([plain, *[tuned] * count], lambda *work: said.append(work))
    assert all(each.by_teacher for each in made)
    assert drawn == [("student", "big", 0.4), ("student", "big", 4.0)]
    assert loaded == [("student", "family", Path("own")), ("big", "family", Path("its"))]
    # The student draws once, unless that is too little to take a percentile from.
    assert asked == ([] if enough else [("student", ["held", "out"], CALIBRATION.drawing)])
    assert said == [(1, 2.0), *([] if enough else [(2, 2.0)]), (count, count * 2.0)]
    assert precisions == ["fp32", "fp32"]
