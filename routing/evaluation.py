"""The gain of routing on held-out prompts.

Estimators are fitted on the training prompts, what there is to choose of them is chosen on the validation
prompts, and everything reported is of the test prompts. A tenth of the prompts is few to tell routers apart
by, so the parts are rotated: in each turn others are the test prompts, until every prompt was one once.

Source:
    CATImage, sections 3.3 and 5.3 to 5.5: deferral curves, quality at equal cost (Table 2), cost at equal
    quality (Table 3), selection rates (Appendix H).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from matchgraph.graphdb.prompts import ScoreTable, Variant
from matchgraph.routing.curves import Comparison, DeferralCurve, compare, oracle, random_mixing, routed
from matchgraph.routing.errors import NotEnoughScores
from matchgraph.routing.estimators import NearestPrompts
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.policy import choose, one_unit
from matchgraph.routing.process import GaussianQuality

if TYPE_CHECKING:
    from matchgraph.graphdb.prompts import Split, Unit
    from matchgraph.routing.estimators import QualityEstimator
    from matchgraph.training.measure.prompts import EncodedPrompts

T = TypeVar("T")

NEIGHBOURS = (4, 8, 16, 32, 64, 128)
# Concentration and noise.
PROCESSES = ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (3.0, 2.0), (3.0, 0.5))
FOLDS = 10
MIXING, ORACLE = "random mixing", "oracle"
ESTIMATORS = ("knn", "gaussian", "network")
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
        neighbours: K, as chosen on the validation prompts; of each turn.
        processes: concentration and noise of the Gaussian process, likewise.
    """

    metric: str
    variants: tuple[Variant, ...]
    prompts: tuple[str, ...]
    truth: np.ndarray
    estimates: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    curves: Mapping[str, DeferralCurve]
    comparisons: Mapping[str, Comparison]
    neighbours: tuple[int, ...]
    processes: tuple[tuple[float, float], ...]

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


def complete(table: ScoreTable) -> ScoreTable:
    """The table without candidates that are not scored at all, and without prompts that one of the others is
    not scored on.

    Raises:
        NotEnoughScores: a split has no such prompt, or all candidates that are left cost the same.
        InvalidScores: their costs are of different units.
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
    one_unit(kept.variants)
    if not np.ptp(kept.cost):
        raise NotEnoughScores("All scored candidates cost the same: score one with another cost.")
    return kept


def best_neighbours(table: ScoreTable, encoded: EncodedPrompts) -> int:
    """The K whose router has the largest area under its deferral curve on the validation prompts.

    Args:
        table: complete scores.
        encoded: its prompts, in its order.
    """
    return _best({count: NearestPrompts(table, count) for count in NEIGHBOURS}, table, encoded)


def best_process(table: ScoreTable, encoded: EncodedPrompts) -> tuple[float, float]:
    """Concentration and noise of the Gaussian process that routes the validation prompts best.

    Args:
        table: complete scores.
        encoded: its prompts, in its order.
    """
    made = {
        (concentration, noise): GaussianQuality.fit(table, concentration=concentration, noise=noise)
        for concentration, noise in PROCESSES
    }
    return _best(made, table, encoded)


def _best(made: Mapping[T, QualityEstimator], table: ScoreTable, encoded: EncodedPrompts) -> T:
    rows = table.rows("validation")
    truth, cost, asked = table.mean[rows], table.cost, encoded.part(rows)
    low, high = float(cost.min()), float(cost.max())
    areas = {
        key: routed(own.estimate(asked).quality, truth, cost).area(low, high) for key, own in made.items()
    }
    return max(areas, key=lambda key: areas[key])


def rotated(table: ScoreTable, turn: int, folds: int, seed: int = 0) -> ScoreTable:
    """The table with other prompts as training, validation and test prompts.

    Args:
        table: scores.
        turn: from 0 to `folds` - 1; the test prompts of all turns are all prompts, each once.
        folds: at least 3; one part is tested on, the following one chosen by, and the others are learnt from.
        seed: of the parts.
    """
    part = np.random.default_rng(seed).permutation(len(table.prompts)) % folds
    names: dict[int, Split] = {turn: "test", (turn + 1) % folds: "validation"}
    prompts = tuple(
        replace(prompt, split=names.get(int(own), "train"))
        for prompt, own in zip(table.prompts, part, strict=True)
    )
    return replace(table, prompts=prompts)


def evaluate(table: ScoreTable, encoded: EncodedPrompts, *, folds: int = FOLDS, seed: int = 0) -> Study:
    """Fit the estimators and route the test prompts at every lambda.

    Args:
        table: complete scores, see `complete`; candidates must not all cost the same.
        encoded: its prompts, in its order.
        folds: turns of rotation, see `rotated`; 1 for the table's own split alone.
        seed: of the rotation, of the network and of the bootstrap.
    """
    turns = [table] if folds == 1 else [rotated(table, turn, folds, seed) for turn in range(folds)]
    tested: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ESTIMATORS}
    neighbours, processes = [], []
    for own in turns:
        neighbours.append(best_neighbours(own, encoded))
        processes.append(best_process(own, encoded))
        concentration, noise = processes[-1]
        made: dict[str, QualityEstimator] = {
            "knn": NearestPrompts(own, neighbours[-1]),
            "gaussian": GaussianQuality.fit(own, concentration=concentration, noise=noise),
            "network": TokenQuality.fit(own, encoded, seed=seed),
        }
        tested.append(own.rows("test"))
        asked = encoded.part(tested[-1])
        for name, estimator in made.items():
            parts[name].append(estimator.estimate(asked).quality)
    rows = np.concatenate(tested)
    truth, cost = table.mean[rows], table.cost
    estimates = {name: np.concatenate(some) for name, some in parts.items()}
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
        tuple(neighbours),
        tuple(processes),
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
