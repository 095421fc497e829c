"""Fitted routers come back as they were kept, or are refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from matchgraph.routing.chances import Errors
from matchgraph.routing.errors import NotFitted, UnusableEstimator
from matchgraph.routing.estimators import NearestInGraph, NearestPrompts
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.process import GaussianQuality
from matchgraph.routing.store import Fitted, RouterStore
from tests.routing import circle

FITTED = Fitted("clip_score", "knn", "probe", ("m-1", "m-4", "m-20"), (0.5, None, 0.7), 0.8, 5, 0.01, 3.0)


@pytest.fixture
def store(tmp_path: Path) -> RouterStore:
    return RouterStore(tmp_path)


def test_what_is_kept_comes_back(store: RouterStore) -> None:
    path = store.save(FITTED)
    assert path.name == "clip_score.json"
    assert store.load("clip_score") == FITTED
    router = store.router(FITTED, circle.Graph(circle.table(40)), circle.Encoder(), exact=True)
    assert {option.p_best for option in router.decide(["1.0"])[0].options} == {None}
    store.save(FITTED, errors=Errors(FITTED.variants, np.zeros((10, 3))))
    router = store.router(FITTED, circle.Graph(circle.table(40)), circle.Encoder(), exact=True)
    assert sum(option.p_best or 0 for option in router.decide(["1.0"])[0].options) == pytest.approx(1)
    store.save(replace(FITTED, metric="aesthetic"))
    assert store.metrics() == ["aesthetic", "clip_score"]


def test_each_kind_has_its_estimator(store: RouterStore) -> None:
    table = circle.table(40)
    graph = circle.Graph(table)
    assert isinstance(store.estimator(FITTED, graph), NearestInGraph)
    assert isinstance(store.estimator(FITTED, graph, exact=True), NearestPrompts)
    encoded = circle.Encoder().encode([prompt.text for prompt in table.prompts])
    for kind, made in (
        ("gaussian", GaussianQuality.fit(table)),
        ("network", TokenQuality.fit(table, encoded, epochs=1)),
    ):
        fitted = replace(FITTED, kind=kind)
        store.save(fitted, made)
        read = store.estimator(fitted, graph)
        assert type(read) is type(made)
        assert read.estimate(encoded).quality == pytest.approx(made.estimate(encoded).quality)


def test_a_router_has_the_graphs_candidates_and_the_averages_of_those_it_knows(store: RouterStore) -> None:
    graph = circle.Graph(circle.table(40))
    new = replace(circle.VARIANTS[0], id="new")
    graph.scores = replace(graph.scores, variants=(new, *circle.VARIANTS[:2]), mean=graph.scores.mean)
    router = store.router(FITTED, graph, circle.Encoder(), exact=True)
    assert [variant.id for variant in router.variants] == ["new", "m-1", "m-4"]
    assert (router.lam, router.metric) == (0.01, "clip_score")
    [far] = router.decide(["4.5"])
    assert far.basis == "average"
    assert [option.quality for option in far.options] == [None, 0.5, None]


def test_prompts_are_read_by_the_clip_of_the_fit(store: RouterStore) -> None:
    other = SimpleNamespace(hash="another")
    with pytest.raises(UnusableEstimator, match="read by probe, not by another"):
        store.router(FITTED, circle.Graph(circle.table(40)), other)


def test_what_is_missing_or_broken_is_named(store: RouterStore) -> None:
    with pytest.raises(NotFitted, match="route fit"):
        store.load("clip_score")
    path = store.save(FITTED)
    with pytest.raises(NotFitted, match="Fitted are: clip_score"):
        store.load("sharpness")
    values = json.loads(path.read_text())
    for broken in ("{", json.dumps({**values, "colour": 1}), json.dumps({"metric": "clip_score"})):
        path.write_text(broken)
        with pytest.raises(UnusableEstimator, match=r"clip_score\.json cannot be read"):
            store.load("clip_score")
