"""Train all parts of the ten models one after another: `python -m matchgraph.minizoo.build.driver`.

Each stage is a process of its own that goes on from its newest checkpoint in `minizoo/work`, so the driver
can be ended at any moment and started again. Models are trained in rounds, so that all ten can be looked at
long before the last is finished.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.icons import WORK

logger = logging.getLogger(__name__)

DONE = WORK / "done"


@dataclass(frozen=True)
class Stage:
    """One process of the whole training.

    Attributes:
        name: marks it done.
        module: of `minizoo`, run with `python -m`.
        arguments: its command line.
    """

    name: str
    module: str
    arguments: tuple[str, ...]


def stages() -> list[Stage]:
    """All stages in the order in which they build on one another."""
    order: list[Stage] = []

    def shared(module: str, *names: str) -> None:
        order.extend(Stage(f"{module}-{name}", f"minizoo.{module}", (name,)) for name in names)

    def models(share: str, *names: str) -> None:
        order.extend(
            Stage(f"{name}-{share}", "matchgraph.minizoo.build.zoo", (name, "--until", share))
            for name in (f"tiny-{name}" for name in names)
        )

    shared("autoencoders", "kl", "dc")
    shared("towers", "clip", "t5", "glm", "gemma")
    shared("probes", "dinov2", "siglip")
    # To where the learning rate begins to fall, so that all ten can be looked at before any is settled.
    models("0.75", "sd15", "sdxl", "sd3", "pixart", "kolors", "flux-pro", "sana-small", "sana-large")
    models("1.0", "sdxl", "juggernaut", "vega", "flux-pro", "flux")
    models("1.0", "sd15", "sd3", "pixart", "kolors", "sana-small", "sana-large")
    return order


def run(order: Sequence[Stage], done: Path = DONE) -> None:
    """Run the stages that are not done yet.

    Args:
        order: all stages.
        done: a folder that gets an empty file for each finished stage.

    Raises:
        subprocess.CalledProcessError: a stage failed; its log, `<stage>.log` in the work folder, says why.
    """
    done.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(order, start=1):
        if (done / stage.name).exists():
            continue
        logger.info("%d of %d: %s", number, len(order), stage.name)
        began = time.monotonic()
        with (WORK / f"{stage.name}.log").open("a", encoding="utf-8") as log:
            command = [sys.executable, "-m", stage.module, *stage.arguments]
            subprocess.run(command, cwd=ROOT.parent, stdout=log, stderr=log, check=True)
        (done / stage.name).touch()
        logger.info("%s took %.0f s", stage.name, time.monotonic() - began)


def main() -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description="Train all parts of the ten models, one after another.")
    parser.add_argument(
        "stage",
        nargs="*",
        help="do only these, in this order; two drivers of different stages can go side by side",
    )
    parser.add_argument(
        "--list", action="store_true", help="say what is done and what is to do, train nothing"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.list:
        for stage in stages():
            logger.info("%s %s", "done " if (DONE / stage.name).exists() else "to do", stage.name)
        return
    by_name = {stage.name: stage for stage in stages()}
    for name in set(arguments.stage) - set(by_name):
        parser.error(f"no stage is called {name}; --list shows them")
    run([by_name[name] for name in arguments.stage] or stages())


if __name__ == "__main__":
    main()
