"""What becomes of a router's gain where prompts are worded otherwise, or are of another world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.curves import compare
from matchgraph.routing.estimators import NearestPrompts, known_mean
from matchgraph.routing.policy import choose, lambda_for_budget
from matchgraph.routing.router import least_familiar
from matchgraph.routing.standing import Standing, standing
from matchgraph.routing.turns import turn_of
from matchgraph.stats.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable, Split
    from matchgraph.training.measure.prompts import EncodedPrompts

TOPICS = 8
# A topic of fewer prompts is not held out.
FEWEST_PROMPTS = 10


@dataclass(frozen=True)
class Rewording:
    """Decisions for other wordings of the test prompts, at the middle of all budgets.

    Several wordings of a prompt count as one on average; intervals are over prompts.

    Attributes:
        wordings: how many.
        same: share of the prompts whose candidate stays the same.
        change: of the quality on the prompts themselves, if the other wordings decide.
    """

    wordings: int
    same: Interval
    change: Interval


@dataclass(frozen=True)
class World:
    """A router of prompts of other topics than those it was fitted on, by what the validation prompts chose.

    Attributes:
        topics: how many were held out, one at a time.
        unfamiliar: share of their prompts that are marked as unfamiliar; averages decide those.
        over_mixing: see `routing.curves.Comparison`.
        standing: see `routing.standing.standing`.
    """

    topics: int
    unfamiliar: Interval
    over_mixing: Interval
    standing: Standing


def rewording(
    estimates: np.ndarray,
    rows: np.ndarray,
    reworded: np.ndarray,
    truth: np.ndarray,
    cost: np.ndarray,
    *,
    seed: int = 0,
) -> Rewording:
    """Compare decisions for prompts with those for other wordings.

    Args:
        estimates: of the prompts, (n, m).
        rows: number of the prompt that each other wording is of, (p,).
        reworded: of the other wordings, (p, m).
        truth: of the prompts, (n, m).
        cost: (m,).
        seed: of the bootstrap.
    """
    budget = float(np.sqrt(cost.min() * cost.max()))
    lam = lambda_for_budget(estimates, cost, budget)
    own, other = choose(estimates, cost, lam)[rows], choose(reworded, cost, lam)
    count = np.bincount(rows, minlength=len(truth))

    def by_prompt(values: np.ndarray) -> np.ndarray:
        return (np.bincount(rows, values, len(truth)) / np.maximum(count, 1))[count > 0]

    return Rewording(
        len(rows),
        mean_interval(by_prompt((own == other).astype(float)), seed=seed),
        mean_interval(by_prompt(truth[rows, other] - truth[rows, own]), seed=seed),
    )


def another_world(
    table: ScoreTable,
    encoded: EncodedPrompts,
    *,
    seed: int = 0,
    on_topic: Callable[[], None] = lambda: None,
) -> World | None:
    """Hold out one topic of prompts at a time: k-means over their embeddings.

    Args:
        table: complete scores.
        encoded: its prompts, in its order; the network is left out.
        seed: of the topics, the validation prompts and the bootstrap.
        on_topic: called after each topic, held out or too small.

    Returns:
        None where no topic has enough prompts.
    """
    from scipy.cluster.vq import kmeans2

    plain = replace(encoded, tokens=None, mask=None)
    _, topic = kmeans2(plain.embeddings.astype(np.float64), TOPICS, minit="++", rng=seed)
    generator = np.random.default_rng(seed)
    rows, estimates, single, marked = [], [], [], []
    for number in range(TOPICS):
        out = topic == number
        if FEWEST_PROMPTS <= out.sum() <= len(out) - FEWEST_PROMPTS:
            own = _held_out(table, out, generator)
            turn = turn_of(own, plain, with_chances=False)
            nearest = NearestPrompts(own, 1)
            least = least_familiar(nearest.estimate(plain.part(own.rows("validation"))).similarity)
            unlike = nearest.estimate(plain.part(turn.rows)).similarity < least
            average = known_mean(own.mean[own.rows("train")], 0)
            rows.append(turn.rows)
            estimates.append(np.where(unlike[:, None], average, turn.estimates[turn.chosen]))
            single.append(np.full(len(turn.rows), turn.single))
            marked.append(unlike)
        on_topic()
    if not rows:
        return None
    truth, quality = table.mean[np.concatenate(rows)], np.concatenate(estimates)
    return World(
        len(rows),
        mean_interval(np.concatenate(marked).astype(float), seed=seed),
        compare(quality, truth, table.cost, seed=seed).over_mixing,
        standing(quality, truth, table.cost, np.concatenate(single), seed=seed),
    )


def _held_out(table: ScoreTable, out: np.ndarray, generator: np.random.Generator) -> ScoreTable:
    """The table with some prompts to test on, and of the others a tenth to choose by."""
    chosen = generator.permutation(np.flatnonzero(~out))
    validation = set(chosen[: max(1, len(chosen) // 10)].tolist())

    def split(row: int) -> Split:
        if out[row]:
            return "test"
        return "validation" if row in validation else "train"

    prompts = tuple(replace(prompt, split=split(row)) for row, prompt in enumerate(table.prompts))
    return replace(table, prompts=prompts)
