"""All three levels by one measure on the small zoo: nearness to the images of a dataset without results, as
the models are and with an adapter fine-tuned on the images.

    python -m bench.choosing --home HOME

The commands are those of a user, one after another, on a graph of its own for each dataset. What was measured
is kept in HOME, so that the same command goes on where it was interrupted. They and what `choose --compare`
says are written to `results/choosing.json`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from bench.provenance import provenance
from matchgraph.cli.main import matchgraph as cli
from matchgraph.minizoo import ROOT

RESULTS = Path(__file__).parent / "results" / "choosing.json"
PACKAGES = ("matchgraph", "torch", "diffusers", "numpy")
# A model with a student is predicted to be best for it: without a student there is no third level.
DATASET = "noto-food"
STUDENTS = {"tiny-sdxl-lcm": "tiny-sdxl", "tiny-sd3-lcm": "tiny-sd3"}
FINE_TUNING = (
    "--steps 150 --batch-size 16 --learning-rate 5e-4 --resolution 32 --samples 128 --sampling-steps 10"
)
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


def captions_of(dataset: str) -> tuple[list[str], list[str]]:
    """The captions of a dataset's images, and those of its category that it does not have, without styles."""
    lines = (ROOT / "datasets" / dataset / "metadata.jsonl").read_text("utf-8").splitlines()
    known = list(dict.fromkeys(json.loads(line)["text"] for line in lines))
    category = known[0].rpartition(", ")[2]
    prompts = (ROOT / "prompts.txt").read_text("utf-8").splitlines()
    plain = dict.fromkeys(prompt.rpartition(" style, ")[2] for prompt in prompts)
    return known, [each for each in plain if each.endswith(f", {category}") and each not in known]


def measured(home: Path, dataset: str, captions: int, budget: float, seed: int) -> dict[str, Any]:
    """What each level is worth for a dataset, with and without adapters."""
    home.mkdir(parents=True, exist_ok=True)
    images = ROOT / "datasets" / dataset
    run = Commands(
        {"MATCHGRAPH_HOME": str(home.resolve()), "MATCHGRAPH_PROBE": str(ROOT / "probes" / "clip")}
    )
    known, asked = captions_of(dataset)
    near, drawn = home / "near.txt", home / "asked.txt"
    near.write_text("\n".join(known), encoding="utf-8")
    drawn.write_text("\n".join(asked[:captions]), encoding="utf-8")
    nearness = ("--metric", "nearness", "--images", images)
    limit = ("--budget-tflop", f"{budget:g}")

    run("graph", "start")
    run("ingest", "records", without_prompts(home / "records"), "--without", dataset)
    for folder in ("models", "students"):
        run("ingest", "models", ROOT / folder, "--no-throughput")
    run("route", "prompts", near, "--largest-similarity", "1.01")
    models = [path.name for path in sorted((ROOT / "models").iterdir())]
    every = [word for model in models for word in ("--model", model)]
    run("route", "variants", "--steps", "2,4,10", "--guidance", "2", *every)
    for student in STUDENTS:
        run("route", "variants", "--steps", "2", "--guidance", "1", "--model", student)
    run("route", "score", *nearness, "--samples", "1", "--seed", str(seed))
    run("route", "fit", "--metric", "nearness")
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
    for student, teacher in STUDENTS.items():
        alone = ("--steps", "2", "--guidance", "1", "--prompts", near)
        run("collaborate", "calibrate", student, teacher, *alone, *nearness)
        run("collaborate", "tune", student, *limit, *tried, "--images", images, "--prompts", near)

    def chosen(*more: str) -> dict[str, Any]:
        asking = ("--prompts", drawn, *limit, "--seed", str(seed), *more)
        found: dict[str, Any] = json.loads(run("choose", "--compare", *nearness, *asking, "--json"))
        return found

    found = {"as they are": chosen()}
    [model] = found["as they are"]["models"]
    run("ingest", "datasets", images)
    tuning = (*FINE_TUNING.split(), "--guidance", "2", "--no-initial", "--seed", str(seed))
    run("ingest", "run", "--model", model, "--dataset", dataset, *tuning)
    [adapter] = sorted((home / "runs").rglob("pytorch_lora_weights.safetensors"))
    with_file = [model, *(student for student, teacher in STUDENTS.items() if teacher == model)]
    found["with adapters"] = chosen(*(w for name in with_file for w in ("--adapter", f"{name}={adapter}")))
    run("graph", "stop")
    return {
        "prompts": f"{len(known)} captions of the images to learn from; {len(asked[:captions])} further "
        "captions of their category to draw",
        "commands": run.done,
        **found,
    }


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path), help="Folder of this measurement.")
@click.option("--dataset", "datasets", multiple=True, default=[DATASET], show_default=True)
@click.option("--captions", default=47, show_default=True, help="To draw, at most.")
@click.option("--budget", default=0.0008, show_default=True, help="TFLOP of an image.")
@click.option("--seed", default=0, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with.")
def main(home: Path, datasets: Sequence[str], captions: int, budget: float, seed: int, note: str) -> None:
    """See the module."""
    found: dict[str, Any] = {}
    for name in datasets:
        found[name] = measured(home / name, name, captions, budget, seed)
        asked = " ".join(f"--dataset {each}" for each in found)
        settings = f"--captions {captions} --budget {budget:g} --seed {seed}"
        content = {
            "command": f"python -m bench.choosing {asked} {settings}",
            **provenance(PACKAGES, note),
            "metric": "nearness",
            "datasets": found,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
