"""A student and its teacher with their pipelines loaded, and what scores their images."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.collaboration.calibration import check_calibrated
from matchgraph.collaboration.errors import InvalidPlan, NotCalibrated
from matchgraph.collaboration.trials import BATCH, Grid, Trials, measure
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import Calibration, DistillationGraph, Distilled
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import OnWork, Progress, no_progress, no_work

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.loading import LoadedPipeline

# Below the data folder: measured trials and frontiers, by student.
FOLDER = "collaboration"


@dataclass(frozen=True)
class Oracle:
    """What scores images.

    Attributes:
        probe: the CLIP, see `training.measure.extractors.load_clip`.
        weights: of metrics that need them, see `training.measure.scorers.load_scorers`.
        device: `auto` or a torch device name; of the pipelines too.
        gpu_memory: GiB of the GPU for the pipelines to stay within; by default what is free.
    """

    probe: str
    weights: Mapping[str, Path | None] | None = None
    device: str = "auto"
    gpu_memory: float | None = None

    def scorers(self, *metrics: str) -> list[Scorer]:
        """The scorers of some metrics."""
        from matchgraph.training.measure.scorers import load_scorers

        return load_scorers(metrics, self.probe, weights=self.weights, device=self.device)


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, loaded."""

    distilled: Distilled
    student: LoadedPipeline
    teacher: LoadedPipeline

    @property
    def calibration(self) -> Calibration:
        """The student's.

        Raises:
            NotCalibrated: it has none.
        """
        return calibration_of(self.distilled)


def calibration_of(distilled: Distilled) -> Calibration:
    """A student's calibration.

    Raises:
        NotCalibrated: it has none.
    """
    if distilled.calibration is None:
        raise NotCalibrated(
            f"{distilled.student!r} is not calibrated: run `matchgraph collaborate calibrate "
            f"{shlex.join((distilled.student, distilled.teacher))}`."
        )
    return distilled.calibration


@contextmanager
def loaded_pair(
    runner: Runner,
    student: str,
    *,
    oracle: Oracle,
    teacher: str | None = None,
    drawing: Drawing | None = None,
    teacher_px: int | None = None,
) -> Iterator[Pair]:
    """Load the pipelines of a student and of its teacher.

    Args:
        runner: the connection.
        student: its id.
        oracle: says where.
        teacher: its id; by default the one that the graph has.
        drawing: how the student draws; by default as it was calibrated.
        teacher_px: side of the teacher's images; by default that of the student's.

    Raises:
        NotCalibrated: the student has no teacher in the graph, or it is to draw as calibrated and is not.
        InvalidPlan: one of the two has no pipeline folder.
    """
    from matchgraph.training.memory.drawing import opened_pair_to_draw

    known = DistillationGraph(runner).load(student)
    folders = MatchingGraph(runner).model_folders()
    if teacher is not None and (known is None or known.teacher != teacher):
        known = Distilled(student, teacher)
    if known is None:
        raise NotCalibrated(
            f"{student!r} has no teacher in the graph: run "
            "`matchgraph collaborate calibrate STUDENT TEACHER`."
        )
    for model in (known.student, known.teacher):
        if model not in folders:
            raise InvalidPlan(f"There is no pipeline folder of {model!r}: ingest one.")
    if drawing is None:
        drawing = calibration_of(known).drawing
    with opened_pair_to_draw(
        folders[known.student],
        folders[known.teacher],
        device=oracle.device,
        gpu_memory=oracle.gpu_memory,
        resolution_px=drawing.resolution_px,
        teacher_px=teacher_px,
        batch_size=BATCH,
        precision=drawing.precision,
    ) as (one, other):
        yield Pair(known, one, other)


def measure_pair(
    pair: Pair,
    prompts: Sequence[str],
    grid: Grid,
    oracle: Oracle,
    home: Path,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
) -> Trials:
    """Trials of a pair, kept in the data folder; by the oracle, CLIPScore and sharpness.

    Raises:
        CalibrationDiffers: the student was calibrated under other settings.
    """
    from matchgraph.training.measure.extractors import load_clip

    scorers = oracle.scorers(pair.calibration.metric, "clip_score", "sharpness")
    check_calibrated(pair.calibration, scorers[0], grid.students[0])
    extractor = load_clip(oracle.probe, device=oracle.device)
    folder = home / FOLDER / pair.distilled.student
    return measure(
        pair.student, pair.teacher, scorers, extractor, prompts, grid, folder, on_progress, on_work
    )
