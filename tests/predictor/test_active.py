"""Active measurement: what a belief must be, and that a budget is spent on what teaches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import matchgraph.predictor.active
from matchgraph.graphdb.models import Dataset, Model
from matchgraph.predictor.active import missing_pairs, pair_hours, propose, round_robin
from matchgraph.predictor.belief import Belief, Kernel
from matchgraph.predictor.errors import InvalidRows, NothingToPropose
from matchgraph.predictor.matching import Cost
from matchgraph.predictor.replay import only
from matchgraph.predictor.visibility import part_of

KERNEL = Kernel(general=0.4, special=0.3, noise=0.3, reach=1.0, feature_share=0.5)


def hour_each(snapshot) -> dict[str, float]:
    return {model.id: 1.0 for model in snapshot.models}


def chosen(proposal) -> list[tuple[str, str]]:
    return [(pair.model, pair.dataset) for pair in proposal.pairs]


class TestBelief:
    def test_the_prior_by_hand(self, zoo):
        snapshot = only(zoo(n_datasets=3, n_models=2), [])
        # Models that nothing tells apart, datasets at distances 1, 1 and 2 (median 1).
        snapshot = replace(
            snapshot,
            models=tuple(Model(model.id, {}) for model in snapshot.models),
            similar=snapshot.similar.assign(value=[1.0, 2.0, 1.0]),
        )
        covariance = Belief(snapshot, KERNEL).covariance
        near, far = np.exp(-1), np.exp(-2)
        expected = np.zeros((6, 6))
        alike = np.array([[1, near, far], [near, 1, near], [far, near, 1]])
        expected[:3, :3] = expected[3:, 3:] = 0.4 + 0.3 * alike
        expected += np.kron(np.ones((2, 2)), np.eye(3))
        np.testing.assert_allclose(covariance, expected, atol=1e-12)

    def test_measuring_one_by_one_is_conditioning_on_all(self, zoo):
        """Against the textbook formula for a Gaussian given noisy observations."""
        empty = only(zoo(n_datasets=4), [])
        belief = Belief(empty, KERNEL)
        prior = belief.covariance.copy()
        numbers = [3, 11, 17, 5]
        for number in numbers:
            belief.measure(number)
        among = prior[np.ix_(numbers, numbers)] + 0.3 * np.eye(4)
        expected = prior - prior[:, numbers] @ np.linalg.inv(among) @ prior[numbers]
        np.testing.assert_allclose(belief.covariance, expected, atol=1e-10)

    def test_what_is_known_counts_as_measured(self, zoo):
        full = zoo(n_datasets=4)
        pairs = [("m0", "d01"), ("m3", "d02")]
        step_by_step = Belief(only(full, []), KERNEL)
        for pair in pairs:
            step_by_step.measure(step_by_step.number(pair))
        at_once = Belief(only(full, pairs), KERNEL)
        np.testing.assert_allclose(at_once.covariance, step_by_step.covariance, atol=1e-10)
        assert at_once.reached == {"m0", "d01", "m3", "d02"}

    def test_a_gain_is_the_uncertainty_that_goes(self, zoo):
        belief = Belief(only(zoo(n_datasets=4), [("m0", "d01")]), KERNEL)
        for number in (2, 9, 20, 2):
            before, promised = belief.uncertainty(), belief.gains()[number]
            belief.measure(number)
            assert before - belief.uncertainty() == pytest.approx(promised, abs=1e-9)

    def test_uncertainty_is_that_of_contrasts_only(self, zoo):
        """A level that a dataset adds to all its models is none of the question."""
        belief = Belief(only(zoo(n_datasets=3), [("m0", "d00"), ("m1", "d00")]), KERNEL)
        draws = np.random.default_rng(0).multivariate_normal(
            np.zeros(len(belief.covariance)), belief.covariance, size=20_000
        )
        per_model = draws.reshape(-1, *belief.shape)
        contrasts = (per_model - per_model.mean(axis=1, keepdims=True)).reshape(draws.shape)
        expected = belief.weights @ contrasts.var(axis=0)
        assert belief.uncertainty() == pytest.approx(expected, rel=0.02)

    def test_results_move_the_belief_to_the_better_models(self, zoo):
        full = zoo(n_datasets=4, n_models=3, advantage=0.0, noise=0.01)
        values = full.performs.pivot(index="model", columns="dataset", values="value")
        best = int(np.argmin(values["d00"].to_numpy()))
        pairs = [(model.id, dataset) for model in full.models for dataset in ("d00", "d01")]
        belief = Belief(only(full, pairs), KERNEL)
        chances = belief.chance_of_best()
        np.testing.assert_allclose(chances.sum(axis=0), 1)
        # Also on the two datasets where nothing is measured, and less surely there.
        assert (chances.argmax(axis=0) == best).all()
        assert chances[best, 2:].max() < chances[best, :2].min()
        assert belief.weights.mean() == pytest.approx(1)
        assert belief.weights.reshape(belief.shape)[best].min() > 1
        assert Belief(only(full, []), KERNEL).weights.max() < belief.weights.max()

    def test_the_likelihood_tells_general_from_special(self, zoo):
        """Where one order of models holds everywhere there is no special standing, and the reverse."""
        full = zoo(n_datasets=12, advantage=0.0, noise=0.05)
        assert Belief(full).kernel.general > Belief(full).kernel.special
        full = zoo(n_datasets=12, advantage=30.0, noise=0.05)
        assert Belief(full).kernel.special > Belief(full).kernel.general

    @pytest.mark.parametrize("known", [0, 1, 19])
    def test_few_results_choose_nothing(self, zoo, known):
        full = zoo(n_datasets=6)
        pairs = missing_pairs(only(full, []))[:known]
        assert Belief(only(full, pairs)).kernel == KERNEL


class TestPropose:
    def test_within_the_budget_and_only_what_is_missing(self, zoo):
        full = zoo(n_datasets=6)
        known = [(model, dataset) for model, dataset in missing_pairs(only(full, [])) if dataset < "d03"]
        hours = {model.id: 1.0 + number for number, model in enumerate(full.models)}
        proposal = propose(only(full, known), hours, 12.5)
        pairs = chosen(proposal)
        assert len(set(pairs)) == len(pairs)
        assert not set(pairs) & set(known)
        assert proposal.missing == 36 - len(known)
        assert proposal.hours == sum(hours[model] for model, _ in pairs) <= 12.5
        # Nothing more would have been affordable.
        left = set(missing_pairs(only(full, known))) - set(pairs)
        assert all(proposal.hours + hours[model] > 12.5 for model, _ in left)

    def test_gains_and_what_is_left_are_the_whole(self, zoo):
        proposal = propose(only(zoo(n_datasets=4), []), hour_each(zoo(n_datasets=4)), 7)
        assert sum(pair.gain for pair in proposal.pairs) == pytest.approx(1 - proposal.uncertainty_left)
        assert 0 < proposal.uncertainty_left < 1

    def test_a_copy_of_what_was_chosen_is_left_for_later(self, zoo):
        """Batch-aware: of datasets of which two are the same, one is measured before any of them twice."""
        full = only(zoo(n_datasets=4, n_models=3), [])
        values = {("d00", "d01"): 0.0}
        full = replace(
            full,
            similar=full.similar.assign(
                value=[values.get((row.dataset, row.other), 10.0) for row in full.similar.itertuples()]
            ),
        )
        datasets = list(dict.fromkeys(pair[1] for pair in chosen(propose(full, hour_each(full), 9))))
        assert len(datasets) == 3
        assert not {"d00", "d01"} <= set(datasets)

    def test_a_dataset_like_many_comes_before_one_like_none(self, zoo):
        full = only(zoo(n_datasets=5, n_models=3), [])
        full = replace(
            full,
            similar=full.similar.assign(
                value=[
                    20.0 if "d04" in (row.dataset, row.other) else 1.0 for row in full.similar.itertuples()
                ]
            ),
        )
        first = propose(full, hour_each(full), 3)
        assert {pair.dataset for pair in first.pairs} <= {"d00", "d01", "d02", "d03"}
        assert "d04" not in first.pairs[-1].why

    def test_cheap_models_come_first_where_all_else_is_equal(self, zoo):
        full = only(zoo(n_datasets=4, n_models=4), [])
        full = replace(full, models=tuple(Model(model.id, {}) for model in full.models))
        hours = {"m0": 3.0, "m1": 1.0, "m2": 3.0, "m3": 1.0}
        assert {pair.model for pair in propose(full, hours, 4).pairs} == {"m1", "m3"}

    def test_nothing_known_at_all_still_covers_models_evenly(self, zoo):
        """No results, no similarities, no features: models get turns, as nothing speaks for any."""
        full = zoo(n_datasets=4, n_models=4)
        bare = replace(
            only(full, []),
            similar=full.similar[:0],
            models=tuple(Model(model.id, {}) for model in full.models),
            datasets=tuple(Dataset(dataset.id, {}) for dataset in full.datasets),
        )
        for budget in (4, 8, 12):
            turns = Counter(model for model, _ in chosen(propose(bare, hour_each(bare), budget)))
            assert set(turns.values()) == {budget // 4}

    def test_equal_questions_get_equal_answers(self, zoo):
        empty = only(zoo(n_datasets=6), [])
        hours = hour_each(empty)
        assert propose(empty, hours, 8, seed=3) == propose(empty, hours, 8, seed=3)
        shuffled = replace(empty, similar=empty.similar.sample(frac=1, random_state=0))
        assert chosen(propose(shuffled, hours, 8, seed=3)) == chosen(propose(empty, hours, 8, seed=3))

    def test_candidates_and_reasons(self, zoo):
        full = zoo(n_datasets=4)
        candidates = [("m1", "d02"), ("m2", "d02"), ("m0", "d00")]
        proposal = propose(only(full, [("m0", "d00")]), hour_each(full), 10, candidates=candidates)
        assert set(chosen(proposal)) == {("m1", "d02"), ("m2", "d02")}
        first, second = proposal.pairs
        assert "first result on this dataset" in first.why
        assert "first result on this dataset" not in second.why
        assert "first result of this model" in second.why
        with pytest.raises(InvalidRows, match="'nobody'"):
            propose(full, hour_each(full), 10, candidates=[("nobody", "d00")])

    def test_nothing_to_propose(self, zoo):
        full = zoo(n_datasets=4)
        with pytest.raises(NothingToPropose, match="nothing is missing"):
            propose(full, hour_each(full), 10)
        with pytest.raises(NothingToPropose, match="raise --budget"):
            propose(only(full, []), hour_each(full), 0.5)

    @pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
    def test_costs_are_above_nothing(self, zoo, hours):
        empty = only(zoo(n_datasets=4), [])
        with pytest.raises(InvalidRows, match="hours must be above 0"):
            propose(empty, hour_each(empty) | {"m2": hours}, 10)

    def test_a_zoo_too_large_is_looked_at_in_part(self, zoo, monkeypatch):
        monkeypatch.setattr(matchgraph.predictor.active, "MOST_PAIRS", 12)
        empty = only(zoo(n_datasets=8), [])
        proposal = propose(empty, hour_each(empty), 5)
        assert len(proposal.pairs) == 5
        assert proposal.missing == 48
        assert "3 models on 4 datasets" in proposal.basis


def test_round_robin_takes_turns(zoo):
    pairs = missing_pairs(only(zoo(n_datasets=6), []))
    order = round_robin(pairs, seed=1)
    assert sorted(order) == pairs
    for turn in range(6):
        one_round = order[6 * turn : 6 * turn + 6]
        assert len({dataset for _, dataset in one_round}) == len({model for model, _ in one_round}) == 6
    assert order != round_robin(pairs, seed=2)
    assert round_robin(pairs, seed=1) == order


class TestHours:
    def test_recorded_times_and_the_rest_by_size(self, zoo):
        snapshot = zoo(n_models=4)
        costs = {
            "m0": Cost(train_seconds=7200, tflop=10),
            "m1": Cost(train_seconds=3600, tflop=5),
            "m2": Cost(tflop=20, params=1),
            "m3": Cost(params=7),
        }
        hours, basis = pair_hours(snapshot, costs)
        assert hours == {"m0": 2.0, "m1": 1.0, "m2": 4.0, "m3": 2.0}
        assert basis == "recorded times of 2 of 4 models"

    def test_sizes_alone_and_nothing_at_all(self, zoo):
        snapshot = zoo(n_models=3)
        hours, basis = pair_hours(
            snapshot, {"m0": Cost(params=1), "m1": Cost(params=2), "m2": Cost(params=6)}
        )
        assert hours == {"m0": 0.5, "m1": 1.0, "m2": 3.0}
        assert basis.startswith("params alone")
        hours, basis = pair_hours(snapshot, {})
        assert set(hours.values()) == {1.0}
        assert basis.startswith("no facts about any model")


def test_a_part_of_a_graph_has_no_loose_ends(zoo):
    part = part_of(zoo(n_datasets=4), models={"m0", "m1"}, datasets={"d00", "d01", "d02"})
    assert len(part.performs) == 6
    assert set(part.similar["dataset"]) | set(part.similar["other"]) == {"d00", "d01", "d02"}
