"""Time of whole commands: `--help`, `predict` on a known dataset and on 200 images, with the server up.

`first` is without the rankings that the data folder keeps, `again` with them. Processor seconds are those of
the command and its threads, not the server's; on a busy machine they say more than the wall time.

Run after `make demo`, whose graph it asks:

    python -m bench.commands --home .demo --probe minizoo/clip --images minizoo/datasets
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import click

from matchgraph.predictor.remembered import FOLDER

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "matchgraph",
    "neo4j",
    "graphdatascience",
    "torch",
    "open_clip_torch",
    "catboost",
    "click",
    "numpy",
)


def time_command(
    arguments: list[str], environment: dict[str, str], runs: int, forget: Path | None = None
) -> dict[str, object]:
    """Time one command line from outside, after one run that is not counted.

    Args:
        arguments: the command line after `matchgraph`.
        environment: variables beside those of this process.
        runs: counted runs.
        forget: a folder that is removed before each run.

    Returns:
        Minimum, median and maximum wall time, and the median processor time, in seconds.
    """
    command = [sys.executable, "-c", "from matchgraph.cli.main import main; main()", *arguments]
    seconds, busy = [], []
    for _ in range(runs + 1):
        if forget:
            shutil.rmtree(forget, ignore_errors=True)
        began, used = time.perf_counter(), _processor_seconds()
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
        busy.append(_processor_seconds() - used)
    counted = seconds[1:]
    return {
        "runs": runs,
        "min_s": round(min(counted), 3),
        "median_s": round(statistics.median(counted), 3),
        "max_s": round(max(counted), 3),
        "median_processor_s": round(statistics.median(busy[1:]), 3),
    }


def _processor_seconds() -> float:
    """Processor time of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def gather_images(source: Path, target: Path, count: int) -> int:
    """Copy the first `count` PNG images below `source`, in the order of their paths, into one folder."""
    for number, image in enumerate(sorted(source.rglob("*.png"))[:count]):
        shutil.copy(image, target / f"{number:04d}.png")
    return len(list(target.iterdir()))


@click.command()
@click.option(
    "--home", required=True, type=click.Path(path_type=Path), help="Data folder of the graph to ask."
)
@click.option("--probe", required=True, help="Probe model that the graph was made with.")
@click.option(
    "--images", required=True, type=click.Path(path_type=Path), help="Folder to take 200 PNG images from."
)
@click.option("--dataset", default="noto-food", show_default=True, help="A dataset of the graph.")
@click.option("--runs", default=5, show_default=True, help="Counted runs of each command.")
def main(home: Path, probe: str, images: Path, dataset: str, runs: int) -> None:
    """Time the commands and write bench/results/commands.json."""
    environment = {"MATCHGRAPH_HOME": str(home.resolve()), "MATCHGRAPH_PROBE": probe}
    with tempfile.TemporaryDirectory() as folder:
        count = gather_images(images, Path(folder), 200)
        known, rankings = ["predict", dataset, "--json"], home.resolve() / FOLDER
        result = {
            "command": "python -m bench.commands " + " ".join(sys.argv[1:]),
            "machine": {
                "cpus": os.cpu_count(),
                "system": platform.system(),
                "python": platform.python_version(),
            },
            "versions": {name: version(name) for name in PACKAGES},
            "matchgraph --help": time_command(["--help"], environment, runs),
            "matchgraph predict DATASET, first": time_command(known, environment, runs, rankings),
            "matchgraph predict DATASET, again": time_command(known, environment, runs),
            f"matchgraph predict FOLDER ({count} images), first": time_command(
                ["predict", folder, "--json"], environment, runs, rankings
            ),
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "commands.json").write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
