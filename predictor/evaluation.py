"""Leave-one-dataset-out evaluation of a method.

In each fold the held-out dataset keeps its features and similarities and loses all its results; weights,
embeddings, ranker and baselines are recomputed from the rest. All methods are compared on the same
folds and on the models measured there.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.baselines import BASELINES, Baseline, average_loss
from matchgraph.predictor.errors import NoSimilarity, NotEnoughResults
from matchgraph.predictor.matching import provenance
from matchgraph.predictor.metrics import (
    O2B,
    O2O,
    OSR,
    SELECTION_METRICS,
    TAU,
    interval_as_dict,
    optimal_selection,
    outscore_to_best,
    outscore_to_optimal,
    selected,
    weighted_tau,
    without_nan,
)
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.predictor.ranks import RankPrediction, no_preference
from matchgraph.predictor.samples import small_samples_note
from matchgraph.predictor.visibility import (
    hide_results,
    initial_losses,
    loss_matrix,
    remove_results,
    similarities_of,
)
from matchgraph.stats.intervals import Interval, mean_interval
from matchgraph.stats.permutation import paired_p_value

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

METHOD = "method"
METHOD_TITLE = "Match & Choose"
REFERENCE = "average_rank"


@dataclass(frozen=True)
class Score:
    """A method's outcome in one fold.

    Attributes:
        selected: the models tied in first place.
        figures: by key of the selection metric; NaN where it is not defined.
    """

    selected: tuple[str, ...]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Fold:
    """One held-out dataset.

    Attributes:
        dataset: its id.
        models: how many models were measured on it.
        best: the optimal models, several where they tie.
        scores: by method; a method that could not rank anything here is missing.
        losses: what was measured, by model; smaller is better.
        p_best: the method's chance of each model of the zoo, measured here or not, to be the best.
        expected_rank: the method's expected rank of each model of the zoo.
    """

    dataset: str
    models: int
    best: tuple[str, ...]
    scores: Mapping[str, Score]
    losses: Mapping[str, float]
    p_best: Mapping[str, float]
    expected_rank: Mapping[str, float]


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


# A paired permutation test of n datasets flips n signs, so its two-sided p is 2^(1 - n) at least.
FEW_DATASETS = 6


@dataclass(frozen=True)
class Evaluation:
    """The result of a leave-one-dataset-out evaluation.

    Attributes:
        summaries: the method first, then the baselines.
        folds: the details.
        skipped: why a dataset is no fold, by its id.
        provenance: what it was computed from and with.
        seconds: how long it took.
        notes: what limits how far it can be trusted, one sentence each.
    """

    summaries: tuple[Summary, ...]
    folds: tuple[Fold, ...]
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

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
    folds = []
    for done, dataset in enumerate(held_out):
        if progress:
            progress(done, len(held_out), dataset)
        folds.append(
            evaluate_fold(snapshot, dataset, matcher, baselines=baselines, seed=seed, removed=removed)
        )
    titles = {METHOD: METHOD_TITLE, **{baseline.key: baseline.title for baseline in baselines}}
    details = provenance(snapshot, held_out[0], matcher)
    details.pop("extractor")
    return Evaluation(
        tuple(_summarised(key, title, folds, seed) for key, title in titles.items()),
        tuple(folds),
        skipped,
        {**details, "seed": seed, "removed": removed},
        time.perf_counter() - started,
        _notes(snapshot, held_out),
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


def evaluate_fold(
    snapshot: Snapshot,
    dataset: str,
    matcher: Matcher,
    *,
    baselines: tuple[Baseline, ...] = BASELINES,
    seed: int = 0,
    removed: float = 0.0,
) -> Fold:
    """Hold one dataset out and score the method and the baselines on it.

    Args:
        snapshot: the graph, with the truth.
        dataset: id of a dataset with at least two measured models.
        matcher: the method; sees what is visible.
        baselines: to compare with.
        seed: of the baselines and of what is removed.
        removed: share of the visible results that is taken away. Where too few are left to learn from, the
            method prefers no model.

    Returns:
        The fold's details.
    """
    visible = hide_results(snapshot, dataset)
    if removed:
        # Another draw for each fold, so that a lucky one does not decide about all of them.
        visible = remove_results(visible, removed, zlib.crc32(f"{seed} {dataset}".encode()))
    prediction = _ranked(matcher, visible, dataset, may_be_too_few=removed > 0)
    predicted = {METHOD: prediction.expected_rank}
    # Only Initial is given what was measured on the held-out dataset, and only from before any fine-tuning.
    initial = initial_losses(snapshot, dataset)
    for baseline in baselines:
        losses = baseline.predict(visible, dataset, initial, seed)
        if losses is not None:
            predicted[baseline.key] = losses
    matrix = loss_matrix(snapshot)
    column = matrix.losses[:, matrix.datasets.index(dataset)]
    measured = ~np.isnan(column)
    models, truth = np.array(matrix.models)[measured], column[measured]
    average = average_loss(loss_matrix(visible))[measured]
    scores = {}
    for key, losses in predicted.items():
        own = losses[measured]
        if np.isnan(own).all():
            continue
        figures = {
            OSR.key: optimal_selection(own, truth),
            TAU.key: weighted_tau(own, truth),
            O2B.key: outscore_to_best(own, truth, average),
            O2O.key: outscore_to_optimal(own, truth),
        }
        scores[key] = Score(tuple(models[selected(own)].tolist()), figures)
    return _fold(dataset, matrix.models, column, prediction, scores)


def rehearsed_folds(snapshot: Snapshot, rehearsed: Mapping[str, RankPrediction]) -> tuple[Fold, ...]:
    """Folds from what a method predicted on its way for other datasets, see `Ranked.rehearsed`; no figures.

    Args:
        snapshot: the graph, with the truth.
        rehearsed: predictions by dataset.
    """
    matrix = loss_matrix(snapshot)
    folds = []
    for dataset, prediction in rehearsed.items():
        truth = matrix.losses[:, matrix.datasets.index(dataset)]
        folds.append(_fold(dataset, matrix.models, truth, prediction, {}))
    return tuple(folds)


def _fold(
    dataset: str,
    models: Sequence[str],
    truth: np.ndarray,
    prediction: RankPrediction,
    scores: Mapping[str, Score],
) -> Fold:
    measured = {model: float(loss) for model, loss in zip(models, truth, strict=True) if not np.isnan(loss)}
    best = min(measured.values())
    return Fold(
        dataset,
        len(measured),
        tuple(model for model, loss in measured.items() if loss == best),
        scores,
        losses=measured,
        p_best=dict(zip(models, prediction.p_best.tolist(), strict=True)),
        expected_rank=dict(zip(models, prediction.expected_rank.tolist(), strict=True)),
    )


def _ranked(matcher: Matcher, visible: Snapshot, dataset: str, *, may_be_too_few: bool) -> RankPrediction:
    try:
        return matcher.rank(visible, [dataset])[dataset].prediction
    except NotEnoughResults:
        if not may_be_too_few:
            raise
        return no_preference(len(visible.models))


def held_out_datasets(snapshot: Snapshot, needs_similarities: bool) -> tuple[list[str], dict[str, str]]:
    """Which datasets can be held out, and why the others cannot, by id.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models.
        NoSimilarity: similarities are needed, and no dataset has any.
    """
    matrix = loss_matrix(snapshot)
    counts = dict(zip(matrix.datasets, (~np.isnan(matrix.losses)).sum(axis=0), strict=True))
    rankable = [dataset for dataset in matrix.datasets if counts[dataset] >= 2]
    if len(rankable) < 2:
        raise NotEnoughResults(
            "Leave-one-out needs at least 2 datasets with at least 2 models measured by "
            f"{snapshot.metric.name} after fine-tuning; the graph has {len(rankable)}. Record results with "
            "`matchgraph ingest results FILE.csv` or `matchgraph ingest run`."
        )
    skipped = {}
    for dataset in snapshot.datasets:
        if dataset.id not in rankable:
            count = counts.get(dataset.id, 0)
            skipped[dataset.id] = f"{count} measured model{'s' if count != 1 else ''}: nothing to rank"
        elif needs_similarities and not similarities_of(snapshot, dataset.id):
            skipped[dataset.id] = "no similarity to another dataset"
    held_out = [dataset for dataset in rankable if dataset not in skipped]
    if not held_out:
        raise NoSimilarity(
            "No dataset with measured models has a similarity to another dataset, so the graph cannot be "
            "evaluated. Record some with `matchgraph ingest similarities FILE.csv`, or use --features node."
        )
    return held_out, skipped


def _summarised(key: str, title: str, folds: list[Fold], seed: int) -> Summary:
    figures, gain, p_value = {}, {}, {}
    for metric in SELECTION_METRICS:
        own, method, reference = (
            np.array([_figure(fold, name, metric.key) for fold in folds]) for name in (key, METHOD, REFERENCE)
        )
        figures[metric.key] = mean_interval(own, seed=seed)
        gain[metric.key] = mean_interval(own - reference, seed=seed)
        if key != METHOD:
            p_value[metric.key] = paired_p_value(method, own, seed=seed)
    return Summary(key, title, figures, gain, p_value)


def _figure(fold: Fold, method: str, metric: str) -> float:
    return fold.scores[method].figures[metric] if method in fold.scores else float("nan")
