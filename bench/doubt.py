"""Whether it pays to doubt an estimate: caution about what is little known, and falling back on averages for
prompts unlike all known ones.

Caution lowers each estimate by a multiple of its standard error before candidates are compared. For the fall
back, prompts are divided by what they are about (k-means of their embeddings); each part in turn is kept from
the router, as if prompts had drifted there, and it is measured how many of them are told to be unfamiliar,
and how well the part is routed by estimates alone, by averages alone, and by the router, which falls back on
averages for those.

On a graph with scored prompts:

    MATCHGRAPH_HOME=HOME python -m bench.doubt --probe minizoo/probes/clip
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.provenance import provenance
from graphdb.connection import connect
from graphdb.prompts import PromptGraph, ScoreTable
from routing.curves import random_mixing, routed
from routing.estimators import GaussianQuality, NearestPrompts
from routing.evaluation import FOLDS, complete, rotated
from routing.router import Familiarity
from training.prompts import load_prompt_encoder

if TYPE_CHECKING:
    from routing.estimators import QualityEstimator
    from training.prompts import EncodedPrompts

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "numpy", "scikit-learn", "open_clip_torch")
CAUTIONS = (-0.5, 0.0, 0.25, 0.5, 1.0, 2.0)
NEIGHBOURS = 16
PARTS = 8


def area(estimates: np.ndarray, truth: np.ndarray, cost: np.ndarray) -> float:
    """Mean quality over all budgets."""
    return routed(estimates, truth, cost).area(float(cost.min()), float(cost.max()))


def cautious(table: ScoreTable, encoded: EncodedPrompts, seed: int) -> dict[str, dict[str, float]]:
    """Gain over random mixing by estimator and caution, every prompt being tested on once."""
    found: dict[str, dict[str, float]] = {}
    makers = {
        "gaussian": GaussianQuality.fit,
        "knn": lambda own: NearestPrompts(own, NEIGHBOURS),
    }
    for name, make in makers.items():
        quality, std = np.empty_like(table.mean), np.empty_like(table.mean)
        for turn in range(FOLDS):
            own = rotated(table, turn, FOLDS, seed)
            rows = own.rows("test")
            estimator: QualityEstimator = make(own)
            estimates = estimator.estimate(encoded.part(rows))
            quality[rows], std[rows] = estimates.quality, estimates.std
        mixing = random_mixing(table.mean, table.cost)
        least = mixing.area(float(table.cost.min()), float(table.cost.max()))
        found[name] = {
            str(caution): round(area(quality - caution * std, table.mean, table.cost) - least, 5)
            for caution in CAUTIONS
        }
    return found


def drifted(table: ScoreTable, encoded: EncodedPrompts, seed: int) -> list[dict[str, Any]]:
    """One row for each part of the prompts, kept from the router."""
    from sklearn.cluster import KMeans

    parts = KMeans(PARTS, n_init=10, random_state=seed).fit_predict(encoded.embeddings)
    generator = np.random.default_rng(seed)
    rows = []
    for part in range(PARTS):
        away, there = np.flatnonzero(parts == part), generator.permutation(np.flatnonzero(parts != part))
        names = dict.fromkeys(away, "test") | dict.fromkeys(there[: len(there) // 9], "validation")
        prompts = tuple(
            replace(prompt, split=names.get(row, "train")) for row, prompt in enumerate(table.prompts)
        )
        own = replace(table, prompts=prompts)
        process = GaussianQuality.fit(own)
        known = Familiarity.of(own, process.estimate(encoded.part(own.rows("validation"))).similarity)
        estimates = process.estimate(encoded.part(away))
        average = np.broadcast_to(known.average, estimates.quality.shape)
        unfamiliar = estimates.similarity < known.least_similarity
        mixed = np.where(unfamiliar[:, None], average, estimates.quality)
        truth = table.mean[away]
        rows.append(
            {
                "prompts": len(away),
                "unfamiliar": round(float(unfamiliar.mean()), 4),
                "by_estimates": round(area(estimates.quality, truth, table.cost), 5),
                "by_averages": round(area(average, truth, table.cost), 5),
                "by_router": round(area(mixed, truth, table.cost), 5),
            }
        )
    return rows


@click.command()
@click.option("--probe", required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(probe: str, seed: int, note: str) -> None:
    """Measure, and write bench/results/doubt.json."""
    with connect() as runner:
        graph = PromptGraph(runner)
        tables = [complete(graph.table(metric)) for metric in sorted(graph.metrics())]
    encoded = load_prompt_encoder(probe).encode([prompt.text for prompt in tables[0].prompts])
    rows = {
        table.metric: {
            "gain_by_caution": cautious(table, encoded, seed),
            "drift": drifted(table, encoded, seed),
        }
        for table in tables
    }
    click.echo(json.dumps(rows, indent=1))
    result = {
        "command": f"python -m bench.doubt --probe {probe} --seed {seed}",
        **provenance(PACKAGES, note),
        "prompts": len(tables[0].prompts),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "doubt.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
