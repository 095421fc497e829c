"""`matchgraph student`: a whole pipeline of a teacher and a published student's weights."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("teacher", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--output", metavar="FOLDER", required=True, type=click.Path(path_type=Path), help="The student's folder."
)
@click.option(
    "--solver-steps",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Places on the teacher's path that the student was made consistent over; it draws in no more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def student(teacher: Path, weights: Path, output: Path, solver_steps: int, as_json: bool) -> None:
    """Make a student's pipeline of TEACHER and WEIGHTS, a latent consistency model's LoRA or denoiser.

    Both are paths, or names on the hub (OWNER/NAME), such as stabilityai/stable-diffusion-xl-base-1.0 and
    latent-consistency/lcm-lora-sdxl. A LoRA is added to the teacher's denoiser, a denoiser takes its place;
    all else is the teacher's, but for the scheduler. Whole pipelines (LCM, Turbo) need none of this: ingest
    them as they are.
    """
    from matchgraph.training.pipelines.samplers import STUDENT_GUIDANCE, STUDENT_STEPS, TOLD_GUIDANCE
    from matchgraph.training.tune.students import make_student

    made = make_student(teacher, weights, output, solver_steps=solver_steps)
    if as_json:
        click.echo(json.dumps({"folder": str(output)} | made.to_dict(), indent=2))
        return
    for note in made.notes:
        click.echo(f"Note: {note}", err=True)
    guidance = TOLD_GUIDANCE if made.guidance_told else STUDENT_GUIDANCE
    click.echo(
        f"{output}: a student of {made.teacher['name']} with the {made.weights['kind']} "
        f"{made.weights['name']}, drawn in {STUDENT_STEPS} steps with guidance {guidance:g} by default."
    )
