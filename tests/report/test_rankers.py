"""The rankers that are compared with learn, repeat themselves, and know no classes that no row has."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.predictor.errors import InvalidRows
from matchgraph.report.rankers import (
    COMPARED,
    TITLES,
    ClassifierRanker,
    ComparedConfig,
    compared_ranker,
)


def built(name: str):
    if name == "xgboost":
        pytest.importorskip("xgboost", reason="XGBoost is not installed")
    return compared_ranker(name, seed=3)


def pattern(n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose first column tells the class, and one class in two that no row has."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, size=60)
    rows = np.column_stack([2.0 * labels, rng.normal(size=(60, 2))])
    targets = np.zeros((60, 2 * n_classes))
    targets[np.arange(60), 2 * labels] = 1.0
    return rows, targets


@pytest.mark.parametrize("name", COMPARED)
def test_learns_a_pattern_and_repeats_itself(name: str):
    rows, targets = pattern()
    answers = []
    for _ in range(2):
        ranker = built(name)
        ranker.fit(rows, targets)
        answers.append(ranker.predict_distribution(rows[:20]))
    assert np.array_equal(*answers)
    assert answers[0].sum(axis=1) == pytest.approx(1.0)
    assert (answers[0].argmax(axis=1) == targets[:20].argmax(axis=1)).mean() > 0.9
    assert not answers[0][:, 1::2].any(), "a class that no row has got a chance"


# A perceptron of 200 passes fits two equal rows only roughly.
@pytest.mark.parametrize("name", ["svc", "xgboost"])
def test_shared_rows_count_by_their_share(name: str):
    rows = np.zeros((40, 2))
    rows[:, 0] = np.arange(40) % 2
    targets = np.tile([0.9, 0.1], (40, 1))
    targets[rows[:, 0] == 1] = [0.1, 0.9]
    ranker = built(name)
    ranker.fit(rows, targets)
    first = ranker.predict_distribution(np.array([[0.0, 0.0], [1.0, 0.0]]))[:, 0]
    assert first[0] > 0.5 > first[1]


def test_one_class_is_the_answer_and_wrong_rows_are_refused():
    ranker = ClassifierRanker("mlp", ComparedConfig(0, COMPARED["mlp"]))
    ranker.fit(np.ones((3, 2)), np.tile([0.0, 1.0, 0.0], (3, 1)))
    assert ranker.predict_distribution(np.zeros((2, 2))).tolist() == [[0, 1, 0], [0, 1, 0]]
    with pytest.raises(InvalidRows, match="finite"):
        ranker.fit(np.array([[np.nan]]), np.array([[1.0]]))
    with pytest.raises(InvalidRows, match="unknown ranker 'knn'"):
        compared_ranker("knn", 0)


def test_all_of_table_7_is_there():
    assert list(TITLES) == ["svc", "mlp", "forest", "xgboost", "catboost"]
    assert {name: compared_ranker(name, 5).name for name in ("catboost", "forest")} == {
        "catboost": "catboost",
        "forest": "forest",
    }
