"""A fitted router records what its decisions depend on, and chooses what there is to choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator
from matchgraph.routing.estimators import NearestPrompts
from matchgraph.routing.fitting import fit_router
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.process import GaussianQuality
from matchgraph.routing.turns import NEIGHBOURS, PROCESSES
from tests.routing import circle


def test_the_record_holds_candidates_averages_and_what_is_familiar() -> None:
    table = circle.table(60, spread=0.05)
    fitted, estimator, errors = fit_router(table, "knn", neighbours=3)
    assert estimator is None
    assert (fitted.metric, fitted.kind, fitted.probe, fitted.neighbours) == ("clip_score", "knn", "probe", 3)
    assert fitted.variants == ("m-1", "m-4", "m-20")
    assert fitted.average == pytest.approx(table.mean[table.rows("train")].mean(axis=0))
    assert (fitted.lam, fitted.budget) == (0.0, None)
    # Of six validation prompts nothing can be told of what is unfamiliar.
    assert fitted.least_similarity == -1.0
    assert errors.variants == fitted.variants
    rows = table.rows("validation")
    validation = circle.Encoder().encode([table.prompts[row].text for row in rows])
    expected = NearestPrompts(table, 3).estimate(validation).quality
    assert errors.values[: len(rows)] == pytest.approx(table.mean[rows] - expected, abs=1e-6)
    # Each training prompt is left out in turn.
    assert len(errors.values) == len(rows) + len(table.rows("train"))


def test_what_is_not_given_is_chosen_on_the_validation_prompts() -> None:
    table, encoder = circle.table(60, spread=0.3), circle.Encoder()
    fitted, _, _ = fit_router(table, "knn")
    assert fitted.neighbours in NEIGHBOURS
    fitted, process, _ = fit_router(table)
    assert isinstance(process, GaussianQuality)
    # A process has no K; how near a prompt is to those that are known is told by the nearest alone.
    assert fitted.neighbours == 1
    assert (process.concentration, process.noise) in PROCESSES
    _, network, _ = fit_router(table, "network", encoder=encoder)
    assert isinstance(network, TokenQuality)
    with pytest.raises(UnusableEstimator, match="reads prompts by the CLIP that embedded them, probe"):
        fit_router(table, "network")


def test_a_candidate_without_scores_has_no_average() -> None:
    table = circle.table(60)
    table.mean[:, 1] = np.nan
    fitted, _, _ = fit_router(table, "knn", neighbours=3)
    assert [value is None for value in fitted.average] == [False, True, False]


def test_without_validation_prompts_nothing_is_fitted() -> None:
    table = circle.table(60)
    prompts = tuple(replace(prompt, split="train") for prompt in table.prompts)
    with pytest.raises(NotEnoughScores, match="validation"):
        fit_router(replace(table, prompts=prompts))
