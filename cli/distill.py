"""`matchgraph collaborate distill` and `student`: pipelines that draw in a few steps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click

from matchgraph.cli.display import TimeLeft, show_work
from matchgraph.cli.options import (
    GivenPath,
    caption_column_option,
    configuration,
    json_option,
    out_option,
    prompts_option,
    settings_options,
)
from matchgraph.training.config import DistillConfig

SHOWN_EVERY_STEPS = 20


@click.command()
@click.argument("teacher", metavar="TEACHER", type=GivenPath())
@prompts_option("One prompt per line; the student learns from the images that the teacher draws for them.")
@click.option(
    "--images",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Captioned images to learn from instead.",
)
@caption_column_option
@out_option("The student's folder.", required=True)
@settings_options(
    DistillConfig,
    without=("alpha", "huber", "draws", "weight_decay", "max_gradient_norm", "gradient_accumulation"),
    rank={"help": "LoRA rank, and alpha."},
)
@click.option(
    "--checkpoint-steps",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Steps from one checkpoint to the next.",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Continue from the checkpoint in FOLDER.partial if there is one, or start over.",
)
@json_option
def distill(
    teacher: Path,
    prompts_file: Path | None,
    images: Path | None,
    caption_column: str | None,
    out: Path,
    checkpoint_steps: int,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Distil TEACHER, a diffusers pipeline, into a student that draws in one to eight steps.

    TEACHER is a folder, or OWNER/NAME on the hub. The student is a pipeline of the same class, used without
    guidance. The same command resumes an interrupted run.
    """
    if (prompts_file is None) == (images is None):
        raise click.UsageError("Give either --prompts FILE or --images FOLDER.")
    from matchgraph.collaboration.students import distill_student

    config = configuration(DistillConfig, options, alpha=options["rank"])
    folder = None
    if images is not None:
        from matchgraph.training.images import DatasetFolder, read_image_folder

        folder = DatasetFolder(images, caption_column)
        for note in read_image_folder(folder).all_notes():
            click.echo(f"Note: {images}: {note}", err=True)

    drawing, training = TimeLeft(), TimeLeft()

    def show_drawn(drawn: int, count: int) -> None:
        left = drawing.after(drawn, count)
        click.echo(f"The teacher has drawn {drawn} of {count} images{left}.", err=True)

    steps = itertools.count(1)

    def show_step(step: int, loss: float) -> None:
        left = training.after(step, config.steps)
        # The pace is known after the second one.
        if next(steps) == 2 or step % SHOWN_EVERY_STEPS == 0 or step == config.steps:
            click.echo(f"Step {step} of {config.steps}: loss {loss:.4g}{left}", err=True)

    click.echo(f"The teacher draws first; then the student is trained for {config.steps} steps.", err=True)

    made = distill_student(
        teacher,
        out,
        config,
        prompts_file=prompts_file,
        images=folder,
        checkpoint_steps=checkpoint_steps,
        resume=resume,
        on_work=show_work,
        on_draw=show_drawn,
        on_step=show_step,
    )
    if as_json:
        click.echo(json.dumps({"folder": str(out)} | made.to_dict(), indent=2))
        return
    losses = made.happened["losses"]
    click.echo(
        f"{out}: a student of {made.teacher['name']}, {config.steps} steps on {made.data['images']} "
        f"images in {made.happened['seconds']:.0f} s, loss {losses[0]:.4g} at first and {losses[-1]:.4g} "
        "at last. Draw it with guidance 1 in 1 to 8 steps."
    )


@click.command()
@click.argument("teacher", type=GivenPath())
@click.argument("weights", type=GivenPath())
@out_option("The student's folder.", required=True)
@settings_options(DistillConfig, only=("solver_steps",))
@json_option
def student(teacher: Path, weights: Path, out: Path, solver_steps: int, as_json: bool) -> None:
    """Make a student pipeline from TEACHER and WEIGHTS, a few-step model's LoRA or denoiser.

    Both are paths, or names on the hub (OWNER/NAME), such as stabilityai/stable-diffusion-xl-base-1.0 and
    latent-consistency/lcm-lora-sdxl. A LoRA is merged into the teacher's denoiser, a denoiser replaces it;
    everything else is the teacher's, except the scheduler: LCM's, or that of SDXL-Lightning and Hyper-SD,
    which are recognised by their files' names. Whole pipelines (LCM, Turbo) can be ingested as they are.
    """
    from matchgraph.training.pipelines.few_steps import STUDENT_GUIDANCE, STUDENT_STEPS
    from matchgraph.training.pipelines.samplers import EMBEDDED_GUIDANCE
    from matchgraph.training.tune.students import make_student

    made = make_student(teacher, weights, out, solver_steps=solver_steps)
    if as_json:
        click.echo(json.dumps({"folder": str(out)} | made.to_dict(), indent=2))
        return
    for note in made.notes:
        click.echo(f"Note: {note}", err=True)
    steps, guidance = STUDENT_STEPS, EMBEDDED_GUIDANCE if made.guidance_told else STUDENT_GUIDANCE
    if "steps" in made.scheduler:
        steps, guidance = made.scheduler["steps"], 0.0
    click.echo(
        f"{out}: a student of {made.teacher['name']} with the {made.weights['kind']} "
        f"{made.weights['name']}, drawn in {steps} steps with guidance {guidance:g} by default."
    )
