"""Figures of one method in every held-out dataset under every seed, for tables and tests.

Figures of several seeds are first averaged within each held-out dataset, since datasets and not seeds are the
sample: intervals and tests are over datasets, and the effect of the seed is reported separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.folds import METHOD
from matchgraph.predictor.metrics import O2B, O2O, OSR, TAU
from matchgraph.report.verdicts import Verdict, verdict
from matchgraph.stats.intervals import Interval, mean_interval
from matchgraph.stats.permutation import paired_p_value

if TYPE_CHECKING:
    from matchgraph.predictor.folds import Fold
    from matchgraph.report.variants import Outcome

AVERAGE_VALUE = "average_value"


@dataclass(frozen=True, eq=False)
class FoldFigures:
    """Figures of one method: by seed, then by dataset."""

    by_seed: tuple[Mapping[str, Mapping[str, float]], ...]

    def __len__(self) -> int:
        return len(self.datasets)

    @property
    def datasets(self) -> list[str]:
        return sorted(self.by_seed[0]) if self.by_seed else []

    def matrix(self, figure: str) -> np.ndarray:
        """(n_seeds, n_datasets)."""
        rows = [[own[dataset].get(figure, np.nan) for dataset in self.datasets] for own in self.by_seed]
        return np.array(rows, dtype=np.float64).reshape(len(self.by_seed), len(self))

    def values(self, figure: str) -> np.ndarray:
        """Averaged over seeds, (n_datasets,)."""
        return self.matrix(figure).mean(axis=0)

    def mean(self, figure: str) -> float:
        return self.interval(figure).value

    def interval(self, figure: str) -> Interval:
        return mean_interval(self.values(figure) if len(self) else np.empty(0))

    def between_seeds(self, figure: str) -> float:
        means = [float(np.nanmean(row)) for row in self.matrix(figure) if not np.isnan(row).all()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")

    def difference(self, other: FoldFigures, figure: str) -> float:
        """The mean of the differences to another method, over the datasets of both; NaN without one."""
        own, others = self._paired(other, figure)
        known = (own - others)[~np.isnan(own - others)]
        return float(known.mean()) if len(known) else float("nan")

    def p_value(self, other: FoldFigures, figure: str) -> float:
        """Of there being no difference to another method, over the datasets of both; NaN without one."""
        return paired_p_value(*self._paired(other, figure))

    def verdict(self, other: FoldFigures, figure: str) -> Verdict | None:
        """Whether a figure is clearly above or below that of another method."""
        return verdict(self.difference(other, figure), self.p_value(other, figure))

    def _paired(self, other: FoldFigures, figure: str) -> tuple[np.ndarray, np.ndarray]:
        """The figure of both on the datasets of both, each (n_shared,)."""
        shared = sorted(set(self.datasets) & set(other.datasets))
        tables = [dict(zip(each.datasets, each.values(figure), strict=True)) for each in (self, other)]
        own, others = (np.array([table[d] for d in shared], dtype=np.float64) for table in tables)
        return own, others

    def scaled(self, scale: float) -> FoldFigures:
        """O2B and O2O as shares of a range; not defined where that is 0."""

        def share(key: str, value: float) -> float:
            if key not in (O2B.key, O2O.key):
                return value
            return value / scale if scale > 0 else float("nan")

        return FoldFigures(
            tuple(
                {dataset: {k: share(k, v) for k, v in own.items()} for dataset, own in seed.items()}
                for seed in self.by_seed
            )
        )


def fold_figures(folds_by_seed: Sequence[Sequence[Fold]], method: str) -> FoldFigures:
    by_seed = [
        {fold.dataset: fold.scores[method].figures for fold in folds if method in fold.scores}
        for folds in folds_by_seed
    ]
    if not by_seed or not all(by_seed):
        return FoldFigures(())
    shared = set.intersection(*(set(own) for own in by_seed))
    return FoldFigures(tuple({dataset: own[dataset] for dataset in shared} for own in by_seed))


def of_method(outcomes: Sequence[Outcome]) -> FoldFigures:
    return fold_figures([outcome.folds for outcome in outcomes], METHOD)


def of_oracle(folds_by_seed: Sequence[Sequence[Fold]]) -> FoldFigures:
    """The figures of who knows the truth: its lead over the best on average is how far that stays behind."""
    return FoldFigures(
        tuple(
            {
                fold.dataset: {
                    OSR.key: 1.0,
                    TAU.key: 1.0 if len(set(fold.losses.values())) > 1 else float("nan"),
                    O2B.key: -fold.scores[AVERAGE_VALUE].figures[O2O.key],
                    O2O.key: 0.0,
                }
                for fold in folds
            }
            for folds in folds_by_seed
            if folds
        )
    )
