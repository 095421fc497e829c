"""The baselines: by hand, with gaps, and blind to what they must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from matchgraph.predictor.baselines import (
    BASELINES,
    average_loss,
    average_rank,
    direct_classifier,
    groups_note,
    neighbour_rank,
)
from matchgraph.predictor.visibility import LossMatrix, hide_results, loss_matrix

NAN = float("nan")


def matrix(rows) -> LossMatrix:
    losses = np.array(rows, dtype=float)
    return LossMatrix(
        tuple(f"m{i}" for i in range(len(losses))), tuple(f"d{j}" for j in range(losses.shape[1])), losses
    )


class TestAverageRank:
    def test_by_hand(self):
        ranks = average_rank(matrix([[1, 5], [2, 4], [3, 3]]))
        assert np.allclose(ranks, [0.5, 0.5, 0.5])
        assert len(set(ranks)) == 1

    def test_gaps(self):
        # d0 ranks two models: 1/4 and 3/4; d1 ranks all three: 1/6, 1/2, 5/6.
        ranks = average_rank(matrix([[1, 9], [NAN, 7], [3, 8]]))
        assert np.allclose(ranks, [(1 / 4 + 5 / 6) / 2, 1 / 6, (3 / 4 + 1 / 2) / 2])

    def test_a_model_never_measured_is_not_ranked(self):
        assert np.isnan(average_rank(matrix([[1], [NAN], [2]]))[1])


class TestAverageLoss:
    def test_is_the_mean_without_gaps(self):
        losses = np.random.default_rng(0).normal(size=(5, 7))
        effects = average_loss(matrix(losses))
        assert np.allclose(effects - effects.mean(), losses.mean(axis=1) - losses.mean(), atol=1e-8)

    def test_a_model_measured_only_where_it_is_easy_gains_nothing(self):
        # m1 is worse than m0 everywhere, but was measured on the easy dataset only: its plain mean is the
        # better one.
        effects = average_loss(matrix([[1.0, 101.0], [2.0, NAN]]))
        assert effects[1] - effects[0] == pytest.approx(1)

    def test_recovers_additive_effects_from_half_of_the_results(self):
        rng = np.random.default_rng(1)
        model, dataset = rng.normal(size=12), 100 * rng.normal(size=9)
        losses = model[:, None] + dataset[None]
        losses[rng.random(losses.shape) < 0.5] = NAN
        effects = average_loss(matrix(losses))
        assert np.allclose(effects - effects.mean(), model - model.mean(), atol=1e-6)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    def test_is_the_smallest_least_squares_solution_also_of_groups_that_share_nothing(self, share):
        rng = np.random.default_rng(2)
        losses = rng.normal(size=(9, 7))
        losses[rng.random(losses.shape) < share] = NAN
        losses[:3, 3:] = NAN
        losses[3:, :3] = NAN
        rows, columns = np.nonzero(~np.isnan(losses))
        design = np.zeros((len(rows), 16))
        design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), 9 + columns] = 1
        values = losses[rows, columns]
        smallest = np.linalg.lstsq(design, values - values.mean(), rcond=None)[0][:9]
        measured = ~np.isnan(losses).all(axis=1)
        effects = average_loss(matrix(losses))
        assert np.allclose(effects[measured], smallest[measured], atol=1e-8)
        assert np.isnan(effects[~measured]).all()

    def test_equal_models_tie_and_unknown_ones_stay_out(self):
        effects = average_loss(matrix([[0.1, 0.7, 0.3], [0.7, 0.3, 0.1], [NAN, NAN, NAN]]))
        assert effects[0] == effects[1]
        assert np.isnan(effects[2])


class TestNeighbours:
    def test_the_nearest_dataset_counts_most(self, zoo):
        snapshot = zoo()
        near = neighbour_rank(hide_results(snapshot, "d00"), "d00")
        # Models 0 and 3 are of the kind of d00.
        assert set(np.argsort(near)[:2].tolist()) == {0, 3}

    def test_nothing_to_go_by(self, zoo):
        snapshot = zoo()
        alone = replace(snapshot, similar=snapshot.similar.iloc[:0])
        assert neighbour_rank(alone, "d00") is None


class TestDirectClassifier:
    def test_follows_a_feature_that_tells_the_kinds_apart(self, zoo):
        snapshot = zoo(n_datasets=24)
        datasets = tuple(
            replace(dataset, embedding=(float(i % 3 == 0), float(i % 3 == 1), 0.01 * i))
            for i, dataset in enumerate(snapshot.datasets)
        )
        visible = hide_results(replace(snapshot, datasets=datasets), "d01")
        assert set(np.argsort(direct_classifier(visible, "d01", 0))[:2].tolist()) == {1, 4}

    def test_gaps_one_model_and_no_features(self, zoo):
        snapshot = zoo()
        gaps = snapshot.performs.drop(index=range(0, len(snapshot.performs), 3))
        assert np.isfinite(direct_classifier(replace(snapshot, performs=gaps), "d01", 0)).all()
        only = snapshot.performs[snapshot.performs["model"] == "m2"]
        predicted = direct_classifier(replace(snapshot, performs=only), "d01", 0)
        assert np.isfinite(predicted).tolist() == [False, False, True, False, False, False]
        blank = tuple(replace(dataset, properties={}) for dataset in snapshot.datasets)
        assert direct_classifier(replace(snapshot, datasets=blank), "d01", 0) is None


def test_each_baseline_orders_one_loss_per_model(zoo):
    visible = hide_results(zoo(), "d00")
    initial = np.array([1.0, NAN, 3, 4, 5, 6])
    for baseline in BASELINES:
        predicted = baseline.predict(visible, "d00", initial, 0)
        assert predicted.shape == (6,), baseline.key


def test_initial_is_not_available_without_initial_values(zoo):
    initial = next(baseline for baseline in BASELINES if baseline.key == "initial")
    assert initial.predict(zoo(), "d00", np.full(6, NAN), 0) is None


def test_random_ties_all_models(zoo):
    random = next(baseline for baseline in BASELINES if baseline.key == "random")
    assert len(set(random.predict(zoo(), "d00", np.full(6, NAN), 0))) == 1


def test_the_matrix_keeps_the_order_of_the_zoo(zoo):
    snapshot = zoo()
    shuffled = replace(snapshot, performs=snapshot.performs.sample(frac=1, random_state=1))
    assert np.array_equal(loss_matrix(snapshot).losses, loss_matrix(shuffled).losses)
    assert isinstance(shuffled.performs, pd.DataFrame)


def test_models_that_no_dataset_joins_are_told(zoo):
    snapshot = zoo()
    assert groups_note(snapshot, "d00") is None
    performs = snapshot.performs
    first = performs["model"].isin(["m0", "m1"])
    early = performs["dataset"] < "d02"
    apart = replace(snapshot, performs=performs[first == early])
    note = groups_note(apart, "d03")
    assert note.startswith(
        "The models are in 2 groups that no results of theirs join (m2, m3, m4 and 1 more; m0, m1): "
    )
    # One dataset that both have joins them, unless it is the one whose results are not used.
    joined = replace(snapshot, performs=performs[(first == early) | (performs["dataset"] == "d03")])
    assert groups_note(joined, "d00") is None
    assert groups_note(joined, "d03") == note
