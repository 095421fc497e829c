"""py2neo on the same graph, where it is installed and where it is not."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.errors import GraphError, MissingOptionalDependency
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.py2neo_bridge import py2neo_graph
from matchgraph.graphdb.repository import MatchingGraph


def test_both_see_what_either_writes(graph: MatchingGraph, settings: Settings) -> None:
    pytest.importorskip("py2neo")
    graph.save_models([Model("ours `", {"sizes": [1.5, 2.0]})])
    bridge = py2neo_graph(settings)
    node = bridge.nodes.match("Model").first()
    # `matchgraph_name` is the caption in Neo4j Browser.
    assert dict(node) == {"id": "ours `", "sizes": [1.5, 2.0], "matchgraph_name": "ours `"}
    transaction = bridge.begin()
    transaction.run("MERGE (m:MatchGraphModel:Model {id: $id})", id="theirs")
    bridge.commit(transaction)
    assert [model.id for model in graph.models()] == ["ours `", "theirs"]


def test_without_py2neo_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "py2neo" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(MissingOptionalDependency, match=r"pip install 'matchgraph\[py2neo\]'") as caught:
        py2neo_graph(settings)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, GraphError)
