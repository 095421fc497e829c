"""Students and teachers: what is written comes back, and a student has one teacher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries
from matchgraph.graphdb.distillation import Calibration, DistillationGraph, Distilled, Tuned
from matchgraph.graphdb.errors import InvalidValue, NodeNotFound
from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner

CALIBRATION = Calibration(
    "clip_score", "0" * 16, Drawing(4, 1.0, precision="bf16"), 200, tuple(np.linspace(-1, 1, 101).tolist())
)
TUNED = Tuned(40.0, 0.5, Drawing(10, sampler="DPMSolverMultistepScheduler"), 0.01, 0.3)


@pytest.fixture
def students(graph: MatchingGraph, runner: Runner) -> DistillationGraph:
    graph.save_models([Model("student"), Model("teacher"), Model("other")])
    return DistillationGraph(runner)


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
@pytest.mark.parametrize(
    "tuned",
    [None, TUNED, replace(TUNED, rollback=None, teacher=Drawing(2, 3.0, None, 1024, precision="fp16"))],
)
def test_what_is_saved_comes_back(
    students: DistillationGraph, calibration: Calibration | None, tuned: Tuned | None
) -> None:
    if calibration is None and tuned is not None:
        with pytest.raises(InvalidValue, match="not calibrated"):
            Distilled("student", "teacher", calibration, tuned)
        return
    distilled = Distilled("student", "teacher", calibration, tuned)
    students.save(Distilled("student", "teacher", CALIBRATION, TUNED))
    students.save(distilled)
    assert students.load("student") == distilled
    assert students.load("teacher") is None


def test_what_an_earlier_version_saved_draws_in_fp32(students: DistillationGraph, runner: Runner) -> None:
    students.save(Distilled("student", "teacher", CALIBRATION, TUNED))
    runner.write("MATCH ()-[d:DISTILLED_FROM]->() REMOVE d.precision, d.teacher_precision")
    known = students.load("student")
    assert known is not None
    assert known.calibration == replace(CALIBRATION, drawing=Drawing(4, 1.0))
    assert known.tuned == TUNED


def test_a_student_has_one_teacher(students: DistillationGraph, runner: Runner) -> None:
    students.save(Distilled("student", "teacher", CALIBRATION))
    students.save(Distilled("student", "other"))
    assert students.load("student") == Distilled("student", "other")
    assert [row["teacher"] for row in runner.read(queries.load("explore/students"))] == ["other"]
    with pytest.raises(NodeNotFound, match="'gone'"):
        students.save(Distilled("student", "gone"))
    with pytest.raises(InvalidValue, match="itself"):
        Distilled("student", "student")


def test_a_student_is_no_choice_for_a_dataset_until_it_is_fine_tuned(
    students: DistillationGraph, graph: MatchingGraph
) -> None:
    students.save(Distilled("student", "teacher"))
    graph.save_datasets([Dataset("images")])
    graph.save_results([Result("teacher", "images", "clip_fid", 3.0)])

    def chosen_from() -> list[str]:
        return [model.id for model in graph.snapshot("clip_fid").models]

    assert chosen_from() == ["other", "teacher"]
    assert [model.id for model in graph.models()] == ["other", "student", "teacher"]
    graph.save_results([Result("student", "images", "clip_fid", 4.0)])
    assert chosen_from() == ["other", "student", "teacher"]


def test_a_threshold_is_a_percentile() -> None:
    scores = np.random.default_rng(0).normal(size=500)
    percentiles = tuple(np.percentile(scores, np.arange(101)).tolist())
    calibration = replace(CALIBRATION, percentiles=percentiles)
    for k in (1, 12, 50, 99):
        assert calibration.threshold(k) == pytest.approx(np.percentile(scores, k))
    assert (calibration.threshold(0), calibration.threshold(100)) == (-np.inf, np.inf)
    assert calibration.threshold(12.5) == pytest.approx((percentiles[12] + percentiles[13]) / 2)
    for wrong in (-1, 101, float("nan")):
        with pytest.raises(InvalidValue):
            calibration.threshold(wrong)
    for values in (percentiles[:-1], (*percentiles[:-1], float("nan")), percentiles[::-1]):
        with pytest.raises(InvalidValue):
            replace(CALIBRATION, percentiles=values)
