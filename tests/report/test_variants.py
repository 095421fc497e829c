"""Evaluations are computed once, kept fold by fold, and the same in other processes."""

from __future__ import annotations

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
    MethodVariant,
    Results,
    Workplace,
    evaluate_variants,
)

# What takes next to no time: no graph to embed, and no trees.
QUICK = MethodVariant(features="node", ranker="svc")
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


@pytest.mark.filterwarnings("ignore:Exception while loading results")
def test_a_fold_is_computed_once_for_its_graph_variant_and_versions(
    zoo, tmp_path: Path, counted: list[str], monkeypatch
):
    snapshot = zoo(4, 3)
    seen = []
    first = evaluate_variants([QUICK, QUICK], place(snapshot, tmp_path), None, lambda *n: seen.append(n))
    assert len(counted) == 4
    assert seen == [(done, 4) for done in range(5)]
    assert evaluate_variants([QUICK], place(snapshot, tmp_path), None) == first
    assert len(counted) == 4
    # As if the power had gone while one was written.
    next(tmp_path.glob("**/output.pkl")).write_bytes(b"\x80")
    assert evaluate_variants([QUICK], place(snapshot, tmp_path), None) == first
    assert len(counted) == 5

    other = replace(snapshot, performs=snapshot.performs.assign(value=snapshot.performs["value"] + 1))
    evaluate_variants([QUICK], place(other, tmp_path), None)
    evaluate_variants([replace(QUICK, seed=1), replace(QUICK, removed=0.2)], place(snapshot, tmp_path), None)
    assert len(counted) == 5 + 3 * 4
    monkeypatch.setattr(module, "versions", lambda: {"numpy": "another"})
    evaluate_variants([QUICK], place(snapshot, tmp_path), None)
    assert len(counted) == 5 + 4 * 4


def test_what_was_finished_before_an_interruption_or_an_error_is_kept(
    zoo, tmp_path: Path, counted: list[str], monkeypatch
):
    counting = module.evaluate_fold
    for error in (KeyboardInterrupt, ZeroDivisionError):

        def failing(snapshot, dataset, *args, error=error, **options):
            if dataset == "d03":
                raise error
            return counting(snapshot, dataset, *args, **options)

        monkeypatch.setattr(module, "evaluate_fold", failing)
        with pytest.raises(error) as failure:
            evaluate_variants([QUICK], place(zoo(5, 3), tmp_path), None)
    # The error says which fold of which variant it is about.
    assert "'d03' with MethodVariant(" in failure.value.__notes__[0]
    assert "ranker='svc'" in failure.value.__notes__[0]
    monkeypatch.setattr(module, "evaluate_fold", counting)
    evaluate_variants([QUICK], place(zoo(5, 3), tmp_path), None)
    assert sorted(counted) == ["d00", "d01", "d02", "d03", "d04"]


@pytest.mark.slow
def test_other_processes_compute_the_same_and_name_their_errors(zoo, tmp_path: Path):
    snapshot = zoo(5, 3)
    here = evaluate_variants([QUICK], place(snapshot, tmp_path / "here"), None)
    assert evaluate_variants([QUICK], place(snapshot, tmp_path / "there", jobs=2), None) == here
    # What they finished is found by this process.
    assert len(list((tmp_path / "there").glob("**/output.pkl"))) == 5

    broken = replace(snapshot, performs=snapshot.performs.drop(columns="initial").assign(initial="none"))
    with pytest.raises(ValueError, match="none") as failure:
        evaluate_variants([QUICK], place(broken, tmp_path / "broken", jobs=2), None)
    assert any("ranker='svc'" in note for note in failure.value.__notes__)


def test_a_process_that_is_ended_is_a_clear_error(zoo, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "graph_hash", lambda _: "x")
    unreadable = replace(zoo(3, 3), similarity=Unreadable())
    with pytest.raises(ProcessEnded, match="run the same command again"):
        evaluate_variants([QUICK], place(unreadable, tmp_path, jobs=2), None)


def test_a_variant_without_data_says_why_and_leaves_the_others_alone(zoo, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    snapshot = zoo(4, 3)
    alone = replace(snapshot, similar=snapshot.similar.iloc[:0], similarity=None)
    missing = replace(QUICK, ranker="xgboost")
    outcomes = evaluate_variants([GRAPH, missing, QUICK], place(alone, tmp_path), None)
    assert "has a similarity" in outcomes[GRAPH].failure
    assert "xgboost" in outcomes[missing].failure
    assert not outcomes[GRAPH].folds + outcomes[missing].folds
    assert len(outcomes[QUICK].folds) == 4


def test_all_baselines_stand_beside_the_recipe_and_few_beside_the_rest(zoo, tmp_path: Path):
    whole = MethodVariant(embedder="node2vec+", features="node")
    fewer = replace(whole, removed=0.5)
    outcomes = evaluate_variants([whole, fewer], place(zoo(4, 3), tmp_path), None)
    assert {"direct", "neighbours", "random"} <= set(outcomes[whole].folds[0].scores)
    assert set(outcomes[fewer].folds[0].scores) == {"method", "average_rank", "average_value", "random"}


def test_an_embedding_is_computed_once_for_its_content(zoo, tmp_path: Path):
    snapshot = zoo(4, 3)
    nodes, edges = node_names(snapshot), weighted_edges(snapshot)
    calls = []

    class Counting(Node2VecPlus):
        def embed(self, *args):
            calls.append(args)
            return super().embed(*args)

    def kept(seed: int = 0) -> KeptEmbedder:
        embedder = Counting(Node2VecConfig(dimension=4, walk_length=5, seed=seed))
        return KeptEmbedder(embedder, Results(tmp_path))

    first, again = kept().embed(nodes, edges), kept().embed(nodes[::-1], edges.iloc[::-1])
    assert len(calls) == 1
    assert all(np.array_equal(first[node], again[node]) for node in nodes)
    kept(seed=1).embed(nodes, edges)
    kept().embed(nodes, edges.assign(weight=edges["weight"] * 2))
    assert len(calls) == 3
