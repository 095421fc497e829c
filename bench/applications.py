"""Editing by SDEdit and drawing by Canny edges: the student, its teacher, and the two together.

Held-out icons of the small zoo's datasets are edited into another style (`noto style, cat, animal` into
`openmoji style, cat, animal`), and drawn anew by their own captions and edges. One half of them sets the
thresholds, the other is shown. As in the paper rejected edits are the teacher's from the start; drawings by
edges are also refined.

    python -m bench.applications

Source:
    Starodubcev et al. (2024), sections 4.2 (Table 1, Figure 13) and 4.3. Its measures were DINOv2 and
    ImageReward; here they are the small zoo's CLIP, CLIPScore, and the agreement of edges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.provenance import provenance
from collaboration.collaborate import Collaboration
from collaboration.evaluation import at_cost
from collaboration.plan import Correction, Drawing, Plan, price
from minizoo.controls import SHIPPED, held_out
from minizoo.icons import ROOT
from training.controlnet import controlled
from training.controls import canny, edge_agreement
from training.extractors import load_clip
from training.generate import start_with, stream_batches
from training.images import load_rgb
from training.pipelines import LoadedPipeline
from training.prompts import load_prompt_encoder
from training.quality import ClipScore
from training.resampling import bootstrap

if TYPE_CHECKING:
    from PIL import Image

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "torch", "diffusers", "opencv-python-headless")
RESOLUTION_PX, BATCH = 32, 32
STUDENT = Drawing(2, 1.0)
TEACHERS = tuple(Drawing(steps, 2.0) for steps in (2, 4, 10, 25))
REGENERATED, REFINED = Drawing(10, 2.0), Drawing(4, 2.0)
ROLLBACK = 0.9
PERCENTILES = (25, 50, 75)
STRENGTHS = (0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Task:
    """What is to be drawn, and how far an image keeps to what was given with it.

    Attributes:
        prompts: n of them.
        kept: of n images, float64, (n,); more is better.
        strength: of an edit; None to draw by edges.
        pictures: to edit, n of them.
        controls: edges to draw by, n of them.
    """

    prompts: Sequence[str]
    kept: Callable[[Sequence[Image.Image]], np.ndarray]
    strength: float | None = None
    pictures: Sequence[Image.Image] | None = None
    controls: Sequence[Image.Image] | None = None


@dataclass(frozen=True)
class Drawn:
    """One way of doing a task.

    Attributes:
        way: what it is.
        steps: on average.
        tflop: likewise.
        quality: CLIPScore of each image.
        kept: what the task measures, of each image.
        rejected: which images the teacher drew.
    """

    way: str
    steps: float
    tflop: float
    quality: np.ndarray
    kept: np.ndarray
    rejected: np.ndarray


class Studio:
    """Student and teacher at work on tasks.

    Args:
        student: its pipeline, inside `controlled` where tasks have edges.
        teacher: likewise.
        scorer: the oracle.
        seed: of the noise.
    """

    def __init__(
        self, student: LoadedPipeline, teacher: LoadedPipeline, scorer: ClipScore, seed: int
    ) -> None:
        self.student, self.teacher, self.scorer, self.seed = student, teacher, scorer, seed

    def alone(self, name: str, loaded: LoadedPipeline, drawing: Drawing, task: Task) -> Drawn:
        """By one model."""
        count = len(task.prompts)
        config = drawing.sampling(
            count, seed=self.seed, resolution_px=RESOLUTION_PX, batch_size=BATCH, precision="fp32"
        )
        start = None
        if task.pictures is not None and task.strength is not None:
            start = start_with(loaded, task.pictures, RESOLUTION_PX, task.strength)
        batches = stream_batches(loaded, None, task.prompts, config, start=start, controls=task.controls)
        images = [image for batch in batches for image in batch.images]
        tflop = price(loaded, drawing, RESOLUTION_PX)
        return self._measured(name, drawing.steps, tflop, images, np.zeros(count, dtype=bool), task)

    def together(self, correction: Correction, k: float, threshold: float, task: Task) -> Drawn:
        """By both, the teacher below a threshold."""
        plan = Plan(STUDENT, correction, self.seed, RESOLUTION_PX, BATCH, task.strength)
        both = Collaboration(self.student, self.teacher, self.scorer, threshold, plan)
        made = sorted(
            both.generate(task.prompts, pictures=task.pictures, controls=task.controls),
            key=lambda outcome: outcome.place,
        )
        assert not any(outcome.failure for outcome in made)
        return self._measured(
            f"{correction.id} below {k:g} %",
            float(np.mean([outcome.steps for outcome in made])),
            float(np.mean([outcome.tflop for outcome in made])),
            [outcome.image for outcome in made],
            np.array([outcome.decision != "accepted" for outcome in made]),
            task,
        )

    def _measured(
        self,
        way: str,
        steps: float,
        tflop: float,
        images: Sequence[Image.Image],
        rejected: np.ndarray,
        task: Task,
    ) -> Drawn:
        quality = self.scorer.score(task.prompts, images)
        return Drawn(way, steps, tflop, quality, task.kept(images), rejected)


def rows_of(
    studio: Studio, tuning: Task, test: Task, corrections: Sequence[Correction]
) -> list[dict[str, Any]]:
    """Everything on the test task, with thresholds from the tuning task."""
    scores = studio.alone("student", studio.student, STUDENT, tuning).quality
    student = studio.alone(f"student@{STUDENT.id}", studio.student, STUDENT, test)
    teachers = [studio.alone(f"teacher@{each.id}", studio.teacher, each, test) for each in TEACHERS]
    found = [row_of(each, student, teachers, studio.seed) for each in (student, *teachers)]
    for correction in corrections:
        always = studio.together(correction, 100, float("inf"), test)
        found.append(row_of(always, student, teachers, studio.seed))
        for k in PERCENTILES:
            mixed = studio.together(correction, k, float(np.percentile(scores, k)), test)
            found.append(row_of(mixed, student, teachers, studio.seed, always))
    return found


def row_of(
    drawn: Drawn, student: Drawn, teachers: Sequence[Drawn], seed: int, always: Drawn | None = None
) -> dict[str, Any]:
    """Means, and for a collaboration its leads at equal average cost, with 95 % intervals over prompts."""
    row: dict[str, Any] = {
        "way": drawn.way,
        "steps": round(drawn.steps, 3),
        "tflop": drawn.tflop,
        "by_teacher": round(float(drawn.rejected.mean()), 3),
        "clip_score": round(float(drawn.quality.mean()), 4),
        "kept": round(float(drawn.kept.mean()), 4),
    }
    if always is None:
        return row
    own, whole = student.tflop, always.tflop - student.tflop
    costs = np.array([teacher.tflop for teacher in teachers])

    def figures(weights: np.ndarray) -> list[float]:
        def mean(values: np.ndarray) -> np.ndarray:
            return np.average(values, axis=-1, weights=weights)

        rate = mean(drawn.rejected.astype(float))
        spent = own + rate * whole
        leads = []
        for name in ("quality", "kept"):
            each = [mean(getattr(teacher, name)) for teacher in teachers]
            mine, first, last = (mean(getattr(one, name)) for one in (drawn, student, always))
            chance = first + rate * (last - first)
            leads += [mine - first, mine - at_cost(costs, np.array(each), spent), mine - chance]
        return [float(lead) for lead in leads]

    intervals = bootstrap(figures, len(drawn.quality), seed=seed)
    names = [
        f"{name}_over_{what}" for name in ("clip_score", "kept") for what in ("student", "teacher", "chance")
    ]
    for name, interval in zip(names, intervals, strict=True):
        row[name] = {part: round(value, 4) for part, value in asdict(interval).items()}
    return row


@click.command()
@click.option("--images", "count", default=12, show_default=True, help="Held-out icons of each dataset.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, seed: int) -> None:
    """Measure, and write bench/results/applications.json."""
    import torch

    torch.set_num_threads(1)
    icons = held_out(count)
    halves = icons[::2], icons[1::2]
    styles = sorted({str(icon.caption).partition(" style, ")[0] for icon in icons})
    clip = str(ROOT / "probes" / "clip")
    extractor = load_clip(clip, device="cpu")
    scorer = ClipScore(extractor, load_prompt_encoder(clip, device="cpu"))

    def embedded(images: Sequence[Image.Image]) -> np.ndarray:
        features = extractor.features(images).astype(np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def restyled(caption: str) -> str:
        style, _, rest = caption.partition(" style, ")
        return f"{styles[(styles.index(style) + 1) % len(styles)]} style, {rest}"

    def edit(half: Sequence[Any], strength: float) -> Task:
        pictures = [load_rgb(icon.path) for icon in half]
        before = embedded(pictures)
        prompts = [restyled(str(icon.caption)) for icon in half]
        return Task(prompts, lambda images: (embedded(images) * before).sum(axis=1), strength, pictures)

    def drawing(half: Sequence[Any]) -> Task:
        edges = [canny(load_rgb(icon.path)) for icon in half]

        def kept(images: Sequence[Image.Image]) -> np.ndarray:
            return np.array([edge_agreement(a, canny(b)) for a, b in zip(edges, images, strict=True)])

        return Task([str(icon.caption) for icon in half], kept, controls=edges)

    with (
        LoadedPipeline(ROOT / "students" / "tiny-sdxl-lcm", device="cpu") as student,
        LoadedPipeline(ROOT / "models" / "tiny-sdxl", device="cpu") as teacher,
    ):
        studio = Studio(student, teacher, scorer, seed)
        regenerate, refine = Correction(REGENERATED), Correction(REFINED, ROLLBACK)
        edits = {}
        for strength in STRENGTHS:
            edits[str(strength)] = rows_of(
                studio, edit(halves[0], strength), edit(halves[1], strength), [regenerate]
            )
            click.echo(json.dumps(edits[str(strength)], indent=1), err=True)
        with ExitStack() as inside:
            for loaded in (student, teacher):
                inside.enter_context(controlled(loaded, SHIPPED))
            tasks = drawing(halves[0]), drawing(halves[1])
            edges = rows_of(studio, *tasks, [regenerate, refine])
            click.echo(json.dumps(edges, indent=1), err=True)
    result = {
        "command": f"python -m bench.applications --images {count} --seed {seed}",
        **provenance(PACKAGES),
        "pair": "tiny-sdxl-lcm, tiny-sdxl at guidance 2",
        "icons": {"thresholds": len(halves[0]), "shown": len(halves[1])},
        "kept": {"edits": "cosine to the edited icon's features", "edges": "F1 of edges, 1 pixel off"},
        "edits": edits,
        "edges": edges,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "applications.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
