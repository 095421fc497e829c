"""Folds made by hand, whose figures can be worked out on paper, and tables as their readers get them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping

import pytest

from matchgraph.predictor.folds import Fold, Score
from matchgraph.report.tables import Table
from matchgraph.report.variants import Outcome
from tests.predictor.conftest import save, zoo

__all__ = ["save", "zoo"]


def fold_of(dataset: str, osr: Mapping[str, float], *, tau: float = 0.5, o2o: float = 1.0) -> Fold:
    """A fold with the OSR of some methods; O2O of a miss is `o2o`, O2B is against the best on average."""
    behind = {key: 0.0 if value == 1 else o2o for key, value in osr.items()}
    reference = behind.get("average_value", 0.0)
    scores = {}
    for key, value in osr.items():
        figures = {"osr": value, "tau_w": tau, "o2b": behind[key] - reference, "o2o": behind[key]}
        scores[key] = Score(("a",), figures)
    losses = {"a": 1.0, "b": 2.0, "c": 3.0}
    chances = {"a": 0.5, "b": 0.3, "c": 0.2}
    return Fold(dataset, 3, ("a",), scores, losses, chances, {"a": 1.5, "b": 2.0, "c": 2.5})


def rows_of(table: Table) -> list[dict[str, str]]:
    """The rows of a table's CSV file, by name of the column."""
    return list(csv.DictReader(io.StringIO(table.as_csv())))


@pytest.fixture
def outcome() -> Callable[..., Outcome]:
    """Makes an outcome from the OSR of each method in each fold: `outcome(method=[1, 0])`."""

    def make(tau: float = 0.5, **osr: list[float]) -> Outcome:
        count = len(next(iter(osr.values())))
        folds = [
            fold_of(f"d{i:02d}", {key: values[i] for key, values in osr.items()}, tau=tau)
            for i in range(count)
        ]
        return Outcome(tuple(folds))

    return make
