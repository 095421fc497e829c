"""Other wordings, topics that were held out, and when a prompt counts as unfamiliar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.graphdb.prompt_models import ScoreTable
from matchgraph.routing import robustness
from matchgraph.routing.paraphrases import reword
from matchgraph.routing.robustness import TOPICS, another_world, rewording
from matchgraph.routing.router import least_familiar
from matchgraph.training.measure.prompts import EncodedPrompts


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("A red apple on a table.", "a picture of a red apple on a table"),
        ("noto style, red apple, food", "a picture of food, red apple, noto style"),
    ],
)
def test_a_prompt_is_worded_otherwise(text: str, other: str) -> None:
    assert reword(text) == other


def test_another_wording_is_judged_by_the_prompts_own_images() -> None:
    cost = np.array([1.0, 4.0])
    truth = np.array([[0.5, 0.9], [0.5, 0.6], [0.5, 0.5], [0.5, 0.5]])
    rows = np.arange(4)
    assert rewording(truth, rows, truth, truth, cost).same.value == 1
    # At 2 an image, the first prompt alone gets the dear candidate; its other wording gets the cheap one.
    other = truth.copy()
    other[0] = [0.5, 0.5]
    found = rewording(truth, rows, other, truth, cost)
    assert (found.same.value, found.change.value) == (0.75, pytest.approx(-0.1))
    # Three wordings of two prompts: of the first, one in two keeps the candidate.
    found = rewording(truth, np.array([0, 0, 3]), np.stack([truth[0], other[0], truth[3]]), truth, cost)
    assert (found.wordings, found.same.count) == (3, 2)
    assert (found.same.value, found.change.value) == (0.75, pytest.approx(-0.1))


def test_a_topic_is_held_out_whole(
    scored: tuple[ScoreTable, EncodedPrompts], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, encoded = scored
    seen = []

    def turn_of(own: ScoreTable, plain: EncodedPrompts, *, with_chances: bool) -> object:
        assert plain.tokens is None
        assert not with_chances
        seen.append({name: own.rows(name) for name in ("train", "validation", "test")})
        return original(own, plain, with_chances=with_chances)

    original = robustness.turn_of
    monkeypatch.setattr(robustness, "turn_of", turn_of)
    monkeypatch.setattr(robustness, "TOPICS", 2)
    found = another_world(table, encoded)
    assert found is not None
    assert found.topics == 2
    assert found.unfamiliar.count == found.over_mixing.count == 400
    assert sorted(np.concatenate([rows["test"] for rows in seen])) == list(range(400))
    for rows in seen:
        # The two halves of the circle: no test prompt is among those learnt from.
        assert len(rows["validation"]) == (len(rows["train"]) + len(rows["validation"])) // 10
        middles = [encoded.embeddings[rows[name]].mean(axis=0) for name in ("train", "test")]
        assert middles[0] @ middles[1] < 0


def test_a_topic_that_is_too_small_is_reported_as_done(scored: tuple[ScoreTable, EncodedPrompts]) -> None:
    table, encoded = scored
    few = replace(table, prompts=table.prompts[:15], mean=table.mean[:15])
    done: list[int] = []
    assert another_world(few, encoded.part(np.arange(15)), on_topic=lambda: done.append(1)) is None
    assert len(done) == TOPICS


def test_few_prompts_widen_what_is_familiar() -> None:
    similarity = np.random.default_rng(0).normal(0.8, 0.05, 400)
    assert least_familiar(similarity) == pytest.approx(np.quantile(similarity, 0.01))
    assert least_familiar(similarity[:9]) == -1.0
    # The tabulated tolerance factors of a normal distribution, for 99 % and a confidence of 95 %.
    for count, factor in ((10, 3.981), (20, 3.295), (50, 2.862)):
        some = similarity[:count]
        assert least_familiar(some) == pytest.approx(some.mean() - factor * some.std(ddof=1), abs=1e-3)
