"""Chances of success, on errors small enough to count by hand, and on prompts whose chances are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from matchgraph.routing.chances import Errors, reliability, winners
from matchgraph.routing.errors import UnusableEstimator
from matchgraph.routing.estimators import NearestPrompts
from matchgraph.routing.process import GaussianQuality
from matchgraph.training.measure.prompts import EncodedPrompts
from tests.routing import circle

NAMES = ("a", "b")


def test_the_errors_of_validation_prompts_stand_for_those_to_come() -> None:
    errors = Errors(NAMES, np.stack([np.arange(10) / 10, np.zeros(10)], axis=1))
    # 0.5 + error is at least 1.0 with five of ten errors; 0.5 never is.
    assert errors.enough(np.array([[0.5, 0.5]]), 1.0).tolist() == [[5.5 / 11, 0.5 / 11]]
    # a beats b, who is expected to be better by 0.65, with three of ten errors.
    assert errors.best(np.array([[0.0, 0.65]])).tolist() == [
        [pytest.approx(3.5 / 11), pytest.approx(7.5 / 11)]
    ]


def test_errors_of_one_prompt_stay_together() -> None:
    """Where all candidates fail on the same prompts, the better one is always the better one."""
    same = np.random.default_rng(0).normal(size=(99, 1))
    [[one, other]] = Errors(NAMES, np.tile(same, 2)).best(np.array([[0.1, 0.0]]))
    assert (one, other) == (pytest.approx(99.5 / 100), pytest.approx(0.5 / 100))


def test_of_too_little_nothing_is_said() -> None:
    quality = np.array([[0.5, np.nan]])
    assert np.isnan(Errors(NAMES, np.zeros((9, 2))).enough(quality, 0.1)).all()
    assert np.isnan(Errors(NAMES, np.zeros((9, 2))).best(quality)).all()
    errors = Errors(NAMES, np.zeros((10, 2)))
    assert errors.enough(quality, 0.1)[0, 0] == 10.5 / 11
    assert np.isnan(errors.enough(quality, 0.1)[0, 1])
    # The only candidate that has a quality is the best of these.
    assert errors.best(quality)[0, 0] == 1
    assert np.isnan(errors.best(quality)[0, 1])
    # One without errors may be the best, so of the others it is not known.
    assert np.isnan(errors.ordered((*NAMES, "new")).best(np.array([[0.1, 0.2, 5.0]]))).all()


def test_they_come_back_as_they_were_kept(tmp_path: Path) -> None:
    errors = Errors(NAMES, np.array([[0.25, np.nan]]))
    errors.save(tmp_path / "errors.safetensors")
    found = Errors.load(tmp_path / "errors.safetensors").ordered(("b", "c", "a"))
    assert np.array_equal(found.values, [[np.nan, np.nan, 0.25]], equal_nan=True)
    (tmp_path / "errors.safetensors").write_bytes(b"no")
    with pytest.raises(UnusableEstimator, match="is not a saved estimator"):
        Errors.load(tmp_path / "errors.safetensors")


def test_candidates_that_tie_are_parts_of_a_winner() -> None:
    assert winners(np.array([[1.0, 2.0, 2.0], [3.0, 1.0, 0.0]])).tolist() == [[0, 0.5, 0.5], [1, 0, 0]]


def test_chances_are_judged_by_what_happened() -> None:
    generator = np.random.default_rng(0)
    right = generator.uniform(size=(2000, 1))
    chances = np.concatenate([right, 1 - right], axis=1)
    happened = np.where(generator.uniform(size=(2000, 1)) < right, [1.0, 0.0], [0.0, 1.0])
    shares = np.full(chances.shape, 0.5)
    found = reliability(chances, shares, happened)
    assert found.error.value < 0.03
    # A uniform chance has a variance of a twelfth.
    assert found.over_share.value == pytest.approx(1 / 12, abs=0.01)
    assert found.over_share.low > 0
    # Twice as sure as it should be, of what is likelier.
    bold = np.where(chances > 0.5, 1.0, 0.0)
    assert reliability(bold, shares, happened, likeliest=True).error.value == pytest.approx(0.25, abs=0.03)
    assert reliability(bold, shares, happened).over_share.value < 0.02


def test_a_training_prompt_is_judged_by_the_others() -> None:
    table = circle.table(40, spread=0.3)
    unscored = table.rows("train")[7]
    table.mean[unscored, 1] = np.nan
    train = table.rows("train")
    out = train[5]
    prompts = tuple(
        replace(prompt, split="test" if row == out else prompt.split)
        for row, prompt in enumerate(table.prompts)
    )
    asked = EncodedPrompts(table.embeddings[out : out + 1])
    others = replace(table, prompts=prompts)
    for all_known, without in (
        (NearestPrompts(table, 4), NearestPrompts(others, 4)),
        (GaussianQuality.fit(table), GaussianQuality.fit(others)),
    ):
        left_out = all_known.left_out()
        assert left_out[5] == pytest.approx(table.mean[out] - without.estimate(asked).quality[0])
        assert np.isnan(left_out).tolist() == np.isnan(table.mean[train]).tolist()


def test_unscored_prompts_and_candidates_leave_the_errors_of_the_others() -> None:
    """`route curve` measures chances by complete scores alone; those of other candidates change nothing."""
    whole = circle.table(40, spread=0.3)
    table = replace(whole, mean=whole.mean.copy())
    table.mean[:, 2] = np.nan
    table.mean[table.rows("train")[3]] = np.nan
    process = GaussianQuality.fit(table)
    validation = EncodedPrompts(table.embeddings[table.rows("validation")])
    errors = Errors.of(process, table, validation).values
    assert np.isnan(errors).tolist() == [[False, False, True]] * (4 + 32 - 1)
    assert errors[4:] == pytest.approx(process.left_out(), nan_ok=True)
    # A single training prompt cannot be left out.
    table.mean[table.rows("train")[1:]] = np.nan
    for estimator in (NearestPrompts(table, 4), GaussianQuality.fit(table)):
        assert len(Errors.of(estimator, table, validation).values) == 4
