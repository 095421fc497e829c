"""Synthetic zoos hold what their configuration says."""

from __future__ import annotations

import numpy as np
import pytest

from bench.zoos import PROCESSES, measured_zoo
from predictor.visibility import loss_matrix


def logarithms(snapshot) -> np.ndarray:
    values = np.log(loss_matrix(snapshot).losses)
    return values - values.mean(axis=0)


def test_a_seed_gives_one_zoo():
    one, again, other = measured_zoo(1), measured_zoo(1), measured_zoo(2)
    assert one.performs.equals(again.performs)
    assert one.similar.equals(again.similar)
    assert one.datasets == again.datasets
    assert not one.performs.equals(other.performs)
    assert (len(one.models), len(one.datasets), len(one.performs)) == (10, 32, 320)
    assert len(one.similar) == 32 * 31 / 2
    assert [dataset.id for dataset in one.datasets] == sorted(dataset.id for dataset in one.datasets)


@pytest.mark.parametrize("kind", PROCESSES)
def test_models_differ_by_as_much_as_is_asked_for(kind):
    config = PROCESSES[kind]
    asked = np.sqrt(
        sum(getattr(config, part) ** 2 for part in ("general", "by_style", "by_category", "own", "noise"))
    )
    measured = np.sqrt(np.mean([logarithms(measured_zoo(seed, config)).var() for seed in range(20)]))
    assert measured == pytest.approx(asked, rel=0.15)


def test_near_datasets_have_like_results():
    def agreement(**changes) -> float:
        snapshot = measured_zoo(0, by_style=0.2, **changes)
        values = logarithms(snapshot)
        place = {dataset.id: index for index, dataset in enumerate(snapshot.datasets)}
        near = snapshot.similar["value"] < snapshot.similar["value"].quantile(0.1)
        pairs = snapshot.similar[near]
        return float(
            np.mean([np.corrcoef(values[:, place[row.dataset]], values[:, place[row.other]])[0, 1]
                     for row in pairs.itertuples()])
        )  # fmt: skip

    assert agreement(general=0.0) > 0.7
    # Without a style to share, near datasets are like any others.
    assert agreement(general=0.0, dimensions=3, own=1.0) < 0.3


def test_what_may_be_missing():
    snapshot = measured_zoo(0, measured=0.5, embedding=0, similarities=False, n_datasets=60)
    assert 200 < len(snapshot.performs) < 400
    assert len({dataset.id for dataset in snapshot.datasets}) == 60
    assert snapshot.similarity is None
    assert all(dataset.embedding is None for dataset in snapshot.datasets)
