"""The students that are shipped: what they are made of, and what one step of theirs is worth."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.export import shared_parts
from matchgraph.minizoo.build.students import (
    GUIDANCE,
    LEARNT_PROMPTS,
    STUDENTS,
    Student,
    export_student,
    held_out_prompts,
    learnt_prompts,
)
from matchgraph.minizoo.build.zoo import ZOO
from matchgraph.training.config import SampleConfig
from matchgraph.training.files import files_below, folders_hash, json_hash
from matchgraph.training.pipelines.loading import LoadedPipeline, read_model_index
from matchgraph.training.sampling.generate import sample_images

MOST_BYTES = 6_000_000
PROMPTS = 4
each_student = pytest.mark.parametrize("student", STUDENTS.values(), ids=lambda student: student.name)


def test_students_are_measured_on_prompts_that_they_have_not_seen() -> None:
    assert len(learnt_prompts()) == LEARNT_PROMPTS
    assert not set(learnt_prompts()) & set(held_out_prompts())


@each_student
def test_a_shipped_student_is_what_its_record_says(student: Student) -> None:
    folder, teacher = ROOT / "students" / student.name, ROOT / "models" / student.teacher
    record = json.loads((folder / "distillation.json").read_text(encoding="utf-8"))
    assert record["config"] == student.config.to_dict()
    assert record["data"]["sha256"] == json_hash(list(dict.fromkeys(learnt_prompts())))
    parts = [name for name, entry in read_model_index(teacher).items() if isinstance(entry, list)]
    assert record["teacher"] == {"name": student.teacher, "sha256": folders_hash(teacher, parts)}
    own = [file for file in files_below(folder) if not any(parent.is_symlink() for parent in file.parents)]
    assert sum(file.stat().st_size for file in own) < MOST_BYTES
    (weights,) = [load_file(file) for file in own if file.suffix == ".safetensors"]
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype("float16")}
    for component, part in shared_parts(ZOO[student.teacher]).items():
        assert os.readlink(folder / component) == f"../../shared/{part}"
    with (ROOT / "logs" / f"{student.name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == student.config.steps
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@each_student
def test_a_shipped_students_one_step_is_nearer_to_its_teachers_many(student: Student) -> None:
    prompts = held_out_prompts()[:PROMPTS]

    def drawn(loaded: LoadedPipeline, steps: int, guidance: float) -> np.ndarray:
        config = SampleConfig(PROMPTS, Drawing(steps, guidance, resolution_px=32), seed=3, device="cpu")
        images = sample_images(loaded, None, prompts, config)
        return np.stack([np.asarray(image, dtype=np.float64) for image in images])

    with LoadedPipeline(ROOT / "models" / student.teacher, device="cpu") as teacher:
        many, one = drawn(teacher, 12, GUIDANCE), drawn(teacher, 1, GUIDANCE)
    with LoadedPipeline(ROOT / "students" / student.name, device="cpu") as made:
        own = drawn(made, 1, 1.0)
    assert np.abs(own - many).mean() < 0.7 * np.abs(one - many).mean()


def test_a_student_is_exported_with_links_its_curve_and_a_card(tmp_path: Path) -> None:
    student = STUDENTS["tiny-sd3-lcm"]
    with pytest.raises(StageNotReady, match="not distilled yet"):
        export_student(student, tmp_path, tmp_path / "work")
    made = tmp_path / "work" / "students" / student.name
    for component in ("transformer", "vae", "text_encoder"):
        (made / component).mkdir(parents=True)
        (made / component / "config.json").write_text("{}")
    run = made.with_name(f"{student.name}.run")
    run.mkdir()
    (run / "losses.csv").write_text("20,1.5,0.25\n")
    folder = export_student(student, tmp_path, tmp_path / "work")
    assert (folder / "transformer" / "config.json").is_file()
    assert os.readlink(folder / "vae") == "../../shared/autoencoder-kl"
    assert "sigmas=[1 - i / steps" in (folder / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "logs" / f"{student.name}.csv").read_text() == "step,seconds,loss\n20,1.5,0.25\n"
