"""Which fine-tunings would teach the predictor most? Active measurement under a budget of hours.

An edge of the graph costs hours, so which are measured matters. The choice needs a belief with an honest
uncertainty rather than the best prediction, so it has a model of its own: a Gaussian process over all pairs,
whose posterior covariance says what a measurement would tell about every other pair before it is made.

Belief. The score y of model m on dataset d, smaller is better, is

    y(m, d) = level(d) + a(m) + g(m, d) + noise,

where a is how good a model is anywhere, g how much better it is on datasets of this kind, and the level, in
which datasets differ, tells nothing about models. Models are alike by their features, datasets by their
recorded similarity. Scores are normal scores of the ranks within each dataset, as ranks are what the
predictor learns. The noise holds what a dataset has to itself, too: it cannot be carried over to a new one.

Acquisition. Take the pair whose measurement most reduces, per hour, the weighted sum of the variances of the
contrasts f(m, d) - mean of f(., d), f = a + g, over all models and datasets. A contrast weighs more, the
likelier its model is the best one there, as that is what users ask: half of all weight is spread evenly, half
by the chance of being best. It is *batch-aware*: the covariance after a measurement does not depend on its
outcome, so each pair is chosen as if those before it were measured, and what a near-copy of one of them could
tell is gone.

Source:
    Variance reduction: Cohn, Ghahramani and Jordan, "Active learning with statistical models", JAIR 1996.
    Greedy batches of a Gaussian process: Krause, Singh and Guestrin, "Near-optimal sensor placements", JMLR
    2008. The belief and its use here are ours; none of the papers that this project follows has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.errors import InvalidRows, NothingToPropose
from matchgraph.predictor.kernels import dataset_distances, feature_distances, positive_definite
from matchgraph.predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Cost

Pair = tuple[str, str]

# Variance of a model's general standing, of its standing on a kind of dataset, and of the noise; scores have
# a variance of about 1. The first is used until there are enough results to choose by likelihood.
SHARES = ((0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.3, 0.1, 0.6), (0.1, 0.3, 0.6))
# How far datasets are alike, in medians of their distances.
REACHES = (1.0, 0.5, 0.25)
# How much of models' standing their features can tell.
FEATURE_SHARES = (0.5, 0.0, 0.9)
LEVEL_VARIANCE = 1.0
# Chosen on other zoos than those it was measured on (bench/README.md): it found the best model a little
# more often than 0 did and ordered as well, both within noise. --share-for-the-best compares.
SHARE_FOR_THE_BEST = 0.5
DRAWS = 500
FEWEST_RESULTS = 20
# A Cholesky factor of so many results takes hundredths of a second, and there are 45 choices.
MOST_RESULTS_FOR_LIKELIHOOD = 400
# The covariance of all pairs is a square matrix of that size: 4,000 pairs take 128 MB.
MOST_PAIRS = 4_000
SECONDS_PER_HOUR = 3600.0
# Rounding of a sum of hours.
SLACK_H = 1e-9
# A smaller share of what a measurement tells is not worth a word.
LEAST_SHARE_TOLD = 0.02


@dataclass(frozen=True)
class ProposedPair:
    """A measurement worth making.

    Attributes:
        model: its id.
        dataset: its id.
        hours: what it costs.
        gain: share of the uncertainty there was at the start that it takes away, when those proposed before
            it are measured.
        why: what it tells about, for people.
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
        basis: what the choice rests on, for people.
    """

    pairs: tuple[ProposedPair, ...]
    hours: float
    missing: int
    uncertainty_left: float
    basis: str


@dataclass(frozen=True)
class Kernel:
    """The variances and reaches of a belief.

    Attributes:
        general: variance of a model's standing anywhere.
        special: variance of its standing on a kind of dataset.
        noise: variance of what a single measurement has to itself.
        reach: how far datasets are alike, in medians of their distances.
        feature_share: how much of a model's standing its features can tell.
    """

    general: float
    special: float
    noise: float
    reach: float
    feature_share: float


class Belief:
    """What is known of all pairs of a zoo: a Gaussian process, see the module.

    Pair (m, d) has the number m * n_datasets + d, models and datasets in sorted order.

    Args:
        snapshot: the graph, whose results are known.
        kernel: the variances; None to choose them by the likelihood of the results.
    """

    def __init__(self, snapshot: Snapshot, kernel: Kernel | None = None) -> None:
        self.models = tuple(model.id for model in snapshot.models)
        self.datasets = tuple(dataset.id for dataset in snapshot.datasets)
        self._model_distances = feature_distances(snapshot)
        self._dataset_distances = dataset_distances(snapshot)
        known, scores = self._known(snapshot)
        self.results = len(known)
        numbers = np.divmod(known, max(len(self.datasets), 1))
        self.reached = {self.models[m] for m in numbers[0]} | {self.datasets[d] for d in numbers[1]}
        self.kernel = kernel or self._likeliest(known, scores)
        self.covariance = self._prior(self.kernel, np.arange(len(self.models) * len(self.datasets)))
        self.mean = np.zeros(len(self.covariance))
        for start in range(0, len(known), MOST_RESULTS_FOR_LIKELIHOOD):
            part = slice(start, start + MOST_RESULTS_FOR_LIKELIHOOD)
            self._learn(known[part], scores[part])
        # Symmetric, so that its transpose is itself in the order that the in-place update wants.
        self.covariance = np.ascontiguousarray(self.covariance).T
        self.weights = self._weights()
        self._told = np.array(
            [self.weights @ self.contrasts(number) ** 2 for number in range(len(self.covariance))]
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of models and of datasets."""
        return len(self.models), len(self.datasets)

    def number(self, pair: Pair) -> int:
        """The number of a pair."""
        return self.models.index(pair[0]) * len(self.datasets) + self.datasets.index(pair[1])

    def contrasts(self, number: int) -> np.ndarray:
        """Covariance of all contrasts with the score of one pair, (n_pairs,)."""
        return self._centred(self.covariance[:, number])

    def gains(self) -> np.ndarray:
        """By how much a measurement of each pair would reduce the uncertainty."""
        return self._told / (np.diag(self.covariance) + self.kernel.noise)

    def uncertainty(self) -> float:
        """Weighted sum of the variances of all contrasts."""
        return float(self.weights @ self._contrast_variances())

    def chance_of_best(self) -> np.ndarray:
        """Chance of each model to be the best on each dataset, (n_models, n_datasets); columns sum to 1.

        From draws with a fixed seed, in which models are independent of each other.
        """
        spread = np.sqrt(np.maximum(self._contrast_variances(), 0.0)).reshape(self.shape)
        draws = np.random.default_rng(0).standard_normal((DRAWS, *self.shape)) * spread
        best = (draws + self._centred(self.mean).reshape(self.shape)).argmin(axis=1)
        return np.stack([(best == model).mean(axis=0) for model in range(self.shape[0])])

    def measure(self, number: int) -> None:
        """Take a pair as measured; the covariance does not depend on what comes out."""
        from scipy.linalg.blas import dger

        column = self.covariance[:, number].copy()
        contrasts = self._centred(column)
        share = column / (column[number] + self.kernel.noise)
        # The squares of the new contrasts, without computing those of all pairs anew.
        weighed = self.weights * contrasts
        self._told += share**2 * (weighed @ contrasts) - 2 * share * (
            self.covariance @ self._centred(weighed)
        )
        # In place: at thousands of pairs this matrix is most of the memory.
        self.covariance = dger(-1.0, column, share, a=self.covariance, overwrite_a=True)

    def _centred(self, columns: np.ndarray) -> np.ndarray:
        """Each column minus its mean over the models of each dataset."""
        per_model = columns.reshape(*self.shape, -1)
        return (per_model - per_model.mean(axis=0)).reshape(columns.shape)

    def _weights(self) -> np.ndarray:
        """How much each contrast counts, 1 on average."""
        chances = self.chance_of_best().reshape(-1) * self.shape[0]
        return (1 - SHARE_FOR_THE_BEST) + SHARE_FOR_THE_BEST * chances

    def _contrast_variances(self) -> np.ndarray:
        per_model = self.covariance.reshape(*self.shape, *self.shape)
        variances = np.empty(self.shape)
        for dataset in range(self.shape[1]):
            own = per_model[:, dataset, :, dataset]
            variances[:, dataset] = np.diag(own) - 2 * own.mean(axis=0) + own.mean()
        return variances.reshape(-1)

    def _learn(self, numbers: np.ndarray, scores: np.ndarray) -> None:
        """Learn what many measurements found, at once."""
        columns = self.covariance[:, numbers]
        among = columns[numbers] + self.kernel.noise * np.eye(len(numbers))
        self.mean += columns @ np.linalg.solve(among, scores - self.mean[numbers])
        self.covariance -= columns @ np.linalg.solve(among, columns.T)

    def _prior(self, kernel: Kernel, numbers: np.ndarray) -> np.ndarray:
        m, d = np.divmod(numbers, len(self.datasets))
        models = (1 - kernel.feature_share) * np.eye(len(self.models))
        models += kernel.feature_share * np.exp(-((self._model_distances) ** 2) / 2)
        datasets = positive_definite(np.exp(-self._dataset_distances / kernel.reach))
        alike_models, alike_datasets = models[np.ix_(m, m)], datasets[np.ix_(d, d)]
        level = LEVEL_VARIANCE * (d[:, None] == d)
        return alike_models * (kernel.general + kernel.special * alike_datasets) + level

    def _known(self, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of the measured pairs."""
        from scipy.stats import norm

        matrix = loss_matrix(snapshot)
        ranks = matrix.scaled_ranks()
        rows, columns = np.nonzero(~np.isnan(ranks))
        place = np.array([self.datasets.index(dataset) for dataset in matrix.datasets], dtype=int)
        return rows * len(self.datasets) + place[columns], norm.ppf(ranks[rows, columns])

    def _likeliest(self, known: np.ndarray, scores: np.ndarray) -> Kernel:
        choices = [
            Kernel(*shares, reach, feature_share)
            for shares, reach, feature_share in product(SHARES, REACHES, FEATURE_SHARES)
        ]
        if len(known) < FEWEST_RESULTS:
            return choices[0]
        # Evenly spread, so that all models and datasets are among them.
        chosen = np.unique(np.linspace(0, len(known) - 1, MOST_RESULTS_FOR_LIKELIHOOD).astype(int))
        return max(choices, key=lambda kernel: self._likelihood(kernel, known[chosen], scores[chosen]))

    def _likelihood(self, kernel: Kernel, known: np.ndarray, scores: np.ndarray) -> float:
        """Logarithm of the results' density, up to a constant."""
        factor = np.linalg.cholesky(self._prior(kernel, known) + kernel.noise * np.eye(len(known)))
        whitened = np.linalg.solve(factor, scores)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(factor)).sum())


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
        raise NothingToPropose("Every pair of model and dataset has a result already: nothing is missing.")
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
    """What one fine-tuning of each model costs, as far as the graph tells.

    Recorded times count first. Other models are reckoned from the median time per TFLOP, or per parameter, of
    those that have one; where no time is recorded at all, from TFLOP or parameters alone, as if the middle
    model took an hour. What is not known at all costs as much as the middle model.

    Args:
        snapshot: the graph.
        costs: by model, see `predictor.matching.Cost`.

    Returns:
        Hours by model, and what they rest on, for people.
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
        basis = f"{size} alone, the middle model taken as an hour: no times are recorded"
    else:
        known, basis = {}, "nothing known of any model, each taken as an hour"
    usual = median(known.values()) if known else SECONDS_PER_HOUR
    return {m: known.get(m, usual) / SECONDS_PER_HOUR for m in models}, basis


def check_costs(hours: Mapping[str, float], budget_hours: float) -> None:
    """Refuse what cannot be divided by or spent.

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
    """Pairs in the order in which they are chosen, with what each takes away, until nothing is affordable."""
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
    """What a measurement tells about, in words; `reached` are the models and datasets that have results."""
    model, dataset = pair
    shares = per_dataset / per_dataset.sum() if per_dataset.any() else per_dataset
    own = belief.datasets.index(dataset)
    others = [i for i in np.argsort(-shares, kind="stable") if i != own and shares[i] >= LEAST_SHARE_TOLD]
    told = [f"this dataset {shares[own]:.0%}", *(f"{belief.datasets[i]} {shares[i]:.0%}" for i in others[:2])]
    news = [
        words
        for name, words in ((model, "first result of this model"), (dataset, "first result on this dataset"))
        if name not in reached
    ]
    return "; ".join([*news, f"tells about {', '.join(told)}"])


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
    return restricted(snapshot, {m.id for m in models}, {d.id for d in datasets})


def restricted(snapshot: Snapshot, models: Collection[str], datasets: Collection[str]) -> Snapshot:
    """The part of a graph between some of its models and datasets."""
    performs, similar = snapshot.performs, snapshot.similar
    return replace(
        snapshot,
        models=tuple(model for model in snapshot.models if model.id in models),
        datasets=tuple(dataset for dataset in snapshot.datasets if dataset.id in datasets),
        performs=performs[
            performs["model"].isin(list(models)) & performs["dataset"].isin(list(datasets))
        ].reset_index(drop=True),
        similar=similar[
            similar["dataset"].isin(list(datasets)) & similar["other"].isin(list(datasets))
        ].reset_index(drop=True),
    )
