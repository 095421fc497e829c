"""Students of two of the zoo's models, by `training.distill`, and how they compare with their teachers.

    python -m minizoo.students tiny-sdxl-lcm        # distils it, going on where it stopped
    python -m minizoo.students tiny-sdxl-lcm --measure

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

from minizoo.export import MODELS_FOLDER
from minizoo.icons import ROOT, TRAINING_RESOLUTION_PX, WORK
from training.cache import EncodingCache
from training.checkpoint import Checkpoints
from training.distill import RECORD_FILE, DistillConfig, distill

STUDENTS_FOLDER = "students"
PROMPTS_FILE = ROOT / "prompts.txt"
# The first lines are drawn to learn from; the last ones are only measured on.
LEARNT_PROMPTS = 2_000
MEASURED_PROMPTS = 200
# At which the zoo is measured (see its README), and which the students have inside.
GUIDANCE = 2.0
LOG_EVERY = 20
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
    work = WORK / STUDENTS_FOLDER / f"{student.name}.run"
    output = work.with_suffix("")
    if output.exists():
        return output
    began, losses = time.perf_counter(), []
    work.mkdir(parents=True, exist_ok=True)

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if step % LOG_EVERY == 0:
            mean = sum(losses) / len(losses)
            losses.clear()
            with (work / "losses.csv").open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow([step, f"{time.perf_counter() - began:.1f}", f"{mean:.6f}"])

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


@click.command()
@click.argument("name", type=click.Choice(sorted(STUDENTS)))
def main(name: str) -> None:
    """Distil a student."""
    import torch

    torch.set_num_threads(1)
    click.echo(train(STUDENTS[name]))


if __name__ == "__main__":
    main()
