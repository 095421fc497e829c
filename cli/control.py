"""`matchgraph control`: control images, and ControlNets that draw by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

KINDS = ("canny", "segmentation")
SHOWN_EVERY = 50
# Beside the ControlNet while it is trained.
CHECKPOINT = "checkpoint"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="`auto` or a torch device name."
)
low_option = click.option(
    "--low", type=click.FloatRange(0), default=100, show_default=True, help="Canny's lower threshold."
)
high_option = click.option(
    "--high", type=click.FloatRange(0), default=200, show_default=True, help="Canny's upper threshold."
)


def folder(*, exists: bool = True) -> click.Path:
    """A folder's path."""
    return click.Path(exists=exists, file_okay=False, path_type=Path)


def kind_option(*further: str) -> Callable[..., Any]:
    """`--kind`: which control images."""
    return click.option(
        "--kind",
        type=click.Choice([*KINDS, *further]),
        default="canny",
        show_default=True,
        help=f"Control images: {', '.join([*KINDS, *further])}.",
    )


def model_option() -> Callable[..., Any]:
    """`--segmenter`: who draws the maps."""
    return click.option(
        "--segmenter",
        type=folder(),
        help="For segmentation: folder of a model of transformers, such as UperNet or SegFormer.",
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def control() -> None:
    """Edges and segmentation maps to draw by: control images, and ControlNets trained on them."""


@control.command()
@click.argument("source", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@kind_option()
@low_option
@high_option
@model_option()
@click.option(
    "--resolution", type=click.IntRange(1), help="Scale and cut the image to this square before, in pixels."
)
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="PNG file to write."
)
@device_option
@json_option
def image(
    source: Path,
    kind: str,
    low: float,
    high: float,
    segmenter: Path | None,
    resolution: int | None,
    output: Path,
    device: str,
    as_json: bool,
) -> None:
    """Turn an image into its control image, as training does with each of its images."""
    from matchgraph.training.files import SCRATCH_PREFIX, publish
    from matchgraph.training.images import load_rgb, square
    from matchgraph.training.sampling.controls import canny, segmentation

    _check_segmenter(kind, segmenter)
    picture = load_rgb(source)
    if resolution is not None:
        picture = square(picture, resolution)
    if segmenter is None:
        drawn = canny(picture, low, high)
    else:
        drawn = segmentation(picture, segmenter, device=device)
    scratch = output.with_name(f"{SCRATCH_PREFIX}{output.name}")
    try:
        drawn.save(scratch, format="PNG")
        publish(scratch, output)
    except FileNotFoundError:
        raise click.UsageError(f"There is no folder {output.parent} to write {output.name} to.") from None
    finally:
        scratch.unlink(missing_ok=True)
    facts = {"output": str(output), "kind": kind, "width_px": drawn.width, "height_px": drawn.height}
    click.echo(
        json.dumps(facts)
        if as_json
        else f"{kind} image of {drawn.width}x{drawn.height} pixels written to {output}"
    )


@control.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--images", required=True, type=folder(), help="Folder of captioned images to learn from.")
@kind_option("maps")
@low_option
@high_option
@model_option()
@click.option("--maps", type=folder(), help="For maps: folder with a ready map under the path of each image.")
@click.option("--output", required=True, type=folder(exists=False), help="Folder for the ControlNet.")
@click.option("--steps", type=click.IntRange(1), default=10_000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=1e-5,
    show_default=True,
    help="Of AdamW.",
)
@click.option(
    "--resolution",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Side of the images in pixels.",
)
@click.option(
    "--caption-dropout",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of captions replaced by the empty one.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the frozen weights and the arithmetic.",
)
@click.option(
    "--save-precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the weights in the file.",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the whole run.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Steps between checkpoints, from which the same command goes on.",
)
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    help="Take less memory and more time: compute activations twice.",
)
@device_option
@json_option
def train(
    model: Path,
    images: Path,
    kind: str,
    low: float,
    high: float,
    segmenter: Path | None,
    maps: Path | None,
    output: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    resolution: int,
    caption_dropout: float,
    precision: str,
    save_precision: str,
    seed: int,
    checkpoint_every: int,
    gradient_checkpointing: bool,
    device: str,
    as_json: bool,
) -> None:
    """Train a ControlNet for MODEL, a Stable Diffusion or SDXL pipeline; it then also steers its students.

    MODEL is a folder, or OWNER/NAME on the hub.

    An interrupted training goes on where it stopped when the same command is called again.
    """
    from matchgraph.training.tune.checkpoint import Checkpoints, remove_checkpoint
    from matchgraph.training.tune.controlnet import ControlConfig, train_controlnet

    _check_segmenter(kind, segmenter)
    if (kind == "maps") != (maps is not None):
        raise click.UsageError("--maps goes with --kind maps, and --kind maps with it.")
    source = segmenter or maps
    config = ControlConfig(
        kind=kind,
        low=low,
        high=high,
        source=None if source is None else str(source),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        resolution_px=resolution,
        seed=seed,
        caption_dropout=caption_dropout,
        precision=precision,
        saved_precision=save_precision,
        device=device,
        gradient_checkpointing=gradient_checkpointing,
    )

    def told(step: int, loss: float) -> None:
        if step % SHOWN_EVERY == 0 or step == steps:
            click.echo(f"step {step}/{steps}, loss {loss:.5f}", err=True)

    kept = output / CHECKPOINT
    record = train_controlnet(
        model,
        images,
        output,
        config,
        told,
        checkpoints=Checkpoints(kept, every_steps=checkpoint_every, resume_from=kept),
    )
    remove_checkpoint(kept)
    kept.rmdir()
    happened = record.content["happened"]
    if as_json:
        click.echo(json.dumps({"folder": str(record.folder), **record.content}))
        return
    click.echo(
        f"ControlNet of {happened['trainable_parameters']:,} parameters trained on {happened['images']} "
        f"images in {happened['seconds']:.0f} s, written to {record.folder}"
    )


def _check_segmenter(kind: str, segmenter: Path | None) -> None:
    if (kind == "segmentation") != (segmenter is not None):
        raise click.UsageError("--segmenter goes with --kind segmentation, and --kind segmentation with it.")
