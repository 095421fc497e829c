"""A small graph for the page: models, datasets and results, with names that are others' text."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Dataset, Model, Result, Similar
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ui.desk import Desk

HOSTILE = "<img src=x onerror=document.title='hacked'>"
MODELS = {"good": 1.0, "fair": 1.5, HOSTILE: 3.0}
DATASETS = [f"d{number}" for number in range(4)]


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    """Three models on four datasets, and the dataset `new` without results."""
    graph.save_models([Model(name) for name in MODELS])
    names = [*DATASETS, "new"]
    graph.save_datasets([Dataset(name) for name in names])
    graph.save_similarities(
        [Similar(a, b, "clip_fid", 1.0 + len(a + b)) for a in names for b in names if a < b]
    )
    graph.save_results(
        [
            Result(model, dataset, "clip_fid", 10 * value + number)
            for model, value in MODELS.items()
            for number, dataset in enumerate(DATASETS)
        ]
    )
    return graph


@pytest.fixture
def desk(zoo: MatchingGraph, tmp_path: Path) -> Desk:
    """The services of a page on that graph, with a data folder of its own."""
    return Desk(zoo.runner, Settings(home=tmp_path / "home"))
