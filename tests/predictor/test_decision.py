"""What to take once some models were measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.models import Metric
from matchgraph.predictor.decision import Outcome, decide, outcomes
from matchgraph.predictor.seeds import Replicate, seed_noise
from tests.predictor.zoos import measured_zoo

PREDICTED = {"a": 0.5, "b": 0.3, "c": 0.2}
NAN = float("nan")


def test_outcomes_are_the_fine_tuned_values_of_one_dataset():
    columns = ["model", "dataset", "value", "standard_error", "initial", "initial_standard_error"]
    rows = [
        ("a", "d", 5.0, 0.1, 6.0, 0.2),
        ("b", "d", NAN, NAN, 7.0, NAN),
        ("c", "d", 4.0, NAN, NAN, NAN),
        ("a", "e", 9.0, 0.1, NAN, NAN),
    ]
    snapshot: Any = SimpleNamespace(performs=pd.DataFrame(rows, columns=columns))
    assert outcomes(snapshot, "d") == [Outcome("a", 5.0, 0.1, 6.0, 0.2), Outcome("c", 4.0)]


@pytest.mark.parametrize("metric", ["clip_fid", "accuracy"])
def test_what_another_seed_does_is_part_of_the_error(metric: str) -> None:
    snapshot = measured_zoo(3, n_datasets=2, n_models=3)
    distance = metric == "clip_fid"
    rows = [("m000", "d000", 4.0, 0.1), ("m001", "d000", 8.0, 0.1), ("m002", "d000", 8.0, 3.0)]
    performs = pd.DataFrame(rows, columns=["model", "dataset", "value", "standard_error"])
    performs = performs.assign(initial=NAN, initial_standard_error=NAN)
    measured = replace(snapshot, metric=Metric(metric, not distance, 0.0), performs=performs)
    found = outcomes(measured, "d000", seed_noise(measured, []))
    assert [one.standard_error for one in found] == [0.1, 0.1, 3.0]
    # The second is the mean over two of its seeds.
    seeds = [Replicate("m001", "d000", seed, value, True) for seed, value in (("0", 6.0), ("1", 10.0))]
    deviation = float(np.std(np.log([6, 10]) if distance else [6.0, 10.0], ddof=1))
    expected = [deviation * (4 if distance else 1), deviation * (8 if distance else 1) / 2**0.5, 3.0]
    # A seed whose run was done twice counts once.
    for given in (seeds, [*seeds, seeds[1]]):
        found = outcomes(measured, "d000", seed_noise(measured, given))
        assert [one.standard_error for one in found] == pytest.approx(expected)


def test_the_best_measured_one_has_the_chances_of_all_that_it_beat():
    clear = [Outcome("a", 9.0, 0.1), Outcome("b", 5.0, 0.1)]
    found = decide(PREDICTED, clear)
    assert (found.model, found.tuned, found.value) == ("b", True, 5.0)
    assert found.chance == pytest.approx(0.8)
    assert found.chances == pytest.approx({"a": 0.0, "b": 0.8, "c": 0.2}, abs=1e-9)
    assert [outcome.model for outcome in found.measured] == ["b", "a"]
    assert decide(PREDICTED, clear, larger_is_better=True).model == "a"


def test_values_within_their_errors_share_the_chance():
    # A difference of one standard error of the difference.
    found = decide(PREDICTED, [Outcome("a", 5.0, 3.0), Outcome("b", 10.0, 4.0)])
    assert found.chance == pytest.approx(0.8 * 0.8413, abs=1e-3)
    assert sum(found.chances.values()) == pytest.approx(1)


@pytest.mark.parametrize(("values", "chance"), [((5.0, 5.0), 0.4), ((1e-6, 2e-6), 0.8), ((0.0, 0.0), 0.4)])
def test_without_noise_the_smaller_is_the_best_and_equal_ones_share(
    values: tuple[float, float], chance: float
):
    measured = [Outcome(model, value, 0.0) for model, value in zip("ab", values, strict=True)]
    assert decide(PREDICTED, measured).chance == pytest.approx(chance)


def test_no_chance_is_claimed_without_standard_errors():
    found = decide(PREDICTED, [Outcome("a", 5.0, 3.0, 6.0), Outcome("b", 10.0, None, 7.0)])
    assert (found.model, found.chance, found.tuning_pays) == ("a", None, None)
    assert found.chances == {"a": None, "b": None, "c": 0.2}
    # That a single one is the best of those measured is no question of noise.
    assert decide(PREDICTED, [Outcome("b", 10.0)]).chance == pytest.approx(0.3)


def test_a_pretrained_model_may_be_better_than_every_tuned_one():
    measured = [Outcome("a", 5.0, 0.3, 4.0, 0.4), Outcome("b", 6.0, 0.3, 9.0, 0.4)]
    found = decide(PREDICTED, measured)
    assert (found.model, found.tuned, found.value) == ("a", False, 4.0)
    assert found.tuning_pays == pytest.approx(0.0228, abs=1e-3)
    # Tuning that gains nothing is not worth its time.
    assert not decide(PREDICTED, [replace(measured[0], initial=5.0), measured[1]]).tuned
    worse = [replace(measured[0], initial=6.0), measured[1]]
    assert decide(PREDICTED, worse).tuned
    assert decide(PREDICTED, worse).tuning_pays == pytest.approx(0.9772, abs=1e-3)
