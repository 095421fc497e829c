"""Does active measurement teach the predictor more per hour than other orders do? A replay of results.

On synthetic zoos, each with a seed of its own, whose models have a general standing and one that depends on
the kind of dataset, seen through noise, and cost 2 to 8 hours:

    python -m bench.active

On the recorded results of a graph, here of 164 text classifiers on up to 24 datasets (TransferGraph's public
records), whose times are not recorded, so that costs go by their size:

    matchgraph ingest models models.csv
    matchgraph ingest datasets datasets.csv
    matchgraph ingest results raw.csv --skip-bad --on-duplicate mean
    matchgraph ingest similarities similarities.csv --smaller-is-better
    python -m bench.active --home HOME --metric accuracy --name transfergraph-text

Everything is replayed with node2vec+ and a forest, which take a fraction of a second; the default is
node2vec in GDS and CatBoost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

import predictor.active
from bench.provenance import provenance
from graphdb.connection import Settings, connect
from graphdb.embedding import Node2VecConfig
from graphdb.metrics import KNOWN_METRICS
from graphdb.models import Dataset, Model, Snapshot
from graphdb.node2vecplus import Node2VecPlus
from graphdb.repository import MatchingGraph
from predictor.active import pair_hours, propose, restricted
from predictor.cli import load_costs
from predictor.matching import PaperMatcher
from predictor.metrics import Interval, bootstrap_interval
from predictor.ranker import ForestRanker
from predictor.replay import FIGURES, ORDERS, BudgetCurve, ReplayConfig, budget_curve

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "numpy", "scipy", "scikit-learn", "gensim")
WALKS = {"dimension": 32, "walk_length": 20, "walks_per_node": 10, "iterations": 1}
TREES = 100


def synthetic_zoo(
    seed: int,
    *,
    n_datasets: int = 24,
    n_models: int = 10,
    kinds: int = 5,
    dimensions: int = 3,
    general: float = 0.5,
    noise: float = 0.4,
) -> tuple[Snapshot, dict[str, float]]:
    """A zoo with known causes.

    Each dataset is a point near the centre of its kind, each model a direction; a model's loss falls where
    the dataset lies that way. Distances between datasets are known with noise, of the directions little more
    than a hint is among the models' features, and datasets differ in level and spread.

    Args:
        seed: of everything.
        n_datasets: datasets.
        n_models: models.
        kinds: kinds of datasets.
        dimensions: in which datasets differ.
        general: standard deviation of the models' standing anywhere; that on kinds of datasets is 1.
        noise: standard deviation of a single measurement, on the same scale.

    Returns:
        The graph with all results, and the hours that a fine-tuning of each model takes.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(kinds, size=n_datasets)
    points = rng.normal(size=(kinds, dimensions))[kind] + 0.4 * rng.normal(size=(n_datasets, dimensions))
    directions = rng.normal(size=(n_models, dimensions))
    standing = general * rng.normal(size=n_models)[:, None] + directions @ points.T / np.sqrt(dimensions)
    level, spread = 10 + 15 * rng.random(n_datasets), 3 * np.exp(0.5 * rng.normal(size=n_datasets))
    losses = np.maximum(level + spread * (standing + noise * rng.normal(size=standing.shape)), 0.1)
    models = [f"m{i:02d}" for i in range(n_models)]
    datasets = [f"d{j:02d}" for j in range(n_datasets)]
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    performs = [
        (model, dataset, losses[i, j], float("nan"))
        for i, model in enumerate(models)
        for j, dataset in enumerate(datasets)
    ]
    similar = [
        (datasets[i], datasets[j], apart[i, j] * np.exp(0.2 * rng.normal()) + 0.3 * rng.random())
        for i in range(n_datasets)
        for j in range(i + 1, n_datasets)
    ]
    hint = directions[:, 0] + 0.5 * rng.normal(size=n_models)
    snapshot = Snapshot(
        metric=KNOWN_METRICS["clip_fid"],
        models=tuple(
            Model(model, {"hint": float(hint[i]), "family": "ab"[int(directions[i, 1] > 0)]})
            for i, model in enumerate(models)
        ),
        datasets=tuple(Dataset(dataset, {}) for dataset in datasets),
        performs=pd.DataFrame(performs, columns=["model", "dataset", "value", "initial"]),
        similar=pd.DataFrame(similar, columns=["dataset", "other", "value"]),
        similarity=KNOWN_METRICS["clip_fid"],
    )
    hours = np.exp(rng.uniform(np.log(2), np.log(8), size=n_models))
    return snapshot, dict(zip(models, map(float, hours), strict=True))


def replay(snapshot: Snapshot, hours: Mapping[str, float], config: ReplayConfig) -> BudgetCurve:
    """One replay with the cheap parts; tells how far it is on stderr."""
    embedder = Node2VecPlus(Node2VecConfig(**WALKS, seed=config.seed))
    began = time.perf_counter()

    def follow(done: int, of: int, what: str) -> None:
        if what == "all results":
            click.echo(f"{done} of {of} trainings, {time.perf_counter() - began:.0f} s", err=True)

    matcher = PaperMatcher(embedder, ForestRanker(TREES, config.seed))
    return budget_curve(snapshot, hours, matcher, config, progress=follow)


def planning_seconds(snapshot: Snapshot, hours: Mapping[str, float]) -> float:
    """How long it takes to propose a tenth of everything, with half of the datasets measured."""
    half = {dataset.id for dataset in snapshot.datasets[::2]}
    known = restricted(snapshot, {model.id for model in snapshot.models}, half).performs
    began = time.perf_counter()
    budget = sum(hours.values()) * len(snapshot.datasets) / 10
    propose(Snapshot(**{**vars(snapshot), "performs": known}), hours, budget)
    return time.perf_counter() - began


def over_zoos(curves: Sequence[BudgetCurve]) -> list[dict[str, Any]]:
    """Figures and leads of each order at each budget, as means over zoos with intervals over zoos."""
    rows = []
    for position, order in enumerate(ORDERS):
        own = [curve.curves[position] for curve in curves]
        for index, point in enumerate(own[0].points):
            rows.append(
                {
                    "order": order.key,
                    "share": point.share,
                    **{
                        figure.key: told([curve.points[index].figures[figure.key].mean for curve in own])
                        for figure in FIGURES
                    },
                }
            )
        rows.append(
            {
                "order": order.key,
                "share": "mean of all budgets",
                "lead_over": {
                    other.key: {
                        figure.key: told([curve.lead[other.key][figure.key].mean for curve in own])
                        for figure in FIGURES
                    }
                    for other in ORDERS
                    if other is not order
                },
            }
        )
    return rows


def told(values: Sequence[float]) -> dict[str, float]:
    """A mean with its interval, rounded."""
    return rounded(bootstrap_interval(np.array(values)))


def rounded(interval: Interval) -> dict[str, float]:
    """An interval as JSON, rounded to what it can tell."""
    return {name: round(value, 3) for name, value in asdict(interval).items()}


def of_graph(curve: BudgetCurve) -> list[dict[str, Any]]:
    """The same rows for one graph, with intervals over its datasets."""
    rows = []
    for order in curve.curves:
        for point in order.points:
            figures = {key: rounded(interval) for key, interval in point.figures.items()}
            average = {key: rounded(interval) for key, interval in point.average_rank.items()}
            rows.append(
                {
                    "order": order.key,
                    "share": point.share,
                    "pairs": point.pairs,
                    **figures,
                    "average_rank": average,
                }
            )
        rows.append(
            {
                "order": order.key,
                "share": "mean of all budgets",
                "lead_over": {
                    key: {name: rounded(interval) for name, interval in lead.items()}
                    for key, lead in order.lead.items()
                },
            }
        )
    return rows


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="Data folder of a graph to replay instead.")
@click.option("--metric", default="clip_fid", show_default=True, help="Metric of that graph's results.")
@click.option("--name", default="synthetic", show_default=True, help="Names the file of results.")
@click.option("--zoos", default=8, show_default=True, help="Synthetic zoos.")
@click.option("--first-seed", default=100, show_default=True, help="Of the first of them.")
@click.option("--replays", default=3, show_default=True, help="Of a graph, each with a seed of its own.")
@click.option("--share-for-the-best", type=float, help="Instead of the product's; for comparison.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(
    home: Path | None,
    metric: str,
    name: str,
    zoos: int,
    first_seed: int,
    replays: int,
    share_for_the_best: float | None,
    note: str,
) -> None:
    """Print accuracy against budget and write bench/results/active-NAME.json; the graph stays as it is."""
    if share_for_the_best is not None:
        predictor.active.SHARE_FOR_THE_BEST = share_for_the_best
    began = time.perf_counter()
    if home is None:
        curves, planning = [], 0.0
        for seed in range(first_seed, first_seed + zoos):
            snapshot, hours = synthetic_zoo(seed)
            curves.append(replay(snapshot, hours, ReplayConfig(replays=1, seed=seed)))
            click.echo(f"zoo {seed}: {time.perf_counter() - began:.0f} s", err=True)
        planning = planning_seconds(snapshot, hours)
        rows, everything = over_zoos(curves), told([curve.everything["tau_w"].mean for curve in curves])
        source: dict[str, Any] = {"zoos": zoos, "first_seed": first_seed}
        basis = "2 to 8 hours, by model"
    else:
        with connect(Settings(home=home.resolve())) as runner:
            snapshot = MatchingGraph(runner).snapshot(metric)
            hours, basis = pair_hours(snapshot, load_costs(runner, snapshot, ""))
        curve = replay(snapshot, hours, ReplayConfig(replays=replays))
        curves, planning = [curve], planning_seconds(snapshot, hours)
        rows, everything = of_graph(curve), rounded(curve.everything["tau_w"])
        source = {"metric": metric, "replays": replays, "held_out": curve.datasets}
    result = {
        "command": "python -m bench.active "
        + (
            f"--home HOME --metric {metric} --name {name} --replays {replays}"
            if home
            else f"--zoos {zoos} --first-seed {first_seed} --name {name}"
        )
        + (f" --share-for-the-best {share_for_the_best}" if share_for_the_best is not None else ""),
        **provenance(PACKAGES, note),
        "source": {
            **source,
            "models": len(snapshot.models),
            "datasets": len(snapshot.datasets),
            "results": int(snapshot.performs["value"].notna().sum()),
            "costs": basis,
        },
        "share_for_the_best": predictor.active.SHARE_FOR_THE_BEST,
        "walks": WALKS,
        "ranker": {"name": "forest", "trees": TREES},
        "trainings": sum(curve.trainings for curve in curves),
        "seconds": round(time.perf_counter() - began),
        "planning_seconds": round(planning, 2),
        "tau_w_with_all_results": everything,
        "rows": rows,
    }
    for row in rows:
        click.echo(json.dumps(row))
    click.echo(f"{result['trainings']} trainings in {result['seconds']} s; all results: {everything}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"active-{name}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
