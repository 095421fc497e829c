"""Rankings kept in the data folder: found for the same question, never for another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.graphdb.models import Metric
from matchgraph.predictor import remembered
from matchgraph.predictor.matching import predict
from matchgraph.predictor.remembered import Remembering
from matchgraph.predictor.stack import StackMatcher


class Counting(StackMatcher):
    """The default recipe's closed forms, and how often they were computed."""

    computed = 0

    def rank(self, visible, datasets, *, explain=False):
        self.computed += 1
        return super().rank(visible, datasets, explain=explain)


@pytest.fixture
def method():
    return Counting(None)


@pytest.fixture
def keeping(method, tmp_path):
    return Remembering(method, tmp_path / "rankings")


def test_the_second_answer_is_the_first_one_bit_for_bit(zoo, method, keeping):
    snapshot = zoo(n_datasets=9)
    first, second = (predict(snapshot, "d03", keeping) for _ in range(2))
    assert method.computed == 1
    plain = predict(snapshot, "d03", method)
    for answer in (first, second):
        assert answer.rehearsed.keys() == plain.rehearsed.keys()
        for dataset, own in answer.rehearsed.items():
            assert np.array_equal(own.p_best, plain.rehearsed[dataset].p_best)
        assert replace(answer, rehearsed={}) == replace(plain, rehearsed={})


def test_results_of_the_dataset_itself_change_nothing(zoo, method, keeping):
    snapshot = zoo(n_datasets=9)
    own = snapshot.performs["dataset"] == "d03"
    predict(snapshot, "d03", keeping)
    predict(replace(snapshot, performs=snapshot.performs[~own].reset_index(drop=True)), "d03", keeping)
    assert method.computed == 1


def more_of(snapshot, name, **properties):
    """The graph with other properties of its first model or dataset."""
    first, *rest = getattr(snapshot, name)
    changed = replace(first, properties={**first.properties, **properties})
    return replace(snapshot, **{name: (changed, *rest)})


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: replace(graph, performs=graph.performs.assign(value=graph.performs["value"] + 1e-12)),
        lambda graph: replace(graph, performs=graph.performs.assign(initial=1.0)),
        lambda graph: replace(graph, similar=graph.similar.iloc[1:]),
        lambda graph: more_of(graph, "models", params=7),
        lambda graph: more_of(graph, "datasets", images=7),
        lambda graph: replace(graph, metric=Metric(graph.metric.name, minimum=-1.0)),
    ],
)
def test_another_graph_is_computed(zoo, method, keeping, change):
    snapshot = zoo(n_datasets=9)
    for graph in (snapshot, change(snapshot)):
        keeping.rank(graph, ["d03"])
    assert method.computed == 2


def test_another_question_method_or_code_is_computed(zoo, method, keeping, monkeypatch):
    snapshot = zoo(n_datasets=9)
    keeping.rank(snapshot, ["d03"])
    keeping.rank(snapshot, ["d04"])
    keeping.rank(snapshot, ["d03"], explain=True)
    method.features = "node"
    keeping.rank(snapshot, ["d03"])
    monkeypatch.setattr(remembered, "CODE", "other")
    keeping.rank(snapshot, ["d03"])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    keeping.rank(snapshot, ["d03"])
    assert method.computed == 6


def test_a_spoilt_file_is_computed_again_and_the_oldest_give_way(zoo, method, keeping, monkeypatch, tmp_path):
    snapshot = zoo(n_datasets=9)
    expected = keeping.rank(snapshot, ["d03"])["d03"].prediction.expected_rank
    [file] = (tmp_path / "rankings").iterdir()
    file.write_text('{"d03": {"models": []}}')
    assert np.array_equal(keeping.rank(snapshot, ["d03"])["d03"].prediction.expected_rank, expected)
    assert method.computed == 2
    monkeypatch.setattr(remembered, "MOST_KEPT", 1)
    keeping.rank(snapshot, ["d04"])
    [left] = (tmp_path / "rankings").iterdir()
    assert left != file


def test_without_a_folder_to_write_to_it_answers_all_the_same(zoo, method, tmp_path):
    (tmp_path / "file").touch()
    assert Remembering(method, tmp_path / "file").rank(zoo(n_datasets=9), ["d03"])["d03"].models
