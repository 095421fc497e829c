"""A zoo whose best model depends on the kind of dataset, as a snapshot and in a real graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.embedding import Node2VecConfig
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Model, Result, Similar, Snapshot
from matchgraph.graphdb.node2vecplus import Node2VecPlus
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker


def clustered_snapshot(
    n_datasets: int = 18, n_models: int = 6, *, advantage: float = 4.0, noise: float = 0.3, seed: int = 0
) -> Snapshot:
    """Three kinds of datasets and of models: a model of the dataset's kind gains `advantage`, whatever its
    base loss.

    The kinds show in nothing but the distances between datasets and the results.
    """
    rng = np.random.default_rng(seed)
    datasets = [f"d{i:02d}" for i in range(n_datasets)]
    models = [f"m{i}" for i in range(n_models)]
    kind = np.arange(n_datasets) % 3
    base, level = rng.normal(size=n_models), 3 * rng.random(n_datasets)
    performs = [
        (
            model,
            dataset,
            20 + base[i] + level[j] - advantage * (i % 3 == kind[j]) + noise * rng.normal(),
            float("nan"),
        )
        for i, model in enumerate(models)
        for j, dataset in enumerate(datasets)
    ]
    similar = [
        (datasets[i], datasets[j], (1.0 if kind[i] == kind[j] else 9.0) + rng.random())
        for i in range(n_datasets)
        for j in range(i + 1, n_datasets)
    ]
    return Snapshot(
        metric=KNOWN_METRICS["clip_fid"],
        models=tuple(
            Model(model, {"params": 1 + i, "family": "ab"[i % 2]}) for i, model in enumerate(models)
        ),
        datasets=tuple(Dataset(dataset, {"images": int(rng.integers(50, 500))}) for dataset in datasets),
        performs=pd.DataFrame(performs, columns=["model", "dataset", "value", "initial"]),
        similar=pd.DataFrame(similar, columns=["dataset", "other", "value"]),
        similarity=KNOWN_METRICS["clip_fid"],
    )


def saved(graph: MatchingGraph, snapshot: Snapshot) -> None:
    """Bring a snapshot's content into a real graph."""
    metric = snapshot.metric.name
    graph.save_models(snapshot.models)
    graph.save_datasets(
        snapshot.datasets,
        similar=[Similar(row.dataset, row.other, metric, row.value) for row in snapshot.similar.itertuples()],
    )
    graph.save_results(
        [
            Result(
                row.model,
                row.dataset,
                metric,
                row.value,
                provenance={"training_seconds": 100.0 + len(row.dataset)},
            )
            for row in snapshot.performs.itertuples()
        ]
    )


@pytest.fixture
def zoo() -> Callable[..., Snapshot]:
    """Makes clustered snapshots."""
    return clustered_snapshot


@pytest.fixture
def save() -> Callable[[MatchingGraph, Snapshot], None]:
    """Saves a snapshot in a real graph."""
    return saved


@pytest.fixture
def embedder() -> Node2VecPlus:
    """A small embedder that needs no server."""
    return Node2VecPlus(Node2VecConfig(dimension=16, walk_length=20, walks_per_node=10, iterations=5))


@pytest.fixture
def ranker() -> CatBoostRanker:
    """The real ranker with few trees."""
    return CatBoostRanker(CatBoostConfig(iterations=15, depth=3))


@pytest.fixture
def matcher(embedder: Node2VecPlus, ranker: CatBoostRanker) -> PaperMatcher:
    """The paper's method with small parts, without a server."""
    return PaperMatcher(embedder, ranker)
