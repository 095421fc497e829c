"""All three levels by one measure on the small zoo: nearness to the images of a dataset without results, as
the models are and with an adapter fine-tuned on the images.

    python -m bench.choosing --home HOME

The commands are those of a user, one after another; what was measured is kept in HOME, so that the same
command goes on where it was interrupted. They and what `choose --compare` says are written to
`results/choose-nearness.json`, in place of what is there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from bench.provenance import provenance
from matchgraph.cli.main import matchgraph as cli
from matchgraph.minizoo import ROOT

RESULTS = Path(__file__).parent / "results" / "choose-nearness.json"
PACKAGES = ("matchgraph", "torch", "diffusers", "numpy")
DATASET, WORD, PAIR = "noto-food", "food", ("tiny-sdxl-lcm", "tiny-sdxl")
# Captions with the word that routers, thresholds and corrections are learned from; the last ones are drawn.
LEARNED = 160
PROMPT_LEVEL = ("prompts.csv", "prompts.safetensors", "variants.csv", "scores.csv", "scores")


class Commands:
    """Runs commands in this process, and remembers them with their seconds.

    Args:
        environment: of the commands.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.done: list[dict[str, Any]] = []

    def __call__(self, *words: str | Path) -> str:
        """Run one; its output."""
        arguments = [str(word) for word in words]
        began = time.monotonic()
        result = CliRunner().invoke(cli, arguments, env=self._environment, catch_exceptions=False)
        if result.exit_code:
            raise click.ClickException(f"{' '.join(arguments)}: {result.output}")
        shown = " ".join(Path(word).name if os.sep in word else word for word in arguments)
        seconds = round(time.monotonic() - began, 1)
        click.echo(f"{seconds} s: matchgraph {shown}", err=True)
        self.done.append({"command": f"matchgraph {shown}", "seconds": seconds})
        return str(result.stdout)


def without_prompts(folder: Path) -> Path:
    """The small zoo's records without those of prompts, as links in a folder."""
    folder.mkdir(exist_ok=True)
    for path in (ROOT / "records").iterdir():
        if path.name not in PROMPT_LEVEL and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    return folder


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path), help="Folder of this measurement.")
@click.option("--captions", default=60, show_default=True, help="To draw.")
@click.option("--budget", default=0.0006, show_default=True, help="TFLOP of an image.")
@click.option("--seed", default=0, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with.")
def main(home: Path, captions: int, budget: float, seed: int, note: str) -> None:
    """See the module."""
    home.mkdir(parents=True, exist_ok=True)
    probe, images = str(ROOT / "probes" / "clip"), ROOT / "datasets" / DATASET
    run = Commands({"MATCHGRAPH_HOME": str(home.resolve()), "MATCHGRAPH_PROBE": probe})
    lines = [line for line in (ROOT / "prompts.txt").read_text("utf-8").splitlines() if WORD in line]
    near, asked = home / "near.txt", home / "asked.txt"
    near.write_text("\n".join(lines[:LEARNED]), encoding="utf-8")
    asked.write_text("\n".join(lines[LEARNED:][-captions:]), encoding="utf-8")
    nearness = ("--metric", "nearness", "--images", images)
    student, teacher = PAIR

    run("ingest", "records", without_prompts(home / "records"), "--without", DATASET)
    for folder in ("models", "students"):
        run("ingest", "models", ROOT / folder, "--no-throughput")
    run("route", "prompts", near, "--largest-similarity", "1.01")
    models = [path.name for path in sorted((ROOT / "models").iterdir())]
    every = [word for model in models for word in ("--model", model)]
    run("route", "variants", "--steps", "2,4", "--guidance", "2", *every)
    run("route", "variants", "--steps", "2", "--guidance", "1", "--model", student)
    run("route", "score", *nearness, "--samples", "1")
    run("route", "fit", "--metric", "nearness")
    drawn = ("--steps", "2", "--guidance", "1", "--prompts", near)
    run("collaborate", "calibrate", student, teacher, *drawn, *nearness)
    tried = (
        "--teacher-steps",
        "4",
        "--refine-steps",
        "2,4",
        "--rollbacks",
        "0.5,0.9",
        "--teacher-guidance",
        "2",
    )
    run(
        *("collaborate", "tune", student, "--budget-tflop", f"{budget:g}"),
        *(*tried, "--images", images, "--prompts", near),
    )
    command = ("choose", "--compare", *nearness, "--prompts", asked, "--budget-tflop", f"{budget:g}")
    found: dict[str, Any] = {}

    def written(name: str, *more: str | Path) -> dict[str, Any]:
        found[name] = json.loads(run(*command, "--seed", str(seed), *more, "--json"))
        content = {
            "command": f"python -m bench.choosing --captions {captions} --budget {budget:g} --seed {seed}",
            **provenance(PACKAGES, note),
            "prompts": f"lines of minizoo/prompts.txt with {WORD}: the first {len(lines[:LEARNED])} to learn "
            f"from, the last {len(asked.read_text('utf-8').splitlines())} to draw; none is in both",
            "commands": run.done,
            "metric": "nearness",
            **found,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return found[name]

    [model] = written("as they are")["models"]
    run("ingest", "datasets", images)
    run("ingest", "run", "--model", model, "--dataset", DATASET)
    [adapter] = sorted((home / "runs").rglob("pytorch_lora_weights.safetensors"))
    given = ["--adapter", f"{model}={adapter}"]
    if model == teacher:
        given += ["--adapter", f"{student}={adapter}"]
    written("with adapters", *given)


if __name__ == "__main__":
    main()
