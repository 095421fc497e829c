"""A router says what it expects of each candidate, how sure it is, and on what grounds it decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matchgraph.graphdb.errors import InvalidValue
from matchgraph.routing.chances import Errors
from matchgraph.routing.errors import BudgetTooSmall, InvalidScores, NotEnoughScores, UnusableEstimator
from matchgraph.routing.estimators import Estimates
from matchgraph.routing.router import Familiarity, Router
from tests.routing import circle

AVERAGE = np.array([1.0, 2.0, 2.5])


class Fixed:
    """An estimator of given values; prompts beyond the half circle are unlike all that it knows."""

    metric = "clip_score"

    def __init__(self, quality: list[float], std: list[float], variants: tuple[str, ...] = ()) -> None:
        self.quality, self.std = np.array(quality), np.array(std)
        self.variants = variants or tuple(variant.id for variant in circle.VARIANTS)

    def estimate(self, prompts: Any) -> Estimates:
        shape = (len(prompts), 1)
        similarity = np.where(prompts.embeddings[:, 1] < -0.1, 0.2, 0.95)
        return Estimates(np.tile(self.quality, shape), np.tile(self.std, shape), similarity)


def router(estimator: Any = None, **options: Any) -> Router:
    own = estimator or Fixed([0.1, 0.7, 0.4], [0.01, 0.02, 0.03])
    return Router(own, circle.VARIANTS, Familiarity(0.95, AVERAGE), encoder=circle.Encoder(), **options)


def test_each_candidate_has_its_own_quality_error_and_cost() -> None:
    [decision] = router().decide(["1.0"])
    assert [option.variant for option in decision.options] == ["m-1", "m-4", "m-20"]
    assert [option.quality for option in decision.options] == [0.1, 0.7, 0.4]
    assert [option.std for option in decision.options] == [0.01, 0.02, 0.03]
    assert [option.cost for option in decision.options] == [1, 4, 20]
    assert (decision.variant, decision.model, decision.steps) == ("m-4", "m", 4)
    assert (decision.quality, decision.cost, decision.basis) == (0.7, 4.0, "prompt")
    assert decision.similarity == pytest.approx(0.95)


def test_lambda_is_the_routers_unless_the_request_has_one() -> None:
    # 0.6 more quality for 3 TFLOP more: worth it below 0.2.
    own = router(lam=0.3)
    assert [each.variant for each in own.decide(["1", "2"])] == ["m-1", "m-1"]
    assert [each.variant for each in own.decide(["1", "2"], 0.1)] == ["m-4", "m-4"]
    both = own.decide(["1", "2"], [0.3, 0.1])
    assert [(each.variant, each.lam) for each in both] == [("m-1", 0.3), ("m-4", 0.1)]
    with pytest.raises(InvalidScores, match="lambda"):
        own.decide(["1"], -1.0)
    with pytest.raises(InvalidValue, match="blank"):
        own.decide([" "])


def test_averages_decide_for_an_unfamiliar_prompt() -> None:
    near, far = router().decide(["1.0", "4.0"])
    assert (near.basis, near.variant) == ("prompt", "m-4")
    assert (far.basis, far.variant, far.quality) == ("average", "m-20", 2.5)
    assert [option.quality for option in far.options] == [1.0, 2.0, 2.5]
    assert [option.std for option in far.options] == [None] * 3
    assert router().compared(circle.Encoder().encode(["4.0"])).tolist() == [AVERAGE.tolist()]


def test_options_have_their_chances_unless_the_prompt_is_unfamiliar() -> None:
    # In the order of another fit, and without the last candidate: whether that one is the best is not known.
    errors = Errors(("m-4", "m-1"), np.array([[0.0, 0.0]] * 16 + [[-0.7, 0.0]] * 3))
    near, far = router(errors=errors).decide(["1.0", "4.0"], least=0.5)
    assert [option.p_best for option in near.options] == [None] * 3
    [known] = router(Fixed([0.7, 0.1], [0.02, 0.01], errors.variants), errors=errors).decide(["1.0"])
    best = [(3 + 0.5) / 20, (16 + 0.5) / 20]
    assert [option.p_best for option in known.options] == [*map(pytest.approx, best), None]
    assert [option.p_success for option in near.options] == [0.5 / 20, (16 + 0.5) / 20, None]
    assert {(option.p_best, option.p_success) for option in far.options} == {(None, None)}
    [without] = router(errors=errors).decide(["1.0"])
    assert [option.p_success for option in without.options] == [None] * 3


def test_candidates_that_the_estimator_does_not_know_are_not_chosen() -> None:
    known = Fixed([0.9, 0.2], [0.1, 0.2], ("m-20", "m-1"))
    [decision] = router(known).decide(["1.0"])
    assert [option.quality for option in decision.options] == [0.2, None, 0.9]
    assert [option.std for option in decision.options] == [0.2, None, 0.1]
    assert decision.variant == "m-20"
    with pytest.raises(UnusableEstimator, match="no candidate"):
        router(Fixed([0.9], [0.1], ("gone",)))


def test_a_budget_becomes_the_lambda_that_keeps_it() -> None:
    own, prompts = router(), circle.Encoder().encode(["1.0", "2.0"])
    for budget, variant in ((1.0, "m-1"), (4.0, "m-4"), (100.0, "m-4")):
        assert own.decide(["1.0"], own.lambda_for(prompts, budget))[0].variant == variant
    with pytest.raises(BudgetTooSmall):
        own.lambda_for(prompts, 0.5)


def test_one_prompt_in_a_hundred_like_those_learnt_from_is_unfamiliar() -> None:
    table = circle.table(40)
    similarity = np.linspace(0, 1, 1001)
    familiarity = Familiarity.of(table, similarity)
    assert familiarity.least_similarity == pytest.approx(0.01)
    assert (similarity < familiarity.least_similarity).mean() == pytest.approx(0.01, abs=1e-3)
    assert familiarity.average == pytest.approx(table.mean[table.rows("train")].mean(axis=0))
    table.mean[:, 1] = np.nan
    assert np.isnan(Familiarity.of(table, similarity).average).tolist() == [False, True, False]
    table.mean[:] = np.nan
    with pytest.raises(NotEnoughScores, match="route score"):
        Familiarity.of(table, similarity)
