"""How much routing is worth, on prompts that nothing was learnt from.

Estimators are fitted on the training prompts, what there is to choose of them is chosen on the validation
prompts, and everything reported is of the test prompts.

Source:
    CATImage, sections 3.3 and 5.3 to 5.5: deferral curves, quality at equal cost (Table 2), cost at equal
    quality (Table 3), selection rates (Appendix H).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from graphdb.prompts import ScoreTable, Variant
from routing.curves import Comparison, DeferralCurve, compare, oracle, random_mixing, routed
from routing.errors import NotEnoughScores
from routing.estimators import NearestPrompts, TokenQuality
from routing.policy import choose

if TYPE_CHECKING:
    from routing.estimators import QualityEstimator
    from training.prompts import EncodedPrompts

NEIGHBOURS = (4, 8, 16, 32, 64, 128)
MIXING, ORACLE = "random mixing", "oracle"
ESTIMATORS = ("knn", "network")
# Words that fewer prompts have tell nothing of where they go.
FEWEST_PROMPTS = 5
MOST_WORDS = 8
# A prompt with the word goes there at twice the odds.
LEAST_LOG_ODDS = float(np.log(2))


@dataclass(frozen=True, eq=False)
class Study:
    """Routing by one metric.

    Attributes:
        metric: its name.
        variants: the candidates, by cost; m of them.
        prompts: texts of the test prompts; n of them.
        truth: measured quality, float64, (n, m).
        estimates: by estimator, (n, m).
        errors: by estimator, the root of the mean squared error of an estimate.
        curves: by estimator, and of random mixing and the oracle.
        comparisons: by estimator.
        neighbours: K, as chosen on the validation prompts.
    """

    metric: str
    variants: tuple[Variant, ...]
    prompts: tuple[str, ...]
    truth: np.ndarray
    estimates: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    curves: Mapping[str, DeferralCurve]
    comparisons: Mapping[str, Comparison]
    neighbours: int

    @property
    def cost(self) -> np.ndarray:
        """TFLOP of an image of each candidate, (m,)."""
        return np.array([variant.tflop for variant in self.variants])

    def shares(self, estimator: str, lams: Sequence[float]) -> np.ndarray:
        """How many of the prompts each candidate gets; float64, (number of lambdas, m)."""
        chosen = [choose(self.estimates[estimator], self.cost, lam) for lam in lams]
        return np.array([np.bincount(each, minlength=len(self.variants)) for each in chosen]) / len(
            self.prompts
        )


def complete(table: ScoreTable) -> ScoreTable:
    """The table without candidates that are not scored at all, and without prompts that one of the others is
    not scored on.

    Raises:
        NotEnoughScores: a split has no such prompt, or all candidates that are left cost the same.
    """
    columns = np.flatnonzero(~np.isnan(table.mean).all(axis=0)) if len(table.prompts) else np.array([], int)
    rows = np.flatnonzero(~np.isnan(table.mean[:, columns]).any(axis=1)) if len(columns) else columns
    kept = replace(
        table,
        prompts=tuple(table.prompts[row] for row in rows),
        variants=tuple(table.variants[column] for column in columns),
        mean=table.mean[np.ix_(rows, columns)],
        std=table.std[np.ix_(rows, columns)],
        samples=table.samples[np.ix_(rows, columns)],
    )
    for name in ("train", "validation", "test"):
        if not len(kept.rows(name)):
            raise NotEnoughScores(
                f"No {name} prompt is scored by {table.metric} for every candidate: run `matchgraph route "
                "score`."
            )
    if not np.ptp(kept.cost):
        raise NotEnoughScores("All candidates that are scored cost the same: score one of another cost.")
    return kept


def best_neighbours(table: ScoreTable, encoded: EncodedPrompts) -> int:
    """The K whose router has the largest area under its deferral curve on the validation prompts.

    Args:
        table: complete scores.
        encoded: its prompts, in its order.
    """
    rows = table.rows("validation")
    truth, cost = table.mean[rows], table.cost
    areas = {}
    for count in NEIGHBOURS:
        estimates = NearestPrompts(table, count).estimate(encoded.part(rows)).quality
        areas[count] = routed(estimates, truth, cost).area(float(cost.min()), float(cost.max()))
    return max(areas, key=lambda count: areas[count])


def evaluate(table: ScoreTable, encoded: EncodedPrompts, *, seed: int = 0) -> Study:
    """Fit both estimators and route the test prompts at every lambda.

    Args:
        table: complete scores, see `complete`; candidates must not all cost the same.
        encoded: its prompts, in its order.
        seed: of the network and of the bootstrap.
    """
    neighbours = best_neighbours(table, encoded)
    made: dict[str, QualityEstimator] = {
        "knn": NearestPrompts(table, neighbours),
        "network": TokenQuality.fit(table, encoded, seed=seed),
    }
    rows = table.rows("test")
    truth, cost, asked = table.mean[rows], table.cost, encoded.part(rows)
    estimates = {name: estimator.estimate(asked).quality for name, estimator in made.items()}
    return Study(
        table.metric,
        table.variants,
        tuple(table.prompts[row].text for row in rows),
        truth,
        estimates,
        {name: float(np.sqrt(((own - truth) ** 2).mean())) for name, own in estimates.items()},
        {
            **{name: routed(own, truth, cost) for name, own in estimates.items()},
            MIXING: random_mixing(truth, cost),
            ORACLE: oracle(truth, cost),
        },
        {name: compare(own, truth, cost, seed=seed) for name, own in estimates.items()},
        neighbours,
    )


def typical_words(prompts: Sequence[str], chosen: Sequence[str]) -> dict[str, list[str]]:
    """For each candidate that is chosen, the words that its prompts have more often than the others' do.

    Args:
        prompts: texts.
        chosen: what each was routed to.

    Returns:
        Words by candidate, the most telling first: by the log odds of a prompt with the word going there,
        half a prompt added to each count.
    """
    words = [frozenset(prompt.lower().replace(",", " ").split()) for prompt in prompts]
    everywhere = Counter(word for own in words for word in own)
    found = {}
    for candidate, total in Counter(chosen).items():
        here = Counter(word for own, to in zip(words, chosen, strict=True) if to == candidate for word in own)
        odds = {}
        for word, count in here.items():
            if everywhere[word] < FEWEST_PROMPTS:
                continue
            elsewhere = everywhere[word] - count
            own = np.log((count + 0.5) / (total - count + 0.5))
            others = np.log((elsewhere + 0.5) / (len(prompts) - total - elsewhere + 0.5))
            if own - others > LEAST_LOG_ODDS:
                odds[word] = own - others
        found[candidate] = sorted(odds, key=lambda word: (-odds[word], word))[:MOST_WORDS]
    return found
