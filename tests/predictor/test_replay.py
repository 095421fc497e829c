"""Accuracy against budget: nothing hidden is seen, no order overspends, and what teaches more shows."""

from __future__ import annotations

import numpy as np
import pytest

import matchgraph.predictor.replay
from matchgraph.graphdb.embedding import Node2VecConfig
from matchgraph.graphdb.node2vecplus import Node2VecPlus
from matchgraph.predictor.config import ReplayConfig
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.predictor.ranker import ForestConfig, ForestRanker
from matchgraph.predictor.replay import (
    ORDERS,
    Order,
    affordable,
    budget_curve,
    dataset_by_dataset,
    only,
)

ONCE = ReplayConfig(shares=(0.2, 0.5), replays=1, folds=2)


@pytest.fixture
def matcher():
    """As small as can be: what is learned does not matter here."""
    embedder = Node2VecPlus(Node2VecConfig(dimension=8, walk_length=8, walks_per_node=4, iterations=1))
    return PaperMatcher(embedder, ForestRanker(ForestConfig(20)))


def hours_of(snapshot) -> dict[str, float]:
    return {model.id: 1.0 + number % 3 for number, model in enumerate(snapshot.models)}


def test_all_orders_at_all_budgets(zoo, matcher):
    snapshot = zoo(n_datasets=8)
    told = []
    curve = budget_curve(
        snapshot, hours_of(snapshot), matcher, config=ONCE, progress=lambda *step: told.append(step)
    )
    assert [order.key for order in curve.curves] == [order.key for order in ORDERS]
    assert curve.trainings == 2 * (4 * 2 + 1) == len(told)
    assert told[0] == (0, 18, "Active, 20% of the budget")
    assert curve.datasets == 8
    assert curve.hours == 4 * sum(hours_of(snapshot).values())
    for order in curve.curves:
        for point in order.points:
            # One more pair would not have fitted.
            assert point.share * curve.hours - 1 < point.hours <= point.share * curve.hours + 1e-9
            assert 0 <= point.figures["osr"].value <= 1
            assert point.figures["tau_w"].count == 8
    active, random = curve.curves[0], curve.curves[1]
    lead = active.lead["random"]["tau_w"].value
    assert lead == pytest.approx(-random.lead["active"]["tau_w"].value)
    differences = [
        a.figures["tau_w"].value - r.figures["tau_w"].value
        for a, r in zip(active.points, random.points, strict=True)
    ]
    assert lead == pytest.approx(np.mean(differences))


@pytest.mark.slow
def test_equal_seeds_give_equal_curves(zoo, matcher):
    snapshot = zoo(n_datasets=8)
    arguments = (snapshot, hours_of(snapshot), matcher, ONCE)
    first = budget_curve(*arguments)
    assert budget_curve(*arguments).curves == first.curves


def test_no_order_sees_what_is_hidden(zoo, matcher, monkeypatch):
    """Planning gets neither the users' datasets nor a result that was not revealed."""
    snapshot = zoo(n_datasets=8)
    seen = []
    propose = matchgraph.predictor.replay.propose

    def watched(known, hours, budget, *, candidates, seed):
        seen.append((known, candidates))
        return propose(known, hours, budget, candidates=candidates, seed=seed)

    monkeypatch.setattr(matchgraph.predictor.replay, "propose", watched)
    budget_curve(snapshot, hours_of(snapshot), matcher, config=ONCE, orders=ORDERS[:1])
    assert len(seen) == 4
    for known, candidates in seen:
        assert len(known.datasets) == 4
        ids = {dataset.id for dataset in known.datasets}
        assert set(known.performs["dataset"]) <= ids
        assert set(known.similar["dataset"]) | set(known.similar["other"]) <= ids
        assert not set(candidates) & set(zip(known.performs["model"], known.performs["dataset"], strict=True))
    assert [len(known.performs) > 0 for known, _ in seen] == [False, True, False, True]


def test_the_predictor_gets_only_what_was_revealed(zoo, matcher, monkeypatch):
    snapshot = zoo(n_datasets=8)
    visible = []
    rank = matcher.rank

    def watched(graph, datasets):
        visible.append((graph, datasets))
        return rank(graph, datasets)

    monkeypatch.setattr(matcher, "rank", watched)
    budget_curve(snapshot, hours_of(snapshot), matcher, config=ONCE, orders=ORDERS[1:2])
    assert [len(graph.datasets) for graph, _ in visible] == [8] * 6
    for graph, targets in visible:
        assert not set(graph.performs["dataset"]) & set(targets)
    counts = [len(graph.performs) for graph, _ in visible]
    assert counts[0] < counts[1] < counts[2] == 24


def test_an_order_that_teaches_more_leads(zoo, matcher):
    """Where one order of models holds everywhere, any whole dataset tells it, and a single model nothing."""
    snapshot = zoo(n_datasets=8, advantage=0.0, noise=0.01)
    whole = Order("whole", "Whole", lambda pairs, _: sorted(pairs, key=lambda pair: pair[::-1]))
    single = Order("single", "Single", lambda pairs, _: sorted(pairs))
    config = ReplayConfig(shares=(0.17,), replays=1, folds=4)
    curve = budget_curve(
        snapshot, {f"m{i}": 1.0 for i in range(6)}, matcher, config=config, orders=[single, whole]
    )
    assert curve.curves[0].points[0].figures["tau_w"].value == 0
    assert curve.curves[1].lead["single"]["tau_w"].low > 0.5
    assert curve.curves[0].lead["whole"]["tau_w"].high < -0.5
    assert curve.everything["tau_w"].value > 0.5


def test_too_little_to_rank_by_is_a_tie(zoo, matcher):
    snapshot = zoo(n_datasets=8)
    config = ReplayConfig(shares=(0.05,), replays=1, folds=2)
    curve = budget_curve(
        snapshot, {f"m{i}": 1.0 for i in range(6)}, matcher, config=config, orders=ORDERS[2:3]
    )
    assert curve.curves[0].points[0].pairs == 1
    assert curve.curves[0].points[0].figures["osr"].value == pytest.approx(1 / 6)


def test_too_few_datasets(zoo, matcher):
    snapshot = zoo(n_datasets=6)
    with pytest.raises(NotEnoughResults, match="8 datasets"):
        budget_curve(snapshot, hours_of(snapshot), matcher)


@pytest.mark.parametrize(
    "change", [{"shares": ()}, {"shares": (0.4, 0.2)}, {"shares": (0.5, 1.0)}, {"replays": 0}, {"folds": 1}]
)
def test_settings_are_checked(change):
    with pytest.raises(InvalidRows):
        ReplayConfig(**change)


def test_what_a_budget_pays_for():
    pairs = [("dear", "a"), ("cheap", "a"), ("dear", "b"), ("cheap", "b")]
    assert affordable(pairs, {"dear": 3.0, "cheap": 1.0}, 5.0) == [
        ("dear", "a"),
        ("cheap", "a"),
        ("cheap", "b"),
    ]


def test_dataset_by_dataset(zoo):
    pairs = sorted(zip(zoo().performs["model"], zoo().performs["dataset"], strict=True))
    order = dataset_by_dataset(pairs, 0)
    assert sorted(order) == pairs
    assert len({dataset for _, dataset in order[:6]}) == 1
    assert [pair[1] for pair in order] != sorted(pair[1] for pair in order)


def test_only_some_results(zoo):
    assert len(only(zoo(), [("m0", "d00"), ("m1", "d00")]).performs) == 2
