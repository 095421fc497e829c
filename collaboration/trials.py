"""Images of student, teacher and every considered correction for the same prompts and noise.

With all of them measured once, every threshold follows by counting: no image is drawn again to know what
another percentile would have come to. What is known of images is kept on disk batch by batch, and each column
as one file once it is complete: a process that goes on draws at most one batch again, and no more than a
batch of images is held in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.collaboration.collaborate import share_latents
from matchgraph.collaboration.errors import InvalidPlan, NoTrials
from matchgraph.collaboration.plan import Correction, check_drawings, price
from matchgraph.drawing import Drawing
from matchgraph.progress import OnWork, Pace, Progress, Work, no_work
from matchgraph.settings import identity
from matchgraph.training.measure.drawn import DrawnRows

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.extractors.base import Extractor
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.sampling.generate import Batch

BATCH = 32
SAVED = "matchgraph-trial-3"


@dataclass(frozen=True, eq=False)
class Column:
    """One way of drawing, on every prompt.

    Attributes:
        id: `student@2`, `teacher@10`, `refine-0.5@4`.
        steps: of its model; of a correction those of the teacher alone.
        tflop: what they cost, see `collaboration.plan.price`.
        scores: by metric, float64, (n,).
        features: of the images, float32, (n, d).
        complexity: bytes of each image as a PNG, float64, (n,): how much there is to it.
        curvature: of its way from noise, float64, (n,), see `training.sampling.trajectories.curvature`; None
        unless
            the teacher drew it alone.
    """

    id: str
    steps: int
    tflop: float
    scores: Mapping[str, np.ndarray]
    features: np.ndarray
    complexity: np.ndarray
    curvature: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Trials:
    """All columns, over the same images.

    Attributes:
        prompts: of each image, n of them; the images of a prompt are together.
        samples: images of each prompt.
        students: ways in which the student draws; the first is the one whose images are corrected.
        teachers: ways in which the teacher draws from noise: alone, or to regenerate.
        refinements: of the first student's images.
    """

    prompts: tuple[str, ...]
    samples: int
    students: tuple[Column, ...]
    teachers: tuple[Column, ...]
    refinements: tuple[Column, ...]

    @property
    def student(self) -> Column:
        """Whose images are corrected."""
        return self.students[0]

    @property
    def corrections(self) -> dict[str, Column]:
        """By id of the correction: regenerations are what the teacher draws alone."""
        drawn = {f"regenerate@{column.id.partition('@')[2]}": column for column in self.teachers}
        return drawn | {column.id: column for column in self.refinements}


@dataclass(frozen=True)
class Grid:
    """The drawings to compare.

    Attributes:
        students: drawings of the student, of which the first is corrected and the others are compared with.
        teachers: drawings of the teacher.
        rollbacks: of refinement.
        refiners: drawings of the teacher in refinement.
        samples: images of each prompt.
        seed: of the noise.
    """

    students: tuple[Drawing, ...]
    teachers: tuple[Drawing, ...]
    rollbacks: tuple[float, ...]
    refiners: tuple[Drawing, ...]
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.students or not (self.teachers or self.refinements):
            raise InvalidPlan("At least one drawing of the student and one correction are needed.")
        check_drawings(self.students)
        check_drawings([*self.teachers, *self.refiners])

    @property
    def refinements(self) -> tuple[Correction, ...]:
        """Every rollback with every refiner."""
        return tuple(
            Correction(drawing, rollback) for rollback in self.rollbacks for drawing in self.refiners
        )


def measure(
    student: LoadedPipeline,
    teacher: LoadedPipeline,
    scorers: Sequence[Scorer],
    extractor: Extractor,
    prompts: Sequence[str],
    grid: Grid,
    folder: Path,
    on_progress: Progress = lambda *_: None,
    on_work: OnWork = no_work,
) -> Trials:
    """Draw and score every column.

    The noise of an image follows from the seed, its prompt and its place among the prompt's, and is the same
    for student and teacher, and for candidates of routing.

    Args:
        student: a pipeline.
        teacher: another one.
        scorers: at least one.
        extractor: gives the features.
        prompts: n of them, each once.
        grid: what is tried.
        folder: keeps columns; those of other settings, prompts or weights are left alone there.
        on_progress: called after each column.
        on_work: called with what there is to draw.

    Raises:
        NoTrials: there are no prompts.
    """
    if not prompts:
        raise NoTrials("There are no prompts to try: add some with `matchgraph route prompts`.")
    facts = {
        "format": SAVED,
        "student": student.weights_hash(),
        "teacher": teacher.weights_hash(),
        "scorers": sorted(scorer.hash for scorer in scorers),
        "extractor": extractor.hash,
        "prompts": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "samples": grid.samples,
        "seed": grid.seed,
    }
    wanted: list[tuple[str, LoadedPipeline, Drawing, float | None]] = [
        *((f"student@{drawing.name}", student, drawing, None) for drawing in grid.students),
        *((f"teacher@{drawing.name}", teacher, drawing, None) for drawing in grid.teachers),
        *((one.id, teacher, one.drawing, one.rollback) for one in grid.refinements),
    ]
    bench = _Bench(student, teacher, scorers, extractor, tuple(prompts), grid, folder, facts)
    bench.pace = Pace(bench.work(wanted), on_work)
    columns: dict[str, Column] = {}
    for done, (name, loaded, drawing, rollback) in enumerate(wanted, start=1):
        columns[name] = bench.column(name, loaded, drawing, rollback)
        on_progress(name, done, len(wanted))
    found = list(columns.values())
    first, second = len(grid.students), len(grid.students) + len(grid.teachers)
    every = tuple(prompt for prompt in prompts for _ in range(grid.samples))
    return Trials(
        every, grid.samples, tuple(found[:first]), tuple(found[first:second]), tuple(found[second:])
    )


class _Bench:
    """Draws and keeps columns."""

    def __init__(
        self,
        student: LoadedPipeline,
        teacher: LoadedPipeline,
        scorers: Sequence[Scorer],
        extractor: Extractor,
        prompts: tuple[str, ...],
        grid: Grid,
        folder: Path,
        facts: Mapping[str, Any],
    ) -> None:
        from matchgraph.graphdb.prompt_models import prompt_id

        self._student, self._scorers, self._extractor = student, scorers, extractor
        self._grid, self._folder, self._facts = grid, folder, facts
        self._texts = [prompt for prompt in prompts for _ in range(grid.samples)]
        self._numbers = [f"{prompt_id(p)}-{place}" for p in prompts for place in range(grid.samples)]
        self.pace = Pace(Work(0, 0.0), no_work)
        self._share_latents = share_latents(student, teacher)

    def work(self, wanted: Sequence[tuple[str, LoadedPipeline, Drawing, float | None]]) -> Work:
        """What is left to draw of some columns."""
        left = [own for own in wanted if not self._kept(*own)[1].exists()]
        cost = sum(self._cost(loaded, drawing, rollback) for _, loaded, drawing, rollback in left)
        return Work(len(left) * len(self._texts), len(self._texts) * cost)

    def _cost(self, loaded: LoadedPipeline, drawing: Drawing, rollback: float | None) -> float:
        """TFLOP of an image; where it is refined, the student draws it first."""
        first = 0.0 if rollback is None else price(self._student, self._grid.students[0])
        return price(loaded, drawing) + first

    def _kept(
        self,
        name: str,
        loaded: LoadedPipeline,  # noqa: ARG002 - a column as `measure` lists them
        drawing: Drawing,
        rollback: float | None,
    ) -> tuple[dict[str, Any], Path]:
        """What a column depends on, and its file."""
        facts = {**self._facts, "drawing": identity(drawing), "rollback": rollback}
        if rollback is not None:
            facts["of"] = identity(self._grid.students[0])
        digest = hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest()[:16]
        return facts, self._folder / f"{digest}.safetensors"

    def column(self, name: str, loaded: LoadedPipeline, drawing: Drawing, rollback: float | None) -> Column:
        """A column, from disk where it is there."""
        facts, path = self._kept(name, loaded, drawing, rollback)
        tensors = _read(path)
        if tensors is None:
            rows = DrawnRows(path.with_suffix(""), facts)
            tensors = self._drawn(rows, loaded, drawing, rollback)
            self._write(path, tensors, {"trial": json.dumps({"id": name, **facts})})
            shutil.rmtree(rows.folder)
        scores = {scorer.metric: tensors[f"score/{scorer.metric}"] for scorer in self._scorers}
        tflop = price(loaded, drawing)
        return Column(
            name,
            drawing.stated_steps,
            tflop,
            scores,
            tensors["features"],
            tensors["complexity"],
            tensors.get("curvature"),
        )

    def _drawn(
        self, rows: DrawnRows, loaded: LoadedPipeline, drawing: Drawing, rollback: float | None
    ) -> dict[str, np.ndarray]:
        scored = {f"score/{scorer.metric}": scorer for scorer in self._scorers}
        names = [*scored, "features", "complexity"]
        if rollback is None and loaded is not self._student:
            names.append("curvature")
        for first in range(rows.count(names), len(self._texts), BATCH):
            places = range(first, min(first + BATCH, len(self._texts)))
            batch = self._batch(loaded, drawing, rollback, places)
            texts, images = [self._texts[place] for place in places], batch.images
            found = {name: np.asarray(scorer.score(texts, images)) for name, scorer in scored.items()}
            found["features"] = self._extractor.features(images).astype(np.float32)
            found["complexity"] = np.array([float(_png(image)) for image in images])
            if batch.curvature is not None:
                found["curvature"] = batch.curvature.numpy()
            rows.add(first, found)
            self.pace.drew(len(places), len(places) * self._cost(loaded, drawing, rollback))
        return {name: rows.rows(name) for name in names}

    def _batch(
        self, loaded: LoadedPipeline, drawing: Drawing, rollback: float | None, places: range
    ) -> Batch:
        from matchgraph.training.config import SampleConfig
        from matchgraph.training.pipelines.rollback import Start
        from matchgraph.training.sampling.generate import joined, start_with, stream_batches

        grid = self._grid
        texts = [self._texts[place] for place in places]
        numbers = [self._numbers[place] for place in places]

        def batch(
            model: LoadedPipeline, how: Drawing, start: Start | None = None, *, follow: bool = False
        ) -> Batch:
            config = SampleConfig(len(texts), how, grid.seed, len(texts))
            drawn = stream_batches(model, None, texts, config, numbers=numbers, start=start, follow=follow)
            return joined(list(drawn))

        start = None
        if rollback is not None:
            begun = batch(self._student, grid.students[0])
            if self._share_latents and drawing.resolution_px == grid.students[0].resolution_px:
                start = Start(begun.latents, rollback)
            else:
                start = start_with(loaded, begun.images, drawing.resolution_px, rollback)
        return batch(loaded, drawing, start, follow=start is None and loaded is not self._student)

    def _write(self, path: Path, tensors: Mapping[str, np.ndarray], facts: dict[str, str]) -> None:
        from matchgraph.training.files import write_tensors

        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, facts)


def _read(path: Path) -> dict[str, np.ndarray] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        # A damaged file is drawn again.
        return None


def _png(image: Image.Image) -> int:
    written = io.BytesIO()
    image.save(written, "PNG")
    return len(written.getvalue())
