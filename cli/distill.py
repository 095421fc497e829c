"""`matchgraph distill`: a student of few steps from a teacher of many."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

# Beside the student's folder while it is not finished: checkpoints, and what the teacher drew.
WORK_SUFFIX = ".partial"
CACHE_BYTES = 64 << 30
TOLD_EVERY = 20


@click.command()
@click.argument("teacher", metavar="TEACHER", type=click.Path(path_type=Path))
@click.option(
    "--prompts",
    "prompts_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file with a prompt on each line, which the teacher draws to be learnt from.",
)
@click.option(
    "--images",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Captioned images to learn from instead.",
)
@click.option(
    "--output", metavar="FOLDER", required=True, type=click.Path(path_type=Path), help="The student's folder."
)
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=1e-4, show_default=True, help="Of AdamW.")
@click.option(
    "--decay-share",
    type=float,
    default=0.25,
    show_default=True,
    help="Last share of the steps over which the learning rate falls to 0.",
)
@click.option(
    "--method",
    type=click.Choice(["lora", "full"]),
    default="lora",
    show_default=True,
    help="Train a low-rank adapter, which is added to the weights in the end, or all weights.",
)
@click.option("--rank", type=click.IntRange(1), default=64, show_default=True, help="LoRA rank, and alpha.")
@click.option(
    "--guidance",
    type=float,
    help="The teacher's guidance scale, which the student has inside.  [default: the pipeline's own]",
)
@click.option(
    "--solver-steps",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Places on the teacher's path that the student is made consistent over; it draws in no more.",
)
@click.option("--ema", type=float, default=0.95, show_default=True, help="Decay of the target's weights.")
@click.option(
    "--teacher-steps",
    type=click.IntRange(1),
    default=25,
    show_default=True,
    help="Denoising steps in which the teacher draws for --prompts.",
)
@click.option(
    "--resolution", type=click.IntRange(1), default=512, show_default=True, help="Side of images, in pixels."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is drawn.")
@click.option("--device", default="auto", show_default=True, help="`auto` or a torch device name.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of frozen weights and arithmetic.",
)
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory for more time.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Steps from one checkpoint to the next.",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help=f"Go on from the checkpoint in OUTPUT{WORK_SUFFIX}, if there is one, or begin anew.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def distill(
    teacher: Path,
    prompts_file: Path | None,
    images: Path | None,
    output: Path,
    checkpoint_every: int,
    resume: bool,
    as_json: bool,
    resolution: int,
    rank: int,
    **settings: Any,
) -> None:
    """Distil TEACHER, a diffusers pipeline, into a student that draws in one to eight steps.

    TEACHER is a folder, or OWNER/NAME on the hub. The student is a pipeline like its teacher, drawn without
    guidance. A run that was interrupted goes on where it stopped when the same command is given again.
    """
    if (prompts_file is None) == (images is None):
        raise click.UsageError("Give either --prompts FILE or --images FOLDER.")
    from matchgraph.training.config import DistillConfig
    from matchgraph.training.pipelines.cache import EncodingCache
    from matchgraph.training.tune.checkpoint import Checkpoints
    from matchgraph.training.tune.distill import distill as run

    config = DistillConfig(resolution_px=resolution, rank=rank, alpha=rank, **settings)
    prompts = [] if prompts_file is None else _prompts(prompts_file)
    work = output.with_name(output.name + WORK_SUFFIX)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    made = run(
        teacher,
        output,
        prompts,
        config,
        images=images,
        on_draw=_tell_drawn,
        on_step=lambda step, loss: _tell_step(step, config.steps, loss),
        checkpoints=Checkpoints(work, checkpoint_every, resume_from=work),
        cache=EncodingCache(work / "cache", CACHE_BYTES),
    )
    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        click.echo(json.dumps({"folder": str(output)} | made.to_dict(), indent=2))
        return
    losses = made.happened["losses"]
    click.echo(
        f"{output}: a student of {made.teacher['name']}, {config.steps} steps on {made.data['images']} "
        f"images in {made.happened['seconds']:.0f} s, loss {losses[0]:.4g} at first and {losses[-1]:.4g} "
        "at last. Draw it with guidance 1 in 1 to 8 steps."
    )


def _prompts(path: Path) -> list[str]:
    from matchgraph.training.prompt_files import read_prompt_file

    prompts = [text for _, text in read_prompt_file(path).lines]
    if not prompts:
        raise click.UsageError(f"{path} holds no prompt: write one on each line.")
    return prompts


def _tell_drawn(drawn: int, count: int) -> None:
    click.echo(f"The teacher has drawn {drawn} of {count} images.", err=True)


def _tell_step(step: int, steps: int, loss: float) -> None:
    if step % TOLD_EVERY == 0 or step == steps:
        click.echo(f"Step {step} of {steps}: loss {loss:.4g}", err=True)
