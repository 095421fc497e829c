"""`matchgraph collaborate control-image`: edges and segmentation maps to draw by."""

from __future__ import annotations

import json
from pathlib import Path

import click

from matchgraph.cli.options import device_option, json_option, out_option

KINDS = ("canny", "segmentation")


@click.command("control-image")
@click.argument("source", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="canny",
    show_default=True,
    help="What to extract from the image.",
)
@click.option(
    "--low", type=click.FloatRange(0), default=100, show_default=True, help="Canny's lower threshold."
)
@click.option(
    "--high", type=click.FloatRange(0), default=200, show_default=True, help="Canny's upper threshold."
)
@click.option(
    "--segmenter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For segmentation: folder of a model of transformers, such as UperNet or SegFormer.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Scale and crop the image to a square of this side first, in pixels.",
)
@out_option("PNG file to write.", metavar="FILE.png", required=True)
@device_option
@json_option
def control_image(
    source: Path,
    kind: str,
    low: float,
    high: float,
    segmenter: Path | None,
    resolution: int | None,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Turn an image into the input of a ControlNet: its edges, or a map of its segments."""
    from matchgraph.training.files import replacing
    from matchgraph.training.images import load_rgb, square
    from matchgraph.training.sampling.controls import Segmenter, canny

    if (kind == "segmentation") != (segmenter is not None):
        raise click.UsageError("--segmenter and --kind segmentation must be given together.")
    picture = load_rgb(source)
    if resolution is not None:
        picture = square(picture, resolution)
    drawn = canny(picture, low, high) if segmenter is None else Segmenter(segmenter, device).draw(picture)
    try:
        with replacing(out) as scratch:
            drawn.save(scratch, format="PNG")
    except FileNotFoundError:
        raise click.UsageError(f"Cannot write {out.name}: there is no folder {out.parent}.") from None
    facts = {"out": str(out), "kind": kind, "width_px": drawn.width, "height_px": drawn.height}
    click.echo(
        json.dumps(facts)
        if as_json
        else f"{kind} image of {drawn.width}x{drawn.height} pixels written to {out}"
    )
