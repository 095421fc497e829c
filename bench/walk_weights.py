"""How the weights of edges and the passes over the walks bear on predictions.

On zoos whose best model depends on the kind of dataset, and whose kinds show in nothing but distances and
results, so that accuracy comes out of the walks alone:

    python -m bench.walk_weights --home .demo
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from graphdb.connection import Settings, connect
from graphdb.embedding import Embedder, GdsNode2Vec, Node2VecConfig
from graphdb.weights import SHARPNESS
from predictor.baselines import BASELINES
from predictor.evaluation import evaluate
from predictor.matching import PaperMatcher
from predictor.ranker import CatBoostConfig, CatBoostRanker
from predictor.recipes import WALKS
from predictor.visibility import loss_matrix
from tests.predictor.conftest import clustered_snapshot

if TYPE_CHECKING:
    import pandas as pd

    from graphdb.models import Snapshot

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "graphdatascience", "catboost", "numpy")
ITERATIONS = (1, 3, 10)
TREES = 30
DEPTH = 4


def by_median(values: np.ndarray, sharpness: float = 1.0, power: float = 1.0) -> np.ndarray:
    """exp(-sharpness (d / median d)^power)."""
    return np.exp(-sharpness * (values / np.median(values)) ** power)


# Weights of SIMILAR edges from their distances, and of PERFORMS edges from values and from ranks within their
# dataset as fractions; None for the weights that predictions use.
Form = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], np.ndarray]] | None
FORMS: dict[str, Form] = {
    "exp(-d/median), d of values": (by_median, lambda values, _: by_median(values)),
    "exp(-d/median), d of values and ranks": (by_median, lambda _, ranks: np.exp(-2 * ranks)),
    "exp(-3 d/median), exp(-3 rank)": (lambda d: by_median(d, 3), lambda _, ranks: np.exp(-3 * ranks)),
    "exp(-3 (d/median)^2), exp(-3 rank)": (
        lambda d: by_median(d, 3, 2),
        lambda _, ranks: np.exp(-3 * ranks),
    ),
    f"chosen: exp(-{SHARPNESS:g} d/median), exp(-{SHARPNESS:g} rank)": None,
}


class Reweighted:
    """An embedder that gives the edges it gets weights of another form, and takes the time.

    Args:
        embedder: that does the work.
        snapshot: where the edges' values are.
        form: the weights.
    """

    name = "reweighted"

    def __init__(self, embedder: Embedder, snapshot: Snapshot, form: Form) -> None:
        self.seconds: list[float] = []
        self._embedder, self._form = embedder, form
        similar, matrix = snapshot.similar, loss_matrix(snapshot)
        self._distances = {
            (f"dataset:{row.dataset}", f"dataset:{row.other}"): row.value for row in similar.itertuples()
        }
        ranks = matrix.scaled_ranks()
        self._results = {
            (f"model:{model}", f"dataset:{dataset}"): (matrix.losses[i, j], ranks[i, j])
            for i, model in enumerate(matrix.models)
            for j, dataset in enumerate(matrix.datasets)
        }

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `Embedder.embed`; hidden edges are not among `edges`, so their values are not read."""
        if self._form is not None:
            edges = edges.assign(weight=self._weights(edges, *self._form))
        began = time.perf_counter()
        vectors = self._embedder.embed(nodes, edges)
        self.seconds.append(time.perf_counter() - began)
        return vectors

    def _weights(
        self,
        edges: pd.DataFrame,
        of_similarities: Callable[[np.ndarray], np.ndarray],
        of_results: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        pairs = list(zip(edges["source"], edges["target"], strict=True))
        alike = np.array([pair in self._distances for pair in pairs])
        distances = np.array([self._distances[pair] for pair in pairs if pair in self._distances])
        values, ranks = np.array([self._results[pair] for pair in pairs if pair in self._results]).T
        weights = np.empty(len(pairs))
        weights[alike], weights[~alike] = of_similarities(distances), of_results(values, ranks)
        return weights


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path), help="Data folder of the server.")
@click.option("--seeds", default=3, show_default=True, help="Zoos, each with its own seed.")
@click.option("--first-seed", default=10, show_default=True, help="Seed of the first zoo.")
@click.option("--datasets", default=12, show_default=True, help="Datasets of a zoo, each held out once.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(home: Path, seeds: int, first_seed: int, datasets: int, note: str) -> None:
    """Print a table and write bench/results/walk_weights.json. Nothing is stored in the graph."""
    rows = []
    zoos = list(range(first_seed, first_seed + seeds))
    with connect(Settings(home=home.resolve())) as runner:
        for (name, form), iterations in product(FORMS.items(), ITERATIONS):
            taus, seconds, overall = [], [], []
            for seed in zoos:
                snapshot = clustered_snapshot(n_datasets=datasets, seed=seed)
                walks = replace(Node2VecConfig(**WALKS), iterations=iterations, seed=seed)
                embedder = Reweighted(GdsNode2Vec(runner, walks), snapshot, form)
                ranker = CatBoostRanker(CatBoostConfig(iterations=TREES, depth=DEPTH, seed=seed))
                evaluation = evaluate(snapshot, PaperMatcher(embedder, ranker), baselines=BASELINES[:1])
                own, average = evaluation.summaries
                taus.append(own.figures["tau_w"].mean)
                overall.append(average.figures["tau_w"].mean)
                seconds += embedder.seconds
            row = {
                "weights": name,
                "iterations": iterations,
                "tau_w": round(float(np.mean(taus)), 3),
                "tau_w_by_seed": [round(tau, 3) for tau in taus],
                "tau_w_average_rank": round(float(np.mean(overall)), 3),
                "embed_median_s": round(float(np.median(seconds)), 3),
            }
            rows.append(row)
            click.echo(
                f"{name:42} {iterations:3}  tau_w {row['tau_w']:6.3f} {row['tau_w_by_seed']}  "
                f"average rank {row['tau_w_average_rank']:6.3f}  {row['embed_median_s']:.3f} s"
            )
        gds = runner.read("RETURN gds.version() AS version")[0]["version"]
    result = {
        "command": f"python -m bench.walk_weights --home HOME --seeds {seeds} --first-seed {first_seed} "
        f"--datasets {datasets}",
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "note": note,
        },
        "versions": {"gds": gds, **{package: version(package) for package in PACKAGES}},
        "zoo": {"datasets": datasets, "models": 6, "seeds": zoos},
        "walks": {
            **WALKS,
            "iterations": list(ITERATIONS),
            "positive_sampling_factor": walks.positive_sampling_factor,
        },
        "ranker": {"name": "catboost", "trees": TREES, "depth": DEPTH},
        "rows": rows,
    }
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    click.echo(f"Zoos of seeds {zoos}; {versions}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "walk_weights.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
