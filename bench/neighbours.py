"""Predicting with the distances to the nearest datasets alone: what it costs in accuracy, and what it saves.

`quality`: on the small zoo, the default method with all pairs of datasets, and with those among the k nearest
of either alone; every dataset held out once, paired. `speed`: graphs of many datasets of 512 dimensions, of
styles and kinds as image datasets are, each with its covariance in Neo4j; how long an answer for a new
dataset takes, of which the search, and how many distances it computes. The new dataset's features are given:
what a probe takes to look at its images is not measured here.

    python -m bench.neighbours --home HOME quality
    python -m bench.neighbours --home HOME speed --datasets 1000
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import psutil

from bench.provenance import provenance
from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.models import Dataset, MeasuredDataset, Model, Result, Similar, Statistics
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.ingest.tables.nearest import KnownSamples
from matchgraph.ingest.workflow import load_minizoo
from matchgraph.predictor.evaluation import METHOD, evaluate
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.workflow import load_snapshot, predict
from matchgraph.stats.intervals import mean_interval
from matchgraph.stats.permutation import paired_p_value
from matchgraph.training.measure.frechet import gaussian_statistics
from matchgraph.training.measure.scoring import Sample

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

RESULTS = Path(__file__).parent / "results" / "neighbours.json"
PACKAGES = ("matchgraph", "neo4j", "numpy", "scipy")
METRIC, EXTRACTOR = "clip_fid", "synthetic"
MODELS = 10
BLOCK = 20


def nearest_only(snapshot: Snapshot, count: int) -> Snapshot:
    """The graph with the distances among the nearest of either dataset alone."""
    similar = snapshot.similar
    kept = np.zeros(len(similar), dtype=bool)
    for dataset in {*similar["dataset"], *similar["other"]}:
        own = similar.index[(similar["dataset"] == dataset) | (similar["other"] == dataset)]
        kept[own[np.argsort(similar.loc[own, "value"].to_numpy(), kind="stable")[:count]]] = True
    return replace(snapshot, similar=similar[kept].reset_index(drop=True))


def measured_quality(graph: MatchingGraph, counts: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Accuracy with all pairs and with those of the nearest datasets, paired by held-out dataset."""
    method = Method(seed=seed)
    snapshot = load_snapshot(graph)

    def figures(own: Snapshot) -> dict[str, np.ndarray]:
        folds = evaluate(own, method.build(graph.runner), seed=seed).folds
        return {
            key: np.array([fold.scores[METHOD].figures[key] for fold in folds]) for key in ("tau_w", "osr")
        }

    full = figures(snapshot)
    rows = []
    for count in (None, *counts):
        own_snapshot = snapshot if count is None else nearest_only(snapshot, count)
        own = full if count is None else figures(own_snapshot)
        row: dict[str, Any] = {"nearest": count, "pairs": len(own_snapshot.similar)}
        for key, values in own.items():
            mean = mean_interval(values, seed=seed)
            row[key] = [round(each, 4) for each in (mean.value, mean.low, mean.high)]
            if count is not None:
                change = mean_interval(values - full[key], seed=seed)
                row[f"{key}_change"] = [round(each, 4) for each in (change.value, change.low, change.high)]
                row[f"{key}_p"] = round(paired_p_value(values, full[key], seed=seed), 4)
        rows.append(row)
        click.echo(json.dumps(row))
    return rows


class Zoo:
    """Synthetic datasets: a mean and a covariance of each style, of each kind, and of its own.

    Args:
        count: datasets.
        dimension: of the features.
        generator: what they are drawn from.
    """

    def __init__(self, count: int, dimension: int, generator: np.random.Generator) -> None:
        self._generator, self._dimension = generator, dimension
        self._styles, self._kinds = max(4, count // 50), 20
        self._scale = np.arange(1, dimension + 1) ** -0.5
        # Rotations near the identity: of one probe, the main directions of all datasets are alike.
        self._turns = [self._turn(0.05) for _ in range(self._styles)]
        self._places = {
            "style": generator.normal(size=(self._styles, dimension)) * self._scale,
            "kind": generator.normal(size=(self._kinds, dimension)) * self._scale * 0.7,
        }

    def _turn(self, angle: float) -> np.ndarray:
        noise = self._generator.normal(size=(self._dimension, self._dimension)) / np.sqrt(self._dimension)
        turn: np.ndarray = np.linalg.qr(np.eye(self._dimension) + angle * noise)[0]
        return turn

    def features(self, number: int) -> np.ndarray:
        """Features of a dataset's images, float64, (images, dimension)."""
        style, kind = number % self._styles, (number // self._styles) % self._kinds
        images = int(self._generator.integers(60, 1200))
        drawn = self._generator.normal(size=(images, self._dimension)) * self._scale
        own = 0.3 * self._generator.normal(size=self._dimension) * self._scale
        centre = self._places["style"][style] + self._places["kind"][kind] + own
        return drawn @ self._turns[style] + centre


def statistics(name: str, features: np.ndarray) -> Statistics:
    """Mean and covariance of features, as a dataset's."""
    found = gaussian_statistics(features)
    return Statistics(name, EXTRACTOR, "none", found.n, found.mean, found.covariance, (METRIC,))


def described(own: Statistics) -> Dataset:
    """The node of a dataset."""
    facts = {"extractor": EXTRACTOR, "n_real": own.n, "images": own.n}
    return Dataset(own.dataset, facts, tuple(own.mean.tolist()))


class NewFeatures:
    """A new dataset whose features are there already.

    Args:
        features: (images, d).
    """

    metric = METRIC

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self.seconds = 0.0
        self.computed = 0

    def measured(
        self,
        graph: MatchingGraph,
        known: Sequence[Dataset],  # noqa: ARG002
        on_progress: Any,  # noqa: ARG002
        *,
        save: bool = False,  # noqa: ARG002
    ) -> MeasuredDataset:
        """See `predictor.workflow.NewDataset`."""
        began = time.perf_counter()
        own = statistics("new", self._features)
        samples = KnownSamples(graph, EXTRACTOR)
        found = samples.nearest(Sample(gaussian_statistics(self._features)), NEIGHBOURS, without="new")
        self.seconds, self.computed = time.perf_counter() - began, len(samples._held)
        pairs = [
            Similar("new", other, METRIC, value, {"extractor": EXTRACTOR}) for other, value in found.items()
        ]
        return MeasuredDataset(described(own), (own,), tuple(pairs), {EXTRACTOR: set(samples)})


def fill(graph: MatchingGraph, zoo: Zoo, count: int) -> None:
    """Datasets with statistics, the distances to their nearest ones, and results of ten models on each."""
    graph.clear()
    graph.save_models([Model(f"m{number}", {"tflop": number + 1.0}) for number in range(MODELS)])
    began = time.perf_counter()
    means = np.zeros((count, 0))
    for start in range(0, count, BLOCK):
        block = [statistics(f"d{n:05d}", zoo.features(n)) for n in range(start, min(start + BLOCK, count))]
        graph.save_datasets([described(own) for own in block], block)
        if not start:
            means = np.zeros((count, block[0].dimension))
        means[start : start + len(block)] = [own.mean for own in block]
        if start % 200 == 0:
            click.echo(f"{start + len(block):,} datasets: {time.perf_counter() - began:.0f} s", err=True)
    skill = np.random.default_rng(1).normal(size=(MODELS, means.shape[1]))
    graph.save_results(
        [
            Result(f"m{model}", f"d{number:05d}", METRIC, float(np.exp(0.1 * skill[model] @ means[number])))
            for number in range(count)
            for model in range(MODELS)
        ]
    )
    # Of the pairs, those of the nearest means stand for what ingestion would have kept.
    pairs: dict[tuple[int, int], float] = {}
    for number in range(count):
        apart = np.sum((means - means[number]) ** 2, axis=1)
        for other in np.argsort(apart)[1 : NEIGHBOURS + 1]:
            pairs[min(number, int(other)), max(number, int(other))] = float(apart[other])
    graph.save_similarities(
        [
            Similar(f"d{one:05d}", f"d{other:05d}", METRIC, value, {"extractor": EXTRACTOR})
            for (one, other), value in pairs.items()
        ]
    )


def processor_seconds(processes: Sequence[psutil.Process]) -> list[float]:
    """Processor time of each process so far."""
    return [own.user + own.system for own in (process.cpu_times() for process in processes)]


@click.group()
@click.option("--home", type=click.Path(path_type=Path), required=True, help="Its graph is lost.")
@click.option("--seed", default=0, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
@click.pass_context
def main(ctx: click.Context, home: Path, seed: int, note: str) -> None:
    """Measure, and write bench/results/neighbours.json."""
    ctx.obj = {"home": home, "seed": seed, "note": note}


@main.command()
@click.option("--nearest", "counts", multiple=True, type=int, default=(4, 8, 16), show_default=True)
@click.pass_obj
def quality(given: dict[str, Any], counts: Sequence[int]) -> None:
    """Accuracy on the small zoo with the nearest datasets alone."""
    with connect(Settings(home=given["home"].resolve())) as runner:
        graph = MatchingGraph(runner)
        graph.clear()
        load_minizoo(graph)
        rows = measured_quality(graph, counts, given["seed"])
    record("quality", rows, given)


@main.command()
@click.option("--datasets", "total", default=1_000, show_default=True)
@click.option("--dimension", default=512, show_default=True)
@click.option("--queries", default=5, show_default=True)
@click.option("--keep", is_flag=True, help="The graph is there from an earlier call of the same seed.")
@click.pass_obj
def speed(given: dict[str, Any], total: int, dimension: int, queries: int, keep: bool) -> None:
    """Time of an answer in a graph of many datasets."""
    zoo = Zoo(total, dimension, np.random.default_rng(given["seed"]))
    asked = [zoo.features(7 * number + 3) for number in range(queries)]
    rows = []
    with connect(Settings(home=given["home"].resolve())) as runner:
        graph = MatchingGraph(runner)
        if not keep:
            fill(graph, zoo, total)
        state = ManagedServer(given["home"].resolve()).running()
        assert state is not None
        processes = psutil.Process(), psutil.Process(state.pid)
        for features in asked:
            new = NewFeatures(features)
            began, before = time.perf_counter(), processor_seconds(processes)
            predict(graph, new)
            taken = np.subtract(processor_seconds(processes), before)
            row = {
                "seconds": time.perf_counter() - began,
                "processor_seconds": float(taken[0]),
                "server_processor_seconds": float(taken[1]),
                "search_seconds": new.seconds,
                "distances": new.computed,
            }
            rows.append({key: round(value, 2) for key, value in row.items()})
            click.echo(json.dumps(rows[-1]))
    record(f"speed at {total} datasets of {dimension} dimensions", rows, given)


def record(part: str, rows: Sequence[dict[str, Any]], given: dict[str, Any]) -> None:
    """Write one part of the results; the others stay."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    name = part.split()[0]
    found[part] = {
        "command": f"python -m bench.neighbours --home HOME --seed {given['seed']} {name}",
        **provenance(PACKAGES, given["note"]),
        "rows": list(rows),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
