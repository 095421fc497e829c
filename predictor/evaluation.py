"""Leave-one-dataset-out evaluation of a method, or with all datasets of one kind held out together.

All methods are compared on the same folds, see `predictor.folds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.baselines import BASELINES, Baseline
from matchgraph.predictor.folds import FOUND, METHOD, REGRET, Fold, held_out_datasets, hold_out_together
from matchgraph.predictor.groups import groups_of
from matchgraph.predictor.matching import provenance
from matchgraph.predictor.metrics import (
    SELECTION_METRICS,
    TAU_SCIPY,
    interval_as_dict,
    without_nan,
)
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.predictor.samples import small_samples_note
from matchgraph.stats.intervals import Interval, mean_interval
from matchgraph.stats.permutation import paired_p_value

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

METHOD_TITLE = "Match & Choose"
REFERENCE = "average_rank"


@dataclass(frozen=True)
class Summary:
    """A method over all folds.

    Attributes:
        key: the method's name in JSON.
        title: its readable name.
        figures: by key of the selection metric: mean and bootstrap interval over folds.
        gain: the same of the method's figure minus that of the average-rank baseline, fold by fold.
        p_value: by key of the selection metric, of this baseline being no different from the method, see
            `paired_p_value`; empty for the method itself.
    """

    key: str
    title: str
    figures: Mapping[str, Interval]
    gain: Mapping[str, Interval]
    p_value: Mapping[str, float]


@dataclass(frozen=True)
class Shortlist:
    """What comes of measuring a method's first models and taking the best of them.

    Attributes:
        key: the method's name in JSON.
        title: its readable name.
        measured: how many models are measured.
        osr: share of datasets on which a best model is among them, with its interval over datasets.
        regret: loss of the best of them minus the smallest loss, in the metric's own unit.
    """

    key: str
    title: str
    measured: int
    osr: Interval
    regret: Interval


# A paired permutation test of n datasets flips n signs, so its two-sided p is 2^(1 - n) at least.
FEW_DATASETS = 6


@dataclass(frozen=True)
class Evaluation:
    """The result of a leave-one-dataset-out evaluation.

    Attributes:
        summaries: the method first, then the baselines.
        folds: the details.
        skipped: why a dataset is not a fold, by its id.
        provenance: what it was computed from and with.
        seconds: how long it took.
        notes: what limits how far it can be trusted, one sentence each.
        shortlists: what measuring the first models of each method gives; empty if not asked for.
    """

    summaries: tuple[Summary, ...]
    folds: tuple[Fold, ...]
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    shortlists: tuple[Shortlist, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per method, the one evaluated first; the index is the method's title.

        Returns:
            For each selection metric the columns KEY, its mean over datasets, KEY_low and KEY_high, its 95 %
            interval, and KEY_p, the p-value of being no different from the method.
        """
        import pandas as pd

        rows = []
        for summary in self.summaries:
            row: dict[str, float] = {}
            for metric in SELECTION_METRICS:
                own = summary.figures[metric.key]
                row[metric.key] = own.value
                row[f"{metric.key}_low"], row[f"{metric.key}_high"] = own.low, own.high
                row[f"{metric.key}_p"] = summary.p_value.get(metric.key, float("nan"))
            rows.append(row)
        titles = [summary.title for summary in self.summaries]
        return pd.DataFrame(rows, index=pd.Index(titles, name="method"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; None for figures that are not defined."""
        return {
            "methods": [
                {
                    "key": summary.key,
                    "title": summary.title,
                    "figures": {key: interval_as_dict(own) for key, own in summary.figures.items()},
                    "minus_average_rank": {key: interval_as_dict(own) for key, own in summary.gain.items()},
                    "p_value": without_nan(summary.p_value),
                }
                for summary in self.summaries
            ],
            "folds": [
                {
                    "dataset": fold.dataset,
                    "models": fold.models,
                    "best": list(fold.best),
                    "methods": {
                        key: {"selected": list(score.selected), **without_nan(score.figures)}
                        for key, score in fold.scores.items()
                    },
                    "p_best": dict(fold.p_best),
                    "expected_rank": dict(fold.expected_rank),
                }
                for fold in self.folds
            ],
            "shortlists": [
                {
                    "key": own.key,
                    "title": own.title,
                    "measured": own.measured,
                    "osr": interval_as_dict(own.osr),
                    "regret": interval_as_dict(own.regret),
                }
                for own in self.shortlists
            ],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }


def evaluate(
    snapshot: Snapshot,
    matcher: Matcher,
    *,
    baselines: tuple[Baseline, ...] = BASELINES,
    seed: int = 0,
    removed: float = 0.0,
    hold_out: str | None = None,
    measure: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Leave out each dataset with at least two measured models, predict, and compare with the truth.

    Args:
        snapshot: the graph.
        matcher: the method; sees in each fold what is visible there.
        baselines: to compare with.
        seed: of baselines, bootstrap, permutations and of what is removed.
        removed: share of the visible results that is removed at random, independently in each fold; the
            held-out results stay complete.
        hold_out: kind of datasets that are held out together, see `groups_of`; None for one at a time.
        measure: also what comes of measuring that many models in each order and taking the best; 0 for none.
        progress: called with the number of finished folds, of all folds, and the current dataset.

    Returns:
        Figures of the method and of all baselines, each fold's details, and the datasets that could be no
        fold.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: the method needs similarities, and no dataset has any.
        InvalidRows: a share to remove outside [0, 1).

    Source:
        Match & Choose, sections 5.1 and 5.2, Table 3; section 5.3, Figure 6 for removed results.
    """
    started = time.perf_counter()
    held_out, skipped = held_out_datasets(snapshot, matcher.needs_similarities)
    groups = groups_of(snapshot, hold_out) if hold_out else {dataset: dataset for dataset in held_out}
    folds: list[Fold] = []
    for group in dict.fromkeys(groups[dataset] for dataset in held_out):
        own = [dataset for dataset in held_out if groups[dataset] == group]
        if progress:
            progress(len(folds), len(held_out), group)
        hidden = [dataset for dataset, its in groups.items() if its == group]
        folds += hold_out_together(snapshot, own, hidden, matcher, baselines, seed, removed, measure)
    titles = {METHOD: METHOD_TITLE, **{baseline.key: baseline.title for baseline in baselines}}
    return Evaluation(
        tuple(_summarised(key, title, folds, seed) for key, title in titles.items()),
        tuple(folds),
        skipped,
        {
            **provenance(snapshot, matcher),
            "seed": seed,
            "removed": removed,
            "hold_out": hold_out or "dataset",
        },
        time.perf_counter() - started,
        _notes(snapshot, held_out),
        tuple(_shortlist(key, title, measure, folds, seed) for key, title in titles.items() if measure),
    )


def _notes(snapshot: Snapshot, held_out: Collection[str]) -> tuple[str, ...]:
    """What limits the evaluation: pairs that were not compared, small samples, few datasets."""
    small = small_samples_note([dataset for dataset in snapshot.datasets if dataset.id in held_out])
    few = None
    if len(held_out) < FEW_DATASETS:
        few = (
            f"Only {len(held_out)} datasets could be held out: with fewer than {FEW_DATASETS}, no difference "
            "between methods can reach p < 0.05."
        )
    return tuple(note for note in (missing_pairs_note(snapshot), small, few) if note)


def _summarised(key: str, title: str, folds: list[Fold], seed: int) -> Summary:
    figures, gain, p_value = {}, {}, {}
    for metric in (*SELECTION_METRICS, TAU_SCIPY):
        own, method, reference = (_figures(folds, name, metric.key) for name in (key, METHOD, REFERENCE))
        figures[metric.key] = mean_interval(own, seed=seed)
        gain[metric.key] = mean_interval(own - reference, seed=seed)
        if key != METHOD:
            p_value[metric.key] = paired_p_value(method, own, seed=seed)
    return Summary(key, title, figures, gain, p_value)


def _shortlist(key: str, title: str, measured: int, folds: list[Fold], seed: int) -> Shortlist:
    found, regret = (_figures(folds, key, figure) for figure in (FOUND, REGRET))
    return Shortlist(key, title, measured, mean_interval(found, seed=seed), mean_interval(regret, seed=seed))


def _figures(folds: Sequence[Fold], method: str, figure: str) -> np.ndarray:
    """One figure of a method in each fold; NaN where it ranked nothing."""
    nan = float("nan")
    return np.array([f.scores[method].figures[figure] if method in f.scores else nan for f in folds])
