"""Evaluations are computed once, kept fold by fold, and the same in other processes."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import matchgraph.report.variants as module
from matchgraph.graphdb.embedding import Node2VecConfig
from matchgraph.graphdb.node2vecplus import Node2VecPlus
from matchgraph.predictor.errors import ProcessEnded
from matchgraph.predictor.visibility import node_names, weighted_edges
from matchgraph.report.variants import (
    MAIN_VIEW,
    KeptEmbedder,
    Variant,
    Workplace,
    evaluate_variants,
    fold_as_json,
)

# What takes next to no time: no graph to embed, and no trees.
QUICK = Variant(features="node", ranker="svc")
GRAPH = replace(QUICK, features="all", embedder="node2vec+")


def place(snapshot, folder: Path, jobs: int = 1) -> Workplace:
    return Workplace({MAIN_VIEW: snapshot}, None, folder, jobs)


class Unreadable:
    """Ends the process that reads it, as a kill would."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The datasets of the folds that are really computed."""
    computed: list[str] = []
    real = module.evaluate_fold

    def counting(snapshot, dataset, *args, **options):
        computed.append(dataset)
        return real(snapshot, dataset, *args, **options)

    monkeypatch.setattr(module, "evaluate_fold", counting)
    return computed


def test_what_is_finished_is_not_computed_again(zoo, tmp_path: Path, counted: list[str]):
    snapshot = zoo(6, 3)
    told = []
    first = evaluate_variants([QUICK, QUICK], place(snapshot, tmp_path), None, lambda *n: told.append(n))
    assert len(counted) == 6
    assert told[0] == (0, 6)
    assert told[-1] == (6, 6)
    file = next(tmp_path.glob("*.jsonl"))
    lines = [line for line in file.read_text().splitlines() if line]
    # As if the power had gone in the middle of the last line.
    file.write_text("\n".join([*lines[:4], lines[4][:40]]))
    again = evaluate_variants([QUICK], place(snapshot, tmp_path), None)
    assert sorted(counted[6:]) == ["d04", "d05"]
    assert [fold_as_json(f) for f in again[QUICK].folds] == [fold_as_json(f) for f in first[QUICK].folds]
    # The torn line did not spoil what was written after it.
    evaluate_variants([QUICK], place(snapshot, tmp_path), None)
    assert len(counted) == 8


def test_another_graph_seed_or_method_is_computed_anew(zoo, tmp_path: Path, counted: list[str]):
    snapshot = zoo(3, 3)
    evaluate_variants([QUICK], place(snapshot, tmp_path), None)
    other = replace(snapshot, performs=snapshot.performs.assign(value=snapshot.performs["value"] + 1))
    evaluate_variants([QUICK], place(other, tmp_path), None)
    evaluate_variants([replace(QUICK, seed=1)], place(snapshot, tmp_path), None)
    evaluate_variants([replace(QUICK, removed=0.2)], place(snapshot, tmp_path), None)
    assert len(counted) == 12


def test_other_processes_compute_the_same(zoo, tmp_path: Path):
    snapshot = zoo(5, 3)
    here = evaluate_variants([QUICK], place(snapshot, tmp_path / "here"), None)[QUICK]
    there = evaluate_variants([QUICK], place(snapshot, tmp_path / "there", jobs=2), None)[QUICK]
    assert [fold_as_json(fold) for fold in there.folds] == [fold_as_json(fold) for fold in here.folds]
    assert there.method == here.method


def test_a_process_that_is_ended_is_a_clear_error_and_leaves_none_behind(zoo, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "graph_hash", lambda _: "x")
    unreadable = replace(zoo(3, 3), similarity=Unreadable())
    with pytest.raises(ProcessEnded, match="run the same command again"):
        evaluate_variants([QUICK], place(unreadable, tmp_path, jobs=2), None)
    assert not multiprocessing.active_children()


def test_a_variant_without_data_tells_why_and_leaves_the_others_alone(zoo, tmp_path: Path):
    snapshot = zoo(4, 3)
    alone = replace(snapshot, similar=snapshot.similar.iloc[:0], similarity=None)
    outcomes = evaluate_variants([GRAPH, QUICK], place(alone, tmp_path), None)
    assert "has a similarity" in outcomes[GRAPH].failure
    assert not outcomes[GRAPH].folds
    assert len(outcomes[QUICK].folds) == 4


def test_a_missing_library_is_the_business_of_its_own_row(zoo, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    variant = replace(QUICK, ranker="xgboost")
    assert "xgboost" in evaluate_variants([variant], place(zoo(4, 3), tmp_path), None)[variant].failure


def test_baselines_are_all_beside_the_recipe_and_few_beside_the_rest(zoo, tmp_path: Path):
    whole = Variant(embedder="node2vec+", features="node")
    fewer = replace(whole, removed=0.5)
    outcomes = evaluate_variants([whole, fewer], place(zoo(4, 3), tmp_path), None)
    assert {"direct", "neighbours", "random"} <= set(outcomes[whole].folds[0].scores)
    assert set(outcomes[fewer].folds[0].scores) == {"method", "average_rank", "average_value", "random"}


def test_embeddings_are_kept_by_content(zoo, tmp_path: Path):
    snapshot = zoo(4, 3)
    nodes, edges = node_names(snapshot), weighted_edges(snapshot)
    calls = []

    class Counting(Node2VecPlus):
        def embed(self, *args):
            calls.append(args)
            return super().embed(*args)

    def kept(seed: int = 0) -> KeptEmbedder:
        return KeptEmbedder(Counting(Node2VecConfig(dimension=4, walk_length=5, seed=seed)), tmp_path)

    first, again = kept().embed(nodes, edges), kept().embed(nodes[::-1], edges.iloc[::-1])
    assert len(calls) == 1
    assert all(np.array_equal(first[node], again[node]) for node in nodes)
    kept(seed=1).embed(nodes, edges)
    kept().embed(nodes, edges.assign(weight=edges["weight"] * 2))
    assert len(calls) == 3
