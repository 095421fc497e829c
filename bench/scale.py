"""Time and memory of every stage from CSV files to a ranking, at 10^4, 10^5 and 10^6 recorded results.

The largest graph has 10,000 models, 1,000 datasets and 1,000,000 results, a tenth of all pairs; the smaller
ones are as dense, with a tenth and a hundredth of the results. Everything goes through the functions that
the commands call, on a managed server and in a data folder of this measurement's own. On a busy machine look
at the processor times; those of the server include what compiles its code.

    python -m bench.scale --home HOME
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import psutil

from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.models import Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.server.launch import heap_size
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.ingest.tables.datasets import ingest_dataset_table
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.ingest.tables.results import ingest_results
from matchgraph.ingest.tables.similarities import ingest_similarities

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.embedding import Embedder

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "graphdatascience", "catboost", "pandas", "numpy")
EDGES = (10_000, 100_000, 1_000_000)
# Ten models for each dataset and a tenth of the pairs measured make as many results as datasets squared.
MODELS_PER_DATASET = 10
DENSITY = 0.1
NEAREST = 20
KINDS = 8
LATENT = 16
EMBEDDING = 512
METRIC = "clip_fid"
FAMILIES = ("unet", "dit", "linear-dit", "mmdit", "flow")
# A stage whose work grows faster than this power of the number of results is said to bend.
BEND = 1.25
# Below this a stage is too short for its growth to mean anything.
LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Size:
    """How large a graph is.

    Attributes:
        edges: recorded results.
    """

    edges: int

    @property
    def datasets(self) -> int:
        """Number of datasets."""
        return math.isqrt(self.edges)

    @property
    def models(self) -> int:
        """Number of models."""
        return MODELS_PER_DATASET * self.datasets


def write_tables(folder: Path, size: Size, seed: int) -> None:
    """Write models.csv, datasets.csv, results.csv and similarities.csv of a synthetic zoo.

    A model suits some kinds of datasets more than others; datasets of one kind are near each other.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS, size=size.datasets)
    place = 4 * rng.normal(size=(KINDS, LATENT))[kind] + rng.normal(size=(size.datasets, LATENT))
    embedding = place @ rng.normal(size=(LATENT, EMBEDDING)) / LATENT
    quality, level = rng.normal(size=size.models), 3 * rng.random(size.datasets)
    taste = 2 * rng.normal(size=(size.models, KINDS))
    models, datasets = (
        [f"model-{i:05d}" for i in range(size.models)],
        [f"dataset-{i:04d}" for i in range(size.datasets)],
    )

    def write(name: str, header: Sequence[str], rows: Any) -> None:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header])
            csv.writer(file).writerows(rows)

    write(
        "models.csv",
        ("model", "family", "released", "params", "throughput", "transformer_num_layers", "unet_width"),
        (
            (name, FAMILIES[i % len(FAMILIES)], 2022 + i % 4, int(10 ** (7 + 3 * rng.random())),
             round(1 / (1 + quality[i] ** 2), 4), 8 + i % 40, 32 * (1 + i % 12))
            for i, name in enumerate(models)
        ),
    )  # fmt: skip
    write(
        "datasets.csv",
        ("dataset", "images", "style", *(f"e{i}" for i in range(EMBEDDING))),
        (
            (name, int(rng.integers(50, 5000)), f"style-{kind[j]}", *np.round(embedding[j], 5))
            for j, name in enumerate(datasets)
        ),
    )
    measured = round(DENSITY * size.models)

    def results() -> Any:
        left = size.edges
        for j, name in enumerate(datasets):
            share = left if j + 1 == size.datasets else min(measured, left)
            left -= share
            for i in rng.choice(size.models, share, replace=False):
                value = 30 + quality[i] + level[j] - taste[i, kind[j]] + 0.5 * rng.normal()
                yield models[i], name, METRIC, f"{value:.4f}", "finetuned"

    write("results.csv", ("model", "dataset", "metric", "value", "stage"), results())
    distance = ((place[:, None, :] - place[None, :, :]) ** 2).sum(axis=2)
    near = np.argsort(distance, axis=1)[:, 1 : NEAREST + 1]
    pairs = sorted({(min(i, int(j)), max(i, int(j))) for i in range(size.datasets) for j in near[i]})
    write(
        "similarities.csv",
        ("dataset", "other", "metric", "value"),
        ((datasets[i], datasets[j], METRIC, f"{distance[i, j]:.4f}") for i, j in pairs),
    )


class Recorder:
    """Wall time, processor time and peak memory of stages that follow each other.

    Args:
        server: process id of the database server.
    """

    def __init__(self, server: int) -> None:
        self._processes = {"command": psutil.Process(), "server": psutil.Process(server)}
        self.stages: dict[str, dict[str, float]] = {}
        self._began: tuple[str, float, dict[str, float]] | None = None

    def begin(self, stage: str) -> None:
        """End the stage before and begin this one."""
        self.end()
        for process in self._processes.values():
            # The kernel then starts the process's peak again at what it holds now.
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._began = (stage, time.perf_counter(), self._processor_times())

    def end(self) -> None:
        """End the stage."""
        if self._began is None:
            return
        stage, wall, processor = self._began
        row = {"seconds": round(time.perf_counter() - wall, 2)}
        for name, seconds in self._processor_times().items():
            row[f"{name}_cpu_seconds"] = round(seconds - processor[name], 2)
            row[f"{name}_peak_mib"] = peak_mib(self._processes[name].pid)
        self.stages[stage] = row
        self._began = None
        click.echo(f"  {stage}: {row}", err=True)

    def _processor_times(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: each.user + each.system for name, each in times.items()}


def peak_mib(process: int) -> int:
    """The most physical memory a process held since its peak was reset, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


class Staged:
    """An embedder that says which stage it is in."""

    def __init__(self, embedder: Embedder, recorder: Recorder, after: str) -> None:
        self.name = embedder.name
        self.config = embedder.config
        self._embedder, self._recorder, self._after = embedder, recorder, after

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `Embedder.embed`."""
        self._recorder.begin("project and embed")
        vectors = self._embedder.embed(nodes, edges)
        self._recorder.begin(self._after)
        return vectors


def measure(size: Size, home: Path, seed: int) -> dict[str, Any]:
    """Bring a synthetic zoo of this size in, and predict for one of its datasets."""
    from matchgraph.predictor.matching import predict
    from matchgraph.predictor.recipes import DEFAULT_RECIPE, build_recipe

    tables = home / "tables"
    tables.mkdir(parents=True)
    write_tables(tables, size, seed)
    load = os.getloadavg()[0]
    server = ManagedServer(home)
    try:
        with connect(Settings(home=home)) as runner:
            graph = MatchingGraph(runner)
            recorder = Recorder(server.running().pid)
            recorder.begin("import models")
            ingest_models(graph, tables / "models.csv")
            recorder.begin("import datasets")
            ingest_dataset_table(graph, tables / "datasets.csv")
            recorder.begin("import results")
            ingest_results(graph, tables / "results.csv")
            recorder.begin("import similarities")
            similar = len(ingest_similarities(graph, tables / "similarities.csv").similar)
            recorder.begin("record one more result")
            graph.save_results([Result("model-00000", "dataset-0000", METRIC, 25.0)])
            recorder.begin("read")
            snapshot = graph.snapshot(METRIC)
            recorder.begin("prepare the paper's recipe")
            paper = build_recipe("paper", runner, seed=seed)
            paper.embedder = Staged(paper.embedder, recorder, "learn and rank")
            prediction = predict(snapshot, "dataset-0001", paper)
            if paper.name != DEFAULT_RECIPE:
                recorder.begin("rank by the default recipe")
                predict(snapshot, "dataset-0001", build_recipe(DEFAULT_RECIPE, runner, seed=seed))
            recorder.end()
    finally:
        server.stop()
    return {
        "models": size.models,
        "datasets": size.datasets,
        "seed": seed,
        "results": len(snapshot.performs),
        "similarities": similar,
        "ranked": len(prediction.ranking),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "stages": recorder.stages,
        "total_seconds": round(sum(row["seconds"] for row in recorder.stages.values()), 1),
    }


def work(row: dict[str, float]) -> float:
    """Processor seconds of a stage: a busy machine stretches them little, and the wall time much."""
    return row["command_cpu_seconds"] + row["server_cpu_seconds"]


def growth(sizes: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """By stage, the power of the number of results with which its work grows, from each size to the next."""
    powers: dict[str, list[float | None]] = {}
    for stage in sizes[0]["stages"]:
        powers[stage] = []
        for before, after in pairwise(sizes):
            one, two = work(before["stages"][stage]), work(after["stages"][stage])
            more = math.log(after["results"] / before["results"])
            powers[stage].append(round(math.log(two / one) / more, 2) if one >= LEAST_SECONDS else None)
    return powers


def where_it_bends(sizes: Sequence[dict[str, Any]]) -> str:
    """Which stages take most, and which grow faster than the graph, in a sentence."""
    largest = sizes[-1]
    slow = sorted(largest["stages"].items(), key=lambda item: -work(item[1]))[:3]
    takes = ", ".join(f"{stage} ({work(row):.0f} s)" for stage, row in slow)
    text = f"At {largest['results']:,} results most processor time goes to {takes}"
    if len(sizes) > 1:
        bent = [
            f"{stage} (with the power {powers[-1]:.2f} of the number of results)"
            for stage, powers in growth(sizes).items()
            if powers[-1] is not None and powers[-1] > BEND
        ]
        text += f"; faster than the graph grows {', '.join(bent) or 'no stage'}"
    command, server = (
        max(row[f"{name}_peak_mib"] for row in largest["stages"].values()) / 1024
        for name in ("command", "server")
    )
    return f"{text}. The command holds at most {command:.1f} GiB, the server {server:.1f} GiB."


def report(sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is written."""
    return {
        "command": "python -m bench.scale --home HOME",
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "heap": heap_size(),
        },
        "versions": {package: version(package) for package in PACKAGES},
        "sizes": list(sizes),
        "growth": growth(sizes),
        "bends": where_it_bends(sizes),
    }


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path), help="An empty folder for the data.")
@click.option(
    "--edges",
    multiple=True,
    type=click.IntRange(100),
    default=EDGES,
    show_default=True,
    help="Recorded results. Other sizes stay in the file as they were measured.",
)
@click.option("--seed", default=0, show_default=True, help="Of the graph and of the prediction.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(home: Path, edges: tuple[int, ...], seed: int, note: str) -> None:
    """Measure each size in a process and on a server of its own, and write bench/results/scale.json."""
    file = RESULTS / "scale.json"
    sizes = json.loads(file.read_text())["sizes"] if file.exists() else []
    for count in sorted(edges):
        own = home.resolve() / str(count)
        click.echo(f"{count} results:", err=True)
        # In a new process, so that no size holds the memory that another one left.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = {**pool.apply(measure, (Size(count), own, seed)), "note": note}
        shutil.rmtree(own)
        sizes = sorted(
            [*(each for each in sizes if each["results"] != measured["results"]), measured],
            key=lambda each: each["results"],
        )
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(report(sizes), indent=2) + "\n")
    click.echo(json.dumps(report(sizes), indent=2))


if __name__ == "__main__":
    main()
