"""Students of two of the zoo's models, by `training.tune.distill`, and how they compare with their teachers.

    python -m matchgraph.minizoo.build.students            # distils and exports both; resumes
    python -m matchgraph.minizoo.build.students --measure

A student's folder links to `minizoo/shared` as its teacher's does, so it takes the room of its denoiser.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.export import (
    MEASURED_FILE,
    MODELS_FOLDER,
    PROBES_FOLDER,
    SHARED_FOLDER,
    shared_parts,
)
from matchgraph.minizoo.build.icons import TRAINING_RESOLUTION_PX, WORK
from matchgraph.minizoo.build.loop import LOGS
from matchgraph.minizoo.build.zoo import ZOO
from matchgraph.training.config import DistillConfig
from matchgraph.training.pipelines.cache import EncodingCache
from matchgraph.training.pipelines.families import family
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.distill import distill

STUDENTS_FOLDER = "students"
PROMPTS_FILE = ROOT / "prompts.txt"
# The first lines are drawn to learn from; the last ones are only measured on.
LEARNT_PROMPTS = 2_000
MEASURED_PROMPTS = 200
# At which the zoo is measured (see its README), and which the students have inside.
GUIDANCE = 2.0
LOG_EVERY = 20
CURVE_FILE = "losses.csv"
TEACHER_STEPS = (1, 2, 4, 8, 10, 25)
STUDENT_STEPS = (1, 2, 4, 8)
REFERENCE_STEPS = 25
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Student:
    """One student.

    Attributes:
        name: id, and folder name.
        teacher: the zoo's model.
        config: how it is distilled.
    """

    name: str
    teacher: str
    config: DistillConfig


def _student(name: str, teacher: str, **changes: Any) -> Student:
    settings: dict[str, Any] = {
        "steps": 1200,
        "batch_size": 32,
        "learning_rate": 5e-4,
        "decay_share": 0.3,
        "method": "full",
        "guidance": GUIDANCE,
        "solver_steps": 20,
        "teacher_steps": 20,
        "resolution_px": TRAINING_RESOLUTION_PX,
        "seed": 42,
        "device": "cpu",
    }
    return Student(name, teacher, DistillConfig(**settings | changes))


STUDENTS = {
    student.name: student
    for student in (_student("tiny-sdxl-lcm", "tiny-sdxl"), _student("tiny-sd3-lcm", "tiny-sd3"))
}


def learnt_prompts() -> list[str]:
    """What students are distilled on."""
    return PROMPTS_FILE.read_text(encoding="utf-8").splitlines()[:LEARNT_PROMPTS]


def held_out_prompts() -> list[str]:
    """What no student was distilled on."""
    lines = PROMPTS_FILE.read_text(encoding="utf-8").splitlines()
    return lines[LEARNT_PROMPTS:][:MEASURED_PROMPTS]


def train(student: Student) -> Path:
    """Distil one into `minizoo/work/students`, going on where an earlier call stopped."""
    output, work = WORK / STUDENTS_FOLDER / student.name, WORK / STUDENTS_FOLDER / f"{student.name}.run"
    if output.exists():
        return output
    work.mkdir(parents=True, exist_ok=True)
    curve = work / CURVE_FILE
    began, losses = time.perf_counter(), []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % LOG_EVERY == 0:
            row = [step, f"{time.perf_counter() - began:.1f}", f"{sum(losses) / len(losses):.6f}"]
            losses.clear()
            with curve.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)

    distill(
        ROOT / MODELS_FOLDER / student.teacher,
        output,
        learnt_prompts(),
        student.config,
        on_step=on_step,
        checkpoints=Checkpoints(work, every_steps=100, resume_from=work),
        cache=EncodingCache(work / "cache", CACHE_BYTES),
    )
    return output


def export_student(student: Student, root: Path = ROOT, work: Path = WORK) -> Path:
    """Write a distilled student beside the models: its own parts, and links to what it shares with them.

    Args:
        student: which one.
        root: gets `students/<name>` and `logs/<name>.csv`.
        work: where `train` left it.

    Returns:
        The folder.

    Raises:
        StageNotReady: it is not distilled yet.
    """
    made = work / STUDENTS_FOLDER / student.name
    if not made.is_dir():
        raise StageNotReady(
            f"{student.name} is not distilled yet; run python -m matchgraph.minizoo.build.students"
        )
    folder = root / STUDENTS_FOLDER / student.name
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    parts = shared_parts(ZOO[student.teacher])
    shutil.copytree(made, partial, ignore=lambda _, names: parts.keys() & set(names))
    for component, part in parts.items():
        os.symlink(Path("..", "..", SHARED_FOLDER, part), partial / component, target_is_directory=True)
    (partial / "README.md").write_text(_card(student), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    rows = (work / STUDENTS_FOLDER / f"{student.name}.run" / CURVE_FILE).read_text(encoding="utf-8")
    (root / LOGS.name).mkdir(exist_ok=True)
    (root / LOGS.name / f"{student.name}.csv").write_text("step,seconds,loss\n" + rows, encoding="utf-8")
    return folder


def _card(student: Student) -> str:
    run = student.config
    flow = family(ZOO[student.teacher].family).flow_matching
    grid = (
        "With diffusers alone, give the call `sigmas=[1 - i / steps for i in range(steps)]` as well: by\n"
        "itself the scheduler spends the last step where nothing is left to do.\n"
        if flow
        else ""
    )
    return f"""# {student.name}

A student of `{student.teacher}` by `matchgraph collaborate distill`, for one to eight steps: the same
pipeline with another denoiser and another scheduler. Draw it with guidance 1, which takes one forward of the
denoiser for each step; the teacher's guidance of {run.guidance:g} is inside.
{grid}
- All weights, {run.steps} steps of batch {run.batch_size}, learning rate {run.learning_rate:g}, \
{run.solver_steps} places on the teacher's path, EMA {run.ema:g}, seed {run.seed}.
- Learnt from the teacher's own images for the first {LEARNT_PROMPTS:,} lines of `minizoo/prompts.txt`, \
{run.teacher_steps} steps each.
- `distillation.json` is its record; what it can do is in `minizoo/README.md` and `../measured.json`.
- Licences of the icons its teacher learnt from: `minizoo/LICENCES.md`.
"""


def measure(student: Student, root: Path = ROOT) -> dict[str, Any]:
    """Compare a student with its teacher at several numbers of steps, on prompts it has not seen.

    Args:
        student: exported before.
        root: where it lies.

    Returns:
        For `teacher` and `student` a row for each number of steps: mean `clip_score`; `distance`, the squared
        Frechet distance in the CLIP's space to the teacher's images of `REFERENCE_STEPS` steps under another
        seed; and `pixels`, the mean absolute difference to those under the same seed (0 to 255).
    """
    import numpy as np

    from matchgraph.training.config import SampleConfig
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.frechet import frechet_distance, gaussian_statistics
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.measure.quality import ClipScore
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.sampling.generate import sample_images

    clip, prompts = root / PROBES_FOLDER / "clip", held_out_prompts()
    extractor = load_clip(clip, device="cpu")
    scorer = ClipScore(extractor, load_prompt_encoder(clip, device="cpu"))

    def drawn(loaded: LoadedPipeline, steps: int, guidance: float, seed: int) -> list[Any]:
        config = SampleConfig(
            len(prompts),
            Drawing(steps, guidance, resolution_px=TRAINING_RESOLUTION_PX),
            seed,
            batch_size=50,
            device="cpu",
        )
        return sample_images(loaded, None, prompts, config)

    def pixels(images: list[Any]) -> np.ndarray:
        return np.stack([np.asarray(image, dtype=np.float64) for image in images])

    rows: dict[str, Any] = {"prompts": len(prompts)}
    folders = {
        "teacher": (root / MODELS_FOLDER / student.teacher, TEACHER_STEPS, GUIDANCE),
        "student": (root / STUDENTS_FOLDER / student.name, STUDENT_STEPS, 1.0),
    }
    reference, same = None, None
    for who, (folder, counts, guidance) in folders.items():
        rows[who] = {}
        with LoadedPipeline(folder, device="cpu") as loaded:
            if reference is None or same is None:
                reference = gaussian_statistics(
                    extractor.features(drawn(loaded, REFERENCE_STEPS, guidance, seed=1))
                )
                same = pixels(drawn(loaded, REFERENCE_STEPS, guidance, seed=0))
            for steps in counts:
                images = drawn(loaded, steps, guidance, seed=0)
                found = gaussian_statistics(extractor.features(images))
                rows[who][str(steps)] = {
                    "clip_score": round(float(scorer.score(prompts, images).mean()), 4),
                    "distance": round(
                        frechet_distance(found.mean, found.covariance, reference.mean, reference.covariance),
                        4,
                    ),
                    "pixels": round(float(np.abs(pixels(images) - same).mean()), 2),
                }
                click.echo(f"{student.name}: {who}, {steps} steps: {rows[who][str(steps)]}", err=True)
    return rows


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(sorted(STUDENTS)))
@click.option("--measure", "measuring", is_flag=True, help="Compare exported students with their teachers.")
def main(names: Sequence[str], measuring: bool) -> None:
    """Distil and export students, all of them by default."""
    import torch

    torch.set_num_threads(1)
    for student in [STUDENTS[name] for name in names or STUDENTS]:
        if not measuring:
            train(student)
            click.echo(export_student(student))
            continue
        file = ROOT / STUDENTS_FOLDER / MEASURED_FILE
        measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        measured[student.name] = measure(student)
        file.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
