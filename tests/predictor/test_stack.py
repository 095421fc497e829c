"""The default recipe: falls back to the average on noise, beats it where kinds of datasets matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.predictor import mixture, parts
from matchgraph.predictor.baselines import average_loss, average_rank
from matchgraph.predictor.matching import predict
from matchgraph.predictor.metrics import weighted_tau
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker
from matchgraph.predictor.stack import StackMatcher
from matchgraph.predictor.visibility import hide_results, loss_matrix, remove_results
from tests.predictor.zoos import measured_zoo

NAN = float("nan")


@pytest.fixture
def stack(embedder):
    return StackMatcher(PaperMatcher(embedder, CatBoostRanker(CatBoostConfig(iterations=5, depth=2))))


@pytest.fixture
def without_paper(monkeypatch, stack):
    """The stack's closed forms alone, whose folds take hundredths of a second."""
    monkeypatch.setattr(parts, "MOST_RESULTS", 0)
    return stack


def taus(matcher, snapshot, datasets):
    """Weighted tau of the matcher and of the average rank, (n_datasets, 2), and what was learned."""
    truth = loss_matrix(snapshot)
    rows, details = [], []
    for dataset in datasets:
        visible = hide_results(snapshot, dataset)
        ranked = matcher.rank(visible, [dataset])[dataset]
        own = truth.losses[:, truth.datasets.index(dataset)]
        average = average_rank(loss_matrix(visible))
        rows.append([weighted_tau(each, own) for each in (ranked.prediction.expected_rank, average)])
        details.append(ranked.details["mixture"])
    return np.array(rows), details


def test_noise_falls_back_to_the_average(without_paper):
    """Models differ in general and by pure noise; similarities and embeddings say nothing of it."""
    snapshot = measured_zoo(5, n_datasets=20, general=0.1, by_style=0.0, by_category=0.0, own=0.0, noise=0.15)
    visible = hide_results(snapshot, snapshot.datasets[0].id)
    dataset = snapshot.datasets[0].id
    ranked = without_paper.rank(visible, [dataset], explain=True)[dataset]
    assert ranked.details["mixture"]["fell_back"]
    weights = ranked.details["mixture"]["weights"]
    assert max(weights[name] for name in parts.SIMPLE) == 1
    average = {"average_rank": average_rank, "average_value": average_loss}[max(weights, key=weights.get)]
    # Exactly that order.
    assert np.argsort(ranked.prediction.expected_rank) == pytest.approx(
        np.argsort(average(loss_matrix(visible)))
    )


def test_structure_beats_the_average(without_paper):
    snapshot = measured_zoo(2, n_datasets=24)
    datasets = [dataset.id for dataset in snapshot.datasets[::4]]
    rows, details = taus(without_paper, snapshot, datasets)
    assert (rows[:, 0] - rows[:, 1]).mean() > 0.1
    assert not any(own["fell_back"] for own in details)


def test_the_papers_recipe_takes_part_without_the_results_asked_about(zoo, stack):
    snapshot = zoo(n_datasets=9)
    dataset = snapshot.datasets[4].id
    own = snapshot.performs["dataset"] == dataset
    changed = replace(
        snapshot, performs=snapshot.performs.assign(value=snapshot.performs["value"].where(~own, 1.0))
    )
    one, other = (stack.rank(graph, [dataset], explain=True)[dataset] for graph in (snapshot, changed))
    assert one.prediction.expected_rank.tolist() == other.prediction.expected_rank.tolist()
    assert one.details["mixture"]["weights"]["paper"] > 0
    assert dataset not in one.rehearsed
    assert len(one.rehearsed) == 8
    # Reasons add up to the order.
    order = np.argsort(one.prediction.expected_rank)
    assert (np.diff(one.contributions.sum(axis=1)[order]) <= 1e-9).all()


def test_left_out_scores_do_not_see_the_dataset(stack):
    """What a part says of a known dataset stays when the results there change."""
    snapshot = measured_zoo(1, n_datasets=9, n_models=5)
    dataset = snapshot.datasets[0].id
    other = snapshot.datasets[3].id
    values = snapshot.performs["value"]
    swapped = values.where(snapshot.performs["dataset"] != other, values.max() + values.min() - values)

    def left_out(graph):
        visible = hide_results(graph, dataset)
        matrix = parts.known_results(visible)
        scored = stack._scored(visible, matrix, [dataset])
        return {name: own.left_out[:, matrix.datasets.index(other)] for name, own in scored.items()}

    one, two = (
        left_out(snapshot),
        left_out(replace(snapshot, performs=snapshot.performs.assign(value=swapped))),
    )
    assert set(one) == {
        "average_rank",
        "average_value",
        "similar",
        "wider",
        "process",
        "process_of_ranks",
        "paper",
    }
    for name in one:
        before, after = mixture.standardised(one[name]), mixture.standardised(two[name])
        # The variances of a process are chosen from all datasets, so that its scores move a little.
        assert before @ after / len(before) > (0.95 if name.startswith("process") else 1 - 1e-9), name


def test_mixtures_are_all_quarters():
    mixtures = mixture.candidates(3)
    assert len(mixtures) == 15
    assert mixtures.sum(axis=1) == pytest.approx(1)


def test_few_datasets_give_the_average():
    losses = np.arange(8.0).reshape(4, 2)
    learned = mixture.learn([losses, -losses], losses, [0])
    assert learned.fell_back
    assert learned.weights.tolist() == [1, 0]


def test_gaps_ties_and_models_without_results(without_paper):
    snapshot = remove_results(measured_zoo(7, n_datasets=10, n_models=6), 0.4, 0)
    strange = snapshot.performs[snapshot.performs["model"] != "m003"].reset_index(drop=True)
    tied = strange.assign(value=strange["value"].where(strange["dataset"] != snapshot.datasets[2].id, 5.0))
    prediction = predict(replace(snapshot, performs=tied), snapshot.datasets[1].id, without_paper)
    assert len(prediction.ranking) == 6
    assert sum(model.p_best for model in prediction.ranking) == pytest.approx(1)


def test_how_often_a_model_was_the_best() -> None:
    losses = np.array([[1.0, 1.0, 3.0, 1.0], [2.0, 1.0, 2.0, np.nan], [np.nan, 5.0, 4.0, 2.0], [np.nan] * 4])
    wins = mixture.Wins(losses)
    # Of 4, 3, 3 and 0 datasets: the second is shared.
    expected = np.array([2.5 + 0.5, 1.5 + 0.5, 0.5, 0.5]) / (np.array([4, 3, 3, 0]) + mixture.PRIOR_DATASETS)
    assert wins.frequency() == pytest.approx(expected / expected.sum())
    expected = np.array([1.5 + 0.5, 1.5 + 0.5, 0.5, 0.5]) / (np.array([3, 3, 2, 0]) + mixture.PRIOR_DATASETS)
    assert wins.frequency(without=3) == pytest.approx(expected / expected.sum())


def test_a_model_that_is_always_the_best_is_surer_than_its_scores() -> None:
    """Scores in which it leads by little; where another leads as little as often, they decide alone."""
    rng = np.random.default_rng(1)
    columns = tuple(mixture.standardised(rng.normal(size=5) - np.eye(5)[0]) for _ in range(40))
    found = {}
    for name in ("always", "as scored"):
        best = [0 if name == "always" else int(own.argmin()) for own in columns]
        losses = 1.0 - np.eye(5)[:, best]
        learned = mixture.Learned(np.ones(1), np.arange(40), columns, 0.0, 0.0, False)
        chances = mixture.Chances(learned, losses)
        assert {round(float(own.p_best.sum()), 9) for own in chances.rehearsed.values()} == {1.0}
        found[name] = chances.predict(np.array([0.0, 0.1, 0.1, 0.1, 0.1]), np.ones(5)).p_best[0]
    assert found["always"] > 0.6 > 0.5 > found["as scored"]


def test_chances_fit_how_often_the_first_was_best():
    """Scores that say nothing make chances even; scores that say all make them sure."""
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(5, 30))
    chosen = np.arange(30)
    for scores, low, high in ((rng.normal(size=losses.shape), 0.0, 0.45), (losses, 0.7, 1.0)):
        columns = tuple(mixture.standardised(own) for own in scores.T)
        learned = mixture.Learned(np.ones(1), chosen, columns, 0.0, 0.0, False)
        sure = [own.p_best.max() for own in mixture.Chances(learned, losses).rehearsed.values()]
        assert low <= np.mean(sure) <= high
