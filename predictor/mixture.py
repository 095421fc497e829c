"""How far each ranking can be trusted on a graph, and the mixture of them that is used there.

Every candidate mixture of the parts' standardised scores (`candidates`) ranks each known dataset from
scores that were made without its results. Its merit is the mean weighted tau there. Candidates are
averaged, each weighted by exp(-shortfall / a quarter of a standard error), so that several share the weight
where the best ones are nearly as good; see `TOLERANCE`. Where the average of them does not beat the best
simple part by half a standard error, judged on datasets that its weights did not see, that part alone is
used.

Source:
    Stacking: Wolpert 1992, "Stacked generalization"; that weights are of whole mixtures and shrink to an even
    one is ours, as is falling back to the simple part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from matchgraph.predictor.metrics import weighted_taus
from matchgraph.predictor.ranks import RankPrediction, summarise_normal

# A mixture's weights are multiples of 1/4; of seven parts there are 210.
STEPS = 4
# Sizes beyond which datasets and models are thinned out evenly: weights do not need more.
MOST_DATASETS = 100
MOST_MODELS = 100
FEWEST_DATASETS = 3
# By how many standard errors the mixture has to beat the simple part.
LEAST_LEAD = 0.5
# A mixture behind the best by that many standard errors gets 1/e of the best one's weight. With more,
# mediocre mixtures, of which there are many, outweigh the best ones; measured in docs/evidence/prediction.md.
TOLERANCE = 0.25
LEAST_ERROR = 1e-3
# Deviations of a model's true place from its standardised score.
DEVIATIONS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Of a model's chance, the share that is how often it was the best on the known datasets; and how many of
# these the prior, which favours no model, counts for. Measured in docs/evidence/prediction.md.
SHARES = np.array([0.0, 0.1, 0.25, 0.5, 0.75])
PRIOR_DATASETS = 2.0
ROUNDING = 9
LEAST_SPREAD = 1e-12


@dataclass(frozen=True, eq=False)
class Learned:
    """A mixture, and how it does on the datasets that it learned from.

    Attributes:
        weights: float64, (n_parts,), sum 1.
        chosen: int, which known datasets were judged.
        scores: for each of these, the score of each model by a mixture that did not see it, (n_models,).
        lead: mean weighted tau above that of the best simple part, each on datasets that no weight saw; NaN
            where nothing was judged.
        lead_error: its standard error.
        fell_back: whether the simple part alone is used.
    """

    weights: np.ndarray
    chosen: np.ndarray
    scores: tuple[np.ndarray, ...]
    lead: float
    lead_error: float
    fell_back: bool


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores with mean 0 and deviation 1 over the models; what is not known is at the mean.

    Args:
        scores: float64, (n_models,); NaN where not known.

    Returns:
        float64, (n_models,); all 0 where the known ones are equal.
    """
    known = ~np.isnan(scores)
    centred = np.zeros(len(scores))
    if known.any():
        centred[known] = scores[known] - scores[known].mean()
    spread = centred[known].std() if known.any() else 0.0
    return centred / spread if spread > LEAST_SPREAD else np.zeros(len(scores))


def candidates(n_parts: int) -> np.ndarray:
    """All mixtures of parts in quarters, float64, (n_mixtures, n_parts)."""
    chosen = combinations_with_replacement(range(n_parts), STEPS)
    return np.array([np.bincount(own, minlength=n_parts) for own in chosen]) / STEPS


def learn(left_out: Sequence[np.ndarray], losses: np.ndarray, simple: Sequence[int]) -> Learned:
    """Weigh parts by their scores for known datasets.

    Args:
        left_out: of each part, float64, (n_models, n_known), see `predictor.parts.Scored`.
        losses: float64, (n_models, n_known), what was measured; NaN where nothing was.
        simple: numbers of the parts to fall back to.

    Returns:
        The mixture; with fewer than three datasets to judge by, the first simple part.
    """
    alone = np.eye(len(left_out))
    mixtures = candidates(len(left_out))
    measured = ~np.isnan(losses)
    judged = measured & ~np.isnan(np.stack(left_out)).any(axis=0)
    usable = [column for column, rows in enumerate(judged.T) if len(np.unique(losses[rows, column])) > 1]
    chosen = _evenly(np.array(usable, dtype=int), MOST_DATASETS)
    # Of each dataset the parts' scores, (n_parts, n_models).
    parts = [np.stack([standardised(part[:, column]) for part in left_out]) for column in chosen]
    rows = [np.flatnonzero(measured[:, column]) for column in chosen]
    if len(chosen) < FEWEST_DATASETS:
        scores = tuple(own[simple[0]] for own in parts)
        return Learned(alone[simple[0]], chosen, scores, np.nan, np.nan, True)
    taus = []
    for own, column, there in zip(parts, chosen, rows, strict=True):
        some = _evenly(there, MOST_MODELS)
        taus.append(weighted_taus(np.round(mixtures @ own[:, some], ROUNDING), losses[some, column]))
    merits = np.array(taus)
    single = {part: merits[:, (mixtures[:, part] == 1).argmax()] for part in simple}
    best = max(simple, key=lambda part: single[part].mean())
    gains = merits - single[best][:, None]
    # Of each dataset, the weights that the others give.
    rest = [_averaged(np.delete(gains, row, axis=0), mixtures) for row in range(len(chosen))]
    leads = []
    for weights, own, column, there in zip(rest, parts, chosen, rows, strict=True):
        both = np.round(np.stack([weights, alone[best]]) @ own[:, there], ROUNDING)
        tau, base = weighted_taus(both, losses[there, column])
        leads.append(tau - base)
    lead, error = float(np.mean(leads)), float(np.std(leads, ddof=1) / np.sqrt(len(leads)))
    fell_back = lead <= LEAST_LEAD * error
    if fell_back:
        rest = [alone[best]] * len(chosen)
    return Learned(
        alone[best] if fell_back else _averaged(gains, mixtures),
        chosen,
        tuple(weights @ own for weights, own in zip(rest, parts, strict=True)),
        lead,
        error,
        fell_back,
    )


class Chances:
    """How far the true places of models lie from their scores, from which were best on the known datasets.

    Each of `DEVIATIONS`, with each of `SHARES` of the chance taken from how often a model was the best, is as
    likely as it makes these models, on an even prior; predictions are averaged over them. Scores alone would
    doubt a model that is nearly always the best as much as any that leads by as little.

    Args:
        learned: the mixture, with its scores for known datasets.
        losses: float64, (n_models, n_known), what was measured.

    Attributes:
        weights: float64, (n_deviations, n_shares), sum 1.
        rehearsed: by number of the known dataset, the prediction made without its results.
    """

    def __init__(self, learned: Learned, losses: np.ndarray) -> None:
        each = [_by_deviation(scores) for scores in learned.scores]
        wins = Wins(losses)
        logarithms = np.zeros((len(DEVIATIONS), len(SHARES)))
        for predictions, column in zip(each, learned.chosen, strict=True):
            best, measured = wins.best[:, column] > 0, ~np.isnan(losses[:, column])
            frequency = wins.frequency(without=column)
            for place, one in enumerate(predictions):
                mixed = one.p_best + np.outer(SHARES, frequency - one.p_best)
                chances = mixed[:, best].mean(axis=1) / np.maximum(
                    mixed[:, measured].sum(axis=1), LEAST_SPREAD
                )
                logarithms[place] += np.log(np.maximum(chances, LEAST_SPREAD))
        weights = np.exp(logarithms - logarithms.max())
        self.weights = weights / weights.sum()
        self._frequency = wins.frequency()
        self.rehearsed = {
            int(column): self._mixed(own, wins.frequency(without=column))
            for own, column in zip(each, learned.chosen, strict=True)
        }

    def predict(self, scores: np.ndarray, spread: np.ndarray) -> RankPrediction:
        """Ranks and chances of models.

        Args:
            scores: float64, (n_models,), smaller is better.
            spread: float64, (n_models,), of each score, as a multiple of the usual deviation.
        """
        return self._mixed(_by_deviation(scores, spread), self._frequency)

    def _mixed(self, each: Sequence[RankPrediction], frequency: np.ndarray) -> RankPrediction:
        deviations, shares = self.weights.sum(axis=1), self.weights @ SHARES
        expected = deviations @ np.stack([one.expected_rank for one in each])
        square = deviations @ np.stack([one.rank_std**2 + one.expected_rank**2 for one in each])
        best = (deviations - shares) @ np.stack([one.p_best for one in each]) + shares.sum() * frequency
        return RankPrediction(expected, np.sqrt(np.maximum(square - expected**2, 0.0)), best)


class Wins:
    """How often each model was the best of a dataset.

    Args:
        losses: float64, (n_models, n_known), NaN where not measured.

    Attributes:
        best: float64, of the same shape: 1 for the best model of a dataset, shared by those that tie.
    """

    def __init__(self, losses: np.ndarray) -> None:
        self._measured = ~np.isnan(losses)
        best = losses == np.nanmin(losses, axis=0)
        self.best = best / best.sum(axis=0)

    def frequency(self, without: int | None = None) -> np.ndarray:
        """Of the datasets that a model was measured on, the share where it was the best.

        Args:
            without: number of a dataset to leave out.

        Returns:
            float64, (n_models,), scaled to sum 1; that of all models for one that was never measured.
        """
        kept = np.arange(self.best.shape[1]) != (-1 if without is None else without)
        even = PRIOR_DATASETS / len(self.best)
        wins = self.best[:, kept].sum(axis=1) + even
        share: np.ndarray = wins / (self._measured[:, kept].sum(axis=1) + PRIOR_DATASETS)
        return share / share.sum()


def _by_deviation(scores: np.ndarray, spread: np.ndarray | None = None) -> list[RankPrediction]:
    spread = np.ones(len(scores)) if spread is None else spread
    return [summarise_normal(scores, deviation * spread) for deviation in DEVIATIONS]


def _averaged(gains: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """The mean of the mixtures, each by how near it comes to the best.

    Args:
        gains: float64, (n_datasets, n_mixtures), merit above that of one of the mixtures.
        mixtures: see `candidates`.
    """
    means, errors = gains.mean(axis=0), gains.std(axis=0) / np.sqrt(len(gains))
    error = max(np.median(errors[errors > 0]), LEAST_ERROR) if (errors > 0).any() else LEAST_ERROR
    shares = np.exp((means - means.max()) / (TOLERANCE * error))
    return shares / shares.sum() @ mixtures


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the values, in even steps."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).astype(int))]
