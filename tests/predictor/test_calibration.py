"""Chances of being best: whether they come true, and sets that hold the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from matchgraph.predictor.calibration import (
    conformal_coverage,
    expected_calibration_error,
    prediction_set,
    reliability,
)
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.predictor.folds import Fold

MODELS = tuple("abcdefgh")


def fold(
    p_best: dict[str, float], best: tuple[str, ...], measured: str | None = None, name: str = "d"
) -> Fold:
    losses = {model: 0.0 if model in best else 1.0 for model in measured or p_best}
    return Fold(name, len(losses), best, {}, losses=losses, p_best=p_best, expected_rank={})


def drawn_folds(
    count: int,
    seed: int,
    *,
    said: Callable[[np.ndarray], np.ndarray] = lambda truth: truth,
    spread: float = 0.4,
) -> list[Fold]:
    """Datasets whose best model is drawn by true chances, of which the method says something."""
    rng = np.random.default_rng(seed)
    folds = []
    for number in range(count):
        truth = rng.dirichlet(np.full(len(MODELS), spread))
        best = MODELS[rng.choice(len(MODELS), p=truth)]
        chances = said(truth)
        folds.append(
            fold(
                dict(zip(MODELS, (chances / chances.sum()).tolist(), strict=True)), (best,), name=f"d{number}"
            )
        )
    return folds


def too_sure(truth: np.ndarray) -> np.ndarray:
    return np.maximum(truth, 1e-9) ** 3


def too_vague(truth: np.ndarray) -> np.ndarray:
    return np.maximum(truth, 1e-9) ** 0.3


class TestReliability:
    def test_by_hand(self):
        # The third was not measured on the first dataset: the others share its chance.
        folds = [fold({"a": 0.45, "b": 0.05, "c": 0.5}, ("a",), "ab"), fold({"a": 0.8, "b": 0.2}, ("a",))]
        folds += [fold({"a": 0.7, "b": 0.3}, ("b",)), fold({"a": 0.6, "b": 0.4}, ("a", "b"))]
        low, high = reliability(folds, bins=2)
        assert (low.low, low.high, low.pairs) == (0.1, 0.4, 4)
        assert (low.predicted, high.predicted) == pytest.approx((0.25, 0.75))
        # The tie counts half for each.
        assert (low.observed.value, high.observed.value) == (1.5 / 4, 2.5 / 4)
        assert low.observed.low <= low.observed.value <= low.observed.high
        error = expected_calibration_error(folds, bins=2)
        assert error.value == pytest.approx((4 * 0.125 + 4 * 0.125) / 8)
        assert error.count == 4

    def test_only_measured_models_count_and_share_the_chance(self):
        (only,) = reliability([fold({"a": 0.5, "b": 0.3, "c": 0.2}, ("b",), "bc")], bins=1)
        assert (only.low, only.high, only.pairs) == pytest.approx((0.4, 0.6, 2))

    def test_equal_chances_share_a_bin(self):
        folds = [fold(dict.fromkeys(MODELS, 1 / 8), ("a",)) for _ in range(20)]
        (only,) = reliability(folds)
        assert (only.pairs, only.observed.value) == (160, 1 / 8)
        assert expected_calibration_error(folds).value == pytest.approx(0)

    def test_true_chances_have_a_small_error_and_wrong_ones_a_large_one(self):
        honest = expected_calibration_error(drawn_folds(400, 1))
        assert honest.value < 0.02
        assert honest.low <= honest.value
        for said in (too_sure, too_vague):
            assert expected_calibration_error(drawn_folds(400, 1, said=said)).low > honest.high

    def test_refuses_what_gives_no_curve(self):
        with pytest.raises(NotEnoughResults, match="no fold"):
            reliability([])
        with pytest.raises(InvalidRows, match="at least 1 bin"):
            reliability(drawn_folds(3, 0), bins=0)


class TestPredictionSet:
    def test_by_hand(self):
        # The chances of the best ones are 0.1 .. 0.9; of 9 folds, 0.8 takes the 8th largest.
        folds = [fold({"a": c / 10, "b": 1 - c / 10}, ("a",)) for c in range(1, 10)]
        chosen = prediction_set({"a": 0.5, "b": 0.2, "c": 0.2, "d": 0.1}, folds, 0.8)
        assert (chosen.models, chosen.least_chance) == (("a", "b", "c"), 0.2)
        assert (chosen.folds, chosen.attainable, chosen.reason) == (9, 0.9, None)
        assert prediction_set({"a": 0.5, "b": 0.2, "d": 0.1}, folds, 0.9).models == ("a", "b", "d")
        assert prediction_set({"a": 0.5, "b": 0.4, "d": 0.1}, folds, 0.5).models == ("a",)

    def test_more_confidence_than_folds_allow_gives_all_models_and_says_why(self):
        chosen = prediction_set({"a": 1.0, "b": 0.0}, drawn_folds(32, 0), 0.99)
        assert chosen.models == ("a", "b")
        assert chosen.reason == (
            "32 other datasets with results allow no confidence above 97.0%, so all 2 models are in the set; "
            "0.99 needs 99"
        )
        assert prediction_set({"a": 1.0, "b": 0.0}, drawn_folds(32, 0), 0.9).reason is None
        assert prediction_set({"a": 1.0}, [], 0.5).attainable == 0

    def test_it_is_never_empty(self):
        folds = [fold({"a": 0.95, "b": 0.05}, ("a",))] * 9
        assert prediction_set({"a": 0.4, "b": 0.35, "c": 0.25}, folds, 0.5).models == ("a",)

    def test_any_of_several_best_models_will_do(self):
        folds = [fold({"a": 0.7, "b": 0.2, "c": 0.1}, ("a", "c"))] * 9
        assert prediction_set({"a": 0.6, "b": 0.3, "c": 0.1}, folds, 0.5).models == ("a",)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 2.0])
    def test_refuses_what_is_no_confidence(self, confidence):
        with pytest.raises(InvalidRows, match="above 0 and below 1"):
            prediction_set({"a": 1.0}, [], confidence)


class TestCoverage:
    @pytest.mark.parametrize(
        "said", [lambda truth: truth, too_sure, too_vague], ids=["right", "sure", "vague"]
    )
    @pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9])
    def test_holds_on_datasets_like_those_it_was_learned_from(self, said, confidence):
        hits, sizes = [], []
        for seed in range(300):
            *known, asked = drawn_folds(20, seed, said=said)
            chosen = prediction_set(asked.p_best, known, confidence)
            hits.append(asked.best[0] in chosen.models)
            sizes.append(len(chosen.models))
        # Three standard deviations of a mean of 300 draws.
        assert np.mean(hits) >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / 300)
        assert np.mean(sizes) < 0.75 * len(MODELS)

    def test_is_measured_on_folds_that_taught_nothing(self):
        # One best model was thought all but impossible; a set that had learned from it would hold it.
        folds = [fold({"a": 0.9, "b": 0.09, "c": 0.01}, ("a",))] * 18 + [
            fold({"a": 0.9, "b": 0.09, "c": 0.01}, ("c",))
        ]
        folds = [replace(own, dataset=f"d{number}") for number, own in enumerate(folds)]
        measured = conformal_coverage(folds, 0.9)
        assert measured.coverage.value == pytest.approx(18 / 19)
        assert measured.coverage.count == 19
        assert measured.attainable == pytest.approx(18 / 19)
        # Only the set for that dataset knows of no such miss.
        assert measured.size.value == pytest.approx((18 * 3 + 1) / 19)
        assert conformal_coverage(folds, 0.99).size.value == 3

    def test_needs_a_fold(self):
        with pytest.raises(NotEnoughResults, match="no fold"):
            conformal_coverage([], 0.9)
