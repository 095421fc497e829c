"""Active measurement: the fine-tunings from which the predictor learns most within a budget of hours.

An edge of the graph costs hours, so which are measured matters. The posterior covariance of a Gaussian
process over all pairs (`predictor.belief`) says what a measurement would tell about every other pair before
it is made.

Acquisition. Take the pair whose measurement most reduces, per hour, the weighted sum of the variances of the
contrasts f(m, d) - mean of f(., d), f = a + g, over all models and datasets. A contrast weighs more, the
likelier its model is the best one there, as that is what users ask: half of all weight is spread evenly, half
by the chance of being best. It is *batch-aware*: the covariance after a measurement does not depend on its
outcome, so each pair is chosen as if those before it were measured, and what a near-copy of one of them could
tell is gone.

Source:
    Variance reduction: Cohn, Ghahramani and Jordan, "Active learning with statistical models", JAIR 1996.
    Greedy batches of a Gaussian process: Krause, Singh and Guestrin, "Near-optimal sensor placements", JMLR
    2008. Their use here is ours; none of the papers that this project follows has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.belief import Belief, Pair
from matchgraph.predictor.errors import InvalidRows, NothingToPropose
from matchgraph.predictor.visibility import part_of
from matchgraph.words import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Cost

# The covariance of all pairs is a square matrix of that size: 4,000 pairs take 128 MB.
MOST_PAIRS = 4_000
# Rounding of a sum of hours.
SLACK_H = 1e-9
# A smaller share of what a measurement tells is not worth a word.
LEAST_SHARE_NAMED = 0.02


@dataclass(frozen=True)
class ProposedPair:
    """A proposed measurement.

    Attributes:
        model: its id.
        dataset: its id.
        hours: its cost.
        gain: share of the initial uncertainty that it removes, given those proposed before it.
        why: what it informs about, in words.
    """

    model: str
    dataset: str
    hours: float
    gain: float
    why: str


@dataclass(frozen=True)
class Proposal:
    """What to measure, most instructive per hour first.

    Attributes:
        pairs: the measurements.
        hours: what they cost together.
        missing: how many pairs could have been proposed.
        uncertainty_left: share of the uncertainty that stays when all of them are measured.
        basis: what the choice is based on, in words.
    """

    pairs: tuple[ProposedPair, ...]
    hours: float
    missing: int
    uncertainty_left: float
    basis: str


def propose(
    snapshot: Snapshot,
    hours: Mapping[str, float],
    budget_hours: float,
    *,
    candidates: Collection[Pair] | None = None,
    seed: int = 0,
) -> Proposal:
    """Choose what to measure next.

    Args:
        snapshot: the graph; also one without any result.
        hours: cost of one fine-tuning with its measurement, by model.
        budget_hours: what may be spent.
        candidates: the pairs to choose from; None for all without a result.
        seed: settles ties, and which pairs are looked at in a zoo of more than 4,000.

    Returns:
        The proposal; equal arguments give equal proposals.

    Raises:
        NothingToPropose: every pair is measured, or the budget does not pay for any.
        InvalidRows: a cost is not above 0, or the budget is not.
    """
    check_costs(hours, budget_hours)
    missing = missing_pairs(snapshot, candidates)
    if not missing:
        raise NothingToPropose("Every pair of model and dataset has a result: nothing is missing.")
    cheapest = min(hours[model] for model, _ in missing)
    if cheapest > budget_hours:
        raise NothingToPropose(
            f"The cheapest missing pair takes about {cheapest:.3g} hours, more than the {budget_hours:g} of "
            "the budget: raise --budget-hours."
        )
    belief = Belief(_within_reach(snapshot, seed))
    before = belief.uncertainty()
    chosen = []
    for pair, gain, why in _greedy(belief, missing, hours, budget_hours, seed):
        chosen.append(ProposedPair(*pair, hours[pair[0]], gain / before if before else 0.0, why))
    return Proposal(
        tuple(chosen),
        sum(pair.hours for pair in chosen),
        len(missing),
        belief.uncertainty() / before if before else 0.0,
        f"{belief.results} results of {len(belief.models)} models on {len(belief.datasets)} datasets",
    )


def missing_pairs(snapshot: Snapshot, candidates: Collection[Pair] | None = None) -> list[Pair]:
    """The pairs without a result after fine-tuning, sorted.

    Args:
        snapshot: the graph.
        candidates: to choose from; None for all of its models and datasets.

    Raises:
        InvalidRows: a candidate names a model or a dataset that the graph does not have.
    """
    models = {model.id for model in snapshot.models}
    datasets = {dataset.id for dataset in snapshot.datasets}
    for model, dataset in candidates or ():
        if model not in models or dataset not in datasets:
            raise InvalidRows(f"the graph has no pair of model {model!r} and dataset {dataset!r}")
    measured = snapshot.performs[snapshot.performs["value"].notna()]
    known = set(zip(measured["model"], measured["dataset"], strict=True))
    wanted = product(models, datasets) if candidates is None else set(candidates)
    return sorted(pair for pair in wanted if pair not in known)


def round_robin(pairs: Collection[Pair], seed: int = 0) -> list[Pair]:
    """Pairs in rounds: one model on each dataset, all models in turn, in the next round each moved on by one.

    Args:
        pairs: to order; those that are not among them are passed over.
        seed: of the order of models and datasets.

    Returns:
        All of them.
    """
    rng = np.random.default_rng(seed)
    models = rng.permutation(sorted({model for model, _ in pairs})).tolist()
    datasets = rng.permutation(sorted({dataset for _, dataset in pairs})).tolist()
    row = {model: index for index, model in enumerate(models)}
    column = {dataset: index for index, dataset in enumerate(datasets)}
    return sorted(
        pairs, key=lambda pair: ((row[pair[0]] - column[pair[1]]) % len(models), column[pair[1]], pair)
    )


def pair_hours(snapshot: Snapshot, costs: Mapping[str, Cost]) -> tuple[dict[str, float], str]:
    """Estimated time of one fine-tuning of each model.

    Recorded times are used if there are any. Other models are estimated from the median time per TFLOP, or
    per parameter, of those that have one; without any recorded time, from TFLOP or parameters alone, with an
    hour for the median model. A model without facts costs as much as the median one.

    Args:
        snapshot: the graph.
        costs: by model, see `predictor.matching.Cost`.

    Returns:
        Hours by model, and what they are based on, in words.
    """
    models = [model.id for model in snapshot.models]
    seconds = {m: t for m in models if m in costs and (t := costs[m].train_seconds)}
    sizes: dict[str, float] = {}
    for size in ("tflop", "params"):
        sizes = {m: value for m in models if m in costs and (value := getattr(costs[m], size))}
        if sizes:
            break
    if seconds:
        rates = [seconds[m] / sizes[m] for m in seconds if m in sizes]
        guessed = {m: sizes[m] * median(rates) for m in sizes} if rates else {}
        known = {**guessed, **seconds}
        basis = f"recorded times of {len(seconds)} of {len(models)} models"
    elif sizes:
        middle = median(sizes.values())
        known = {m: value / middle * SECONDS_PER_HOUR for m, value in sizes.items()}
        basis = f"{size} alone, with an hour for the median model: no times are recorded"
    else:
        known, basis = {}, "no facts about any model, with an hour for each"
    usual = median(known.values()) if known else SECONDS_PER_HOUR
    return {m: known.get(m, usual) / SECONDS_PER_HOUR for m in models}, basis


def check_costs(hours: Mapping[str, float], budget_hours: float) -> None:
    """Reject hours that are not positive.

    Raises:
        InvalidRows: a number that is not above 0.
    """
    for name, value in {**hours, "the budget": budget_hours}.items():
        if not (np.isfinite(value) and value > 0):
            raise InvalidRows(f"hours must be above 0, got {value} for {name}")


def _greedy(
    belief: Belief,
    missing: Sequence[Pair],
    hours: Mapping[str, float],
    budget_hours: float,
    seed: int,
) -> Iterator[tuple[Pair, float, str]]:
    """Pairs in the order of choice, with the uncertainty each removes, until none is affordable."""
    known_models, known_datasets = set(belief.models), set(belief.datasets)
    pairs = [pair for pair in missing if pair[0] in known_models and pair[1] in known_datasets]
    numbers = np.array([belief.number(pair) for pair in pairs])
    cost = np.array([hours[model] for model, _ in pairs])
    # Differences below rounding are ties, which the seed settles.
    luck = np.random.default_rng(seed).permutation(len(pairs)) * 1e-9 / max(len(pairs), 1)
    reached = set(belief.reached)
    left = budget_hours
    open_ = np.ones(len(pairs), dtype=bool)
    while (affordable := open_ & (cost <= left + SLACK_H)).any():
        rows = np.flatnonzero(affordable)
        gains = np.maximum(belief.gains()[numbers[rows]], 0.0)
        best = int(np.argmax(gains / cost[rows] * (1 + luck[rows])))
        pair, number = pairs[rows[best]], int(numbers[rows[best]])
        per_dataset = (belief.weights * belief.contrasts(number) ** 2).reshape(belief.shape).sum(axis=0)
        yield pair, float(gains[best]), _why(belief, pair, per_dataset, reached)
        reached |= set(pair)
        belief.measure(number)
        open_[rows[best]] = False
        left -= cost[rows[best]]


def _why(belief: Belief, pair: Pair, per_dataset: np.ndarray, reached: Collection[str]) -> str:
    """Why a measurement is useful, in words; `reached` are the models and datasets that have results."""
    model, dataset = pair
    shares = per_dataset / per_dataset.sum() if per_dataset.any() else per_dataset
    own = belief.datasets.index(dataset)
    others = [i for i in np.argsort(-shares, kind="stable") if i != own and shares[i] >= LEAST_SHARE_NAMED]
    parts = [
        f"this dataset {shares[own]:.0%}",
        *(f"{belief.datasets[i]} {shares[i]:.0%}" for i in others[:2]),
    ]
    news = [
        words
        for name, words in ((model, "first result of this model"), (dataset, "first result on this dataset"))
        if name not in reached
    ]
    return "; ".join([*news, f"informs about {', '.join(parts)}"])


def _within_reach(snapshot: Snapshot, seed: int) -> Snapshot:
    """The snapshot, or so much of it that the covariance of its pairs fits in memory."""
    models, datasets = list(snapshot.models), list(snapshot.datasets)
    if len(models) * len(datasets) <= MOST_PAIRS:
        return snapshot
    rng = np.random.default_rng(seed)
    side = int(MOST_PAIRS**0.5)
    if len(models) > side:
        fewer = max(side, MOST_PAIRS // len(datasets))
        models = [models[i] for i in sorted(rng.permutation(len(models))[:fewer])]
    fewer = MOST_PAIRS // len(models)
    datasets = [datasets[i] for i in sorted(rng.permutation(len(datasets))[:fewer])]
    return part_of(snapshot, models={m.id for m in models}, datasets={d.id for d in datasets})
