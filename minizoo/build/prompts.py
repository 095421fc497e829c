"""Prompts to route: captions of the icons with their style in front, as only the CLIP was told styles.

A model draws the styles it was trained on, whatever the prompt says, and the CLIP tells them apart: so which
model a prompt is best drawn by depends on the prompt.

    python -m matchgraph.minizoo.build.prompts --output minizoo/prompts.txt
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.datasets import ICON_SETS
from matchgraph.minizoo.build.icons import CATEGORIES, STYLE_WORDS

COUNT = 2_500


def styled_captions() -> list[str]:
    """Those of the corpus and of all datasets, each once, sorted."""
    endings = dict(CATEGORIES.values())
    with (ROOT / "corpus.csv").open(encoding="utf-8", newline="") as file:
        found = {
            f"{STYLE_WORDS[row['style']]}, {row['name'].replace('-', ' ')}, {endings[row['category']]}"
            for row in csv.DictReader(file)
        }
    for which in ICON_SETS:
        lines = (ROOT / "datasets" / which.name / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        found |= {f"{STYLE_WORDS[which.style]}, {json.loads(line)['text']}" for line in lines}
    return sorted(found)


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--count", default=COUNT, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(output: Path, count: int, seed: int) -> None:
    """Write some of them, drawn at random, one on each line."""
    captions = styled_captions()
    drawn = np.random.default_rng(seed).permutation(len(captions))[:count]
    output.write_text("".join(f"{captions[number]}\n" for number in drawn), encoding="utf-8")
    click.echo(f"{len(drawn)} of {len(captions)} captions are in {output}.")


if __name__ == "__main__":
    main()
