"""Pictures of what the ten models draw: `python -m matchgraph.minizoo.build.sheets MODEL... --output FILE`.

For each model two rows: icons of its corpus in its main style, and what the model draws for their captions.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.minizoo.build.autoencoders import SHARED
from matchgraph.minizoo.build.corpus import corpus
from matchgraph.minizoo.build.icons import TRAINING_RESOLUTION_PX, WORK, Pool, name_hash
from matchgraph.minizoo.build.loop import checkpoint_path
from matchgraph.minizoo.build.zoo import ZOO, ZooModel, assemble, trained_denoiser
from matchgraph.training.pipelines.families import family

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

COLUMNS = 20
SCALE = 2
STEPS, GUIDANCE = 20, 3.0


def shown_rows(model: ZooModel, pool: Pool, columns: int) -> list[int]:
    """Rows of the corpus whose captions a model is asked to draw.

    Args:
        model: its main style is shown.
        pool: the corpus.
        columns: how many.

    Returns:
        Rows of as many different captions, by the hash of their names, so that models of one style draw the
        same ones.
    """
    style = max(model.styles, key=lambda each: model.styles[each])
    rows = [row for row, icon in enumerate(pool.icons) if icon.style == style]
    return sorted(rows, key=lambda row: name_hash(f"sheet {pool.icons[row].name}"))[:columns]


def draw(
    model: ZooModel,
    captions: Sequence[str],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    root: Path = SHARED,
) -> list[np.ndarray]:
    """Draw captions with a model's newest checkpoint, finished or not.

    Args:
        model: which one.
        captions: one image each; the seed is the caption's place.
        steps: denoising steps.
        guidance: guidance scale.
        root: holds the trained shared parts.

    Returns:
        uint8 arrays, (h, w, 3).

    Raises:
        StageNotReady: the model, or a part of it, is not trained yet.
    """
    import numpy as np
    import torch

    torch.set_num_threads(1)
    pipe, kind = assemble(model, trained_denoiser(model), root), family(model.family)
    pipe.set_progress_bar_config(disable=True)
    images = kind.sample(
        pipe,
        kind.encode_prompts(pipe, captions),
        kind.encode_prompts(pipe, [""]),
        steps=steps,
        guidance=guidance,
        generators=[torch.Generator().manual_seed(seed) for seed in range(len(captions))],
        resolution_px=TRAINING_RESOLUTION_PX,
    )
    return [np.asarray(image.convert("RGB")) for image in images]


def write_sheet(
    models: Sequence[ZooModel], pool: Pool, path: Path, columns: int = COLUMNS, root: Path = SHARED
) -> None:
    """Write a picture with two rows for each model.

    Args:
        models: which ones.
        pool: the corpus.
        path: the PNG to write.
        columns: how many captions.
        root: holds the trained shared parts.
    """
    from PIL import Image

    step = TRAINING_RESOLUTION_PX + 2
    sheet = Image.new("RGB", (columns * step, 2 * len(models) * step), "gray")
    for number, model in enumerate(models):
        rows = shown_rows(model, pool, columns)
        drawn = draw(model, [pool.icons[row].caption for row in rows], root=root)
        for column, (row, image) in enumerate(zip(rows, drawn, strict=True)):
            sheet.paste(Image.fromarray(pool.pixels[row]), (column * step, 2 * number * step))
            sheet.paste(Image.fromarray(image), (column * step, (2 * number + 1) * step))
    sheet = sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw the sheet of some models, or of all that have a checkpoint."""
    parser = argparse.ArgumentParser(description="Draw what the ten models make of captions they know.")
    parser.add_argument("models", nargs="*", help="which (default: all that have a checkpoint)")
    parser.add_argument("--output", type=Path, default=WORK / "sheet.png", help="the PNG to write")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.models) - set(ZOO))
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(ZOO)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    begun = [name for name, model in ZOO.items() if checkpoint_path(model.loop.name).is_file()]
    models = [ZOO[name] for name in arguments.models or begun]
    if not models:
        parser.error("no model has a checkpoint yet: run `python -m matchgraph.minizoo.build.driver` first")
    write_sheet(models, corpus(), arguments.output)


if __name__ == "__main__":
    main()
