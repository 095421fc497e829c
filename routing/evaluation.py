"""The gain of routing on held-out prompts.

Estimators are fitted on the training prompts; what there is to choose of them, and which of them the headline
is about, is chosen on the validation prompts; and everything reported is of the test prompts. A tenth of the
prompts is few to tell routers apart by, so the parts are rotated: in each turn others are the test prompts,
until every prompt was one once.

Source:
    CATImage, sections 3.3 and 5.3 to 5.5: deferral curves, quality at equal cost (Table 2), cost at equal
    quality (Table 3), selection rates (Appendix H).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.prompt_models import ScoreTable, Variant
from matchgraph.progress import Progress, no_progress
from matchgraph.routing.chances import Reliability, reliability
from matchgraph.routing.curves import Comparison, DeferralCurve, compare, oracle, random_mixing, routed
from matchgraph.routing.errors import NotEnoughScores
from matchgraph.routing.policy import choose
from matchgraph.routing.robustness import TOPICS, Rewording, World, another_world, rewording
from matchgraph.routing.standing import Standing, standing
from matchgraph.routing.turns import rotated, turn_of

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit
    from matchgraph.routing.paraphrases import Rewordings
    from matchgraph.training.measure.prompts import EncodedPrompts

FOLDS = 10
CHOSEN, MIXING, ORACLE = "chosen", "random mixing", "oracle"
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
        standings: by estimator.
        chosen: the estimator that routes the validation prompts best; of each turn. Its estimates are those
            under `CHOSEN`.
        singles: the candidate that is best on average on the training prompts, likewise.
        decision_ms: by estimator, see `routing.standing.decision_ms`; the median over turns.
        neighbours: K, as chosen on the validation prompts; of each turn.
        processes: concentration and noise of the Gaussian process, likewise.
        world: prompts of topics that the router was not fitted on; None where no topic has enough.
        rewordings: decisions for other wordings, by kind; see `routing.paraphrases`.
        best: how reliable the chosen router's chances are that a prompt's likeliest candidate is the best for
            it; None where validation and training prompts are too few for chances.
        enough: likewise that a candidate's quality is at least the best single candidate's mean on the
            training prompts.
    """

    metric: str
    variants: tuple[Variant, ...]
    prompts: tuple[str, ...]
    truth: np.ndarray
    estimates: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    curves: Mapping[str, DeferralCurve]
    comparisons: Mapping[str, Comparison]
    standings: Mapping[str, Standing]
    chosen: tuple[str, ...]
    singles: tuple[str, ...]
    decision_ms: Mapping[str, float]
    neighbours: tuple[int, ...]
    processes: tuple[tuple[float, float], ...]
    world: World | None
    rewordings: Mapping[str, Rewording]
    best: Reliability | None = None
    enough: Reliability | None = None

    @property
    def cost(self) -> np.ndarray:
        """Of an image of each candidate, (m,)."""
        return np.array([variant.cost for variant in self.variants])

    @property
    def unit(self) -> Unit:
        """Of all costs."""
        return self.variants[0].unit

    def shares(self, estimator: str, lams: Sequence[float]) -> np.ndarray:
        """How many of the prompts each candidate gets; float64, (number of lambdas, m)."""
        chosen = [choose(self.estimates[estimator], self.cost, lam) for lam in lams]
        return np.array([np.bincount(each, minlength=len(self.variants)) for each in chosen]) / len(
            self.prompts
        )


def evaluate(
    table: ScoreTable,
    encoded: EncodedPrompts,
    *,
    rewordings: Mapping[str, Rewordings] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> Study:
    """Fit the estimators and route the test prompts at every lambda.

    Args:
        table: complete scores, see `routing.turns.complete`; candidates must not all cost the same.
        encoded: its prompts, in its order; without tokens the network is left out.
        rewordings: other wordings of prompts, by kind.
        folds: turns of rotation, see `routing.turns.rotated`; 1 for the table's own split alone.
        seed: of the rotation, of the network and of the bootstrap.
        on_progress: called with the metric, parts done and all parts.

    Raises:
        NotEnoughScores: there are fewer prompts than turns.
    """
    if len(table.prompts) < folds:
        raise NotEnoughScores(
            f"{len(table.prompts)} prompts with scores of all candidates are too few to judge a router by: "
            f"score at least {folds}."
        )
    tables = [table] if folds == 1 else [rotated(table, turn, folds, seed) for turn in range(folds)]
    done = 0

    def part() -> None:
        nonlocal done
        done += 1
        on_progress(table.metric, done, total)

    # Turns, topics, and the comparisons of the chosen router, both without tokens and the network.
    total = len(tables) + TOPICS + (3 if encoded.tokens is None else 4)
    on_progress(table.metric, 0, total)
    turns = []
    for each in tables:
        turns.append(turn_of(each, encoded, seed, rewordings))
        part()
    rows = np.concatenate([turn.rows for turn in turns])
    truth, cost = table.mean[rows], table.cost
    names = list(turns[0].estimates)
    estimates = {
        CHOSEN: np.concatenate([turn.estimates[turn.chosen] for turn in turns]),
        **{name: np.concatenate([turn.estimates[name] for turn in turns]) for name in names},
    }
    single = np.concatenate([np.full(len(turn.rows), turn.single) for turn in turns])
    comparisons, standings = {}, {}
    for name, own in estimates.items():
        comparisons[name] = compare(own, truth, cost, seed=seed)
        standings[name] = standing(own, truth, cost, single, seed=seed)
        part()

    place = np.full(len(table.prompts), -1)
    place[rows] = np.arange(len(rows))

    def worded(own: Rewordings, found: Sequence[np.ndarray]) -> Rewording:
        numbers = np.concatenate([own.of(turn.rows) for turn in turns])
        at = place[own.rows[numbers]]
        return rewording(estimates[CHOSEN], at, np.concatenate(found), truth, cost, seed=seed)

    def judged(parts: Sequence[np.ndarray], likeliest: bool) -> Reliability | None:
        chances, shares, happened = np.concatenate(parts, axis=1)
        if np.isnan(chances).any():
            return None
        return reliability(chances, shares, happened, likeliest=likeliest, seed=seed)

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
        comparisons,
        standings,
        tuple(turn.chosen for turn in turns),
        tuple(table.variants[turn.single].id for turn in turns),
        {name: float(np.median([turn.decision_ms[name] for turn in turns])) for name in names},
        tuple(turn.neighbours for turn in turns),
        tuple(turn.process for turn in turns),
        another_world(table, encoded, seed=seed, on_topic=part),
        {
            name: worded(own, [turn.reworded[name] for turn in turns if name in turn.reworded])
            for name, own in (rewordings or {}).items()
            if len(own.of(rows))
        },
        judged([turn.best for turn in turns], likeliest=True),
        judged([turn.enough for turn in turns], likeliest=False),
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
