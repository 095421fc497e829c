"""What the report computes: each study is a frozen dataclass made of evaluated variants or of the graph.

Figures of several seeds are first averaged within each held-out dataset, since folds and not seeds are the
sample: intervals and tests are over datasets, and what the seed does is told beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from predictor.baselines import BASELINES
from predictor.evaluation import METHOD, METHOD_TITLE
from predictor.metrics import (
    O2B,
    O2O,
    OSR,
    SELECTION_METRICS,
    TAU,
    Interval,
    bootstrap_interval,
    paired_p_value,
)
from predictor.recipes import DEFAULT_RECIPE, PAPER
from predictor.report.paper import figures_of
from predictor.report.rankers import TITLES
from predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from graphdb.models import Snapshot
    from predictor.evaluation import Fold
    from predictor.report.sources import View
    from predictor.report.variants import Outcome

ORACLE, AVERAGE_VALUE, AVERAGE_RANK, RANDOM = "oracle", "average_value", "average_rank", "random"
FEATURE_TITLES = {"node": "Model and dataset features", "graph": "Graph embeddings", "all": "Both"}
REMOVED = tuple(step / 10 for step in range(10))


@dataclass(frozen=True)
class Row:
    """A method in a table of selection figures.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        figures: by key of the selection metric; what is not defined is left out.
        p_value: of being no different from the row compared with, by key of the selection metric.
        between_seeds: standard deviation over seeds of the mean over datasets, by key; empty for one seed.
        paper: what the paper prints beside it, by key.
        note: why there are no figures, or what is particular.
    """

    key: str
    title: str
    figures: Mapping[str, Interval]
    p_value: Mapping[str, float]
    between_seeds: Mapping[str, float]
    paper: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Rows over the same held-out datasets, or each over its own.

    Attributes:
        rows: the methods.
        folds: how many datasets were held out.
        seeds: of the methods.
        reference: key of the row that p-values compare with; "" where each has its own.
        skipped: why a dataset is not held out, by its id.
    """

    rows: tuple[Row, ...]
    folds: int
    seeds: tuple[int, ...]
    reference: str
    skipped: Mapping[str, str]

    def row(self, key: str) -> Row | None:
        """The row of that key."""
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True, eq=False)
class Landscape:
    """What was measured: every model on every dataset, before and after fine-tuning.

    Attributes:
        metric: its name.
        larger_is_better: its direction.
        models: ids, best average rank first: the rows.
        datasets: ids, sorted: the columns.
        values: float64, (n_models, n_datasets), after fine-tuning; NaN where not measured.
        initial: the same before it.
        best: bool, of the same shape: the best of each dataset, several where they tie.
        wins: how often each model is best, by id; a tie counts as a share.
    """

    metric: str
    larger_is_better: bool
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    values: np.ndarray
    initial: np.ndarray
    best: np.ndarray
    wins: Mapping[str, float]

    @property
    def improved(self) -> tuple[int, int]:
        """How many pairs fine-tuning improved, and of how many measured before and after."""
        both = ~np.isnan(self.values) & ~np.isnan(self.initial)
        gain = (self.values - self.initial)[both] * (1 if self.larger_is_better else -1)
        return int((gain > 0).sum()), int(both.sum())


@dataclass(frozen=True)
class Series:
    """A method at rising shares of removed results, each point an interval over datasets."""

    key: str
    title: str
    figures: Mapping[str, tuple[Interval, ...]]


@dataclass(frozen=True)
class Sparsity:
    """Figure 6: how figures fall when results are taken away.

    Attributes:
        removed: the shares.
        series: the methods.
        folds: datasets held out.
        seeds: of methods and of what is removed.
        lost_at: the first share from which on the method's OSR is not clearly above chance; None for none.
    """

    removed: tuple[float, ...]
    series: tuple[Series, ...]
    folds: int
    seeds: tuple[int, ...]
    lost_at: float | None


@dataclass(frozen=True)
class Importance:
    """How much a column or group of columns counts in the trees.

    Attributes:
        name: of the column, or of the group.
        share: by ranker, mean over seeds.
        spread: by ranker, standard deviation over seeds.
        paper: what the paper prints for a column of that name; None for none.
    """

    name: str
    share: Mapping[str, float]
    spread: Mapping[str, float]
    paper: float | None = None


@dataclass(frozen=True)
class Importances:
    """Table 1: what the trees look at.

    Attributes:
        groups: model attributes, dataset features, graph embedding: shares of everything.
        features: the ten most important model attributes and the rest, as shares of all model attributes.
        seeds: of the trees.
    """

    groups: tuple[Importance, ...]
    features: tuple[Importance, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """How long a prediction took from the graph in memory to the ranking, in seconds."""

    recipe: str
    title: str
    seconds: tuple[float, ...]
    models: int
    datasets: int

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.seconds))

    @property
    def longest(self) -> float:
        """The longest one."""
        return max(self.seconds)


@dataclass(frozen=True)
class Noise:
    """What another seed does to the measurements themselves.

    Attributes:
        pairs: (model, dataset) pairs measured under several seeds.
        measurements: of these pairs, the recorded ones included.
        deviation: standard deviation between seeds, pooled over pairs.
        between_models: standard deviation between the models of a dataset, pooled over datasets.
        compared: how often the best model could be compared between two seeds.
        changed: in how many of these it was another.
        datasets: datasets of these comparisons.
        ceiling: share of datasets whose best model would stay the best if all were measured again: about the
            highest OSR that any method can reach.
    """

    pairs: int
    measurements: int
    deviation: float
    between_models: float
    compared: int
    changed: int
    datasets: int
    ceiling: float


def landscape(snapshot: Snapshot) -> Landscape:
    """Lay out what was measured.

    Args:
        snapshot: the graph by one metric.

    Source:
        Match & Choose, section 3, Figure 3.
    """
    from predictor.baselines import average_rank

    matrix = loss_matrix(snapshot)
    order = np.lexsort((np.arange(len(matrix.models)), _last(average_rank(matrix))))
    models = tuple(matrix.models[row] for row in order)
    shape = (len(models), len(matrix.datasets))
    place = {m: i for i, m in enumerate(models)}, {d: j for j, d in enumerate(matrix.datasets)}
    values, initial = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in snapshot.performs.itertuples():
        if row.dataset in place[1]:
            values[place[0][row.model], place[1][row.dataset]] = row.value
            initial[place[0][row.model], place[1][row.dataset]] = row.initial
    losses = matrix.losses[order]
    best = losses == np.nanmin(losses, axis=0, keepdims=True)
    wins = (best / best.sum(axis=0, keepdims=True)).sum(axis=1)
    return Landscape(
        snapshot.metric.name,
        snapshot.metric.larger_is_better,
        models,
        matrix.datasets,
        values,
        initial,
        best,
        dict(zip(models, wins.tolist(), strict=True)),
    )


def selection(outcomes: Mapping[tuple[str, int], Outcome]) -> Comparison:
    """Table 3: the recipes beside all baselines, the random choice and the oracle.

    Args:
        outcomes: by recipe and seed; the paper's recipe brings the baselines.

    Returns:
        The recipes first, the default one at the top; p-values are of each row against it.

    Source:
        Match & Choose, section 5.2, Table 3.
    """
    recipes = list(dict.fromkeys((DEFAULT_RECIPE, *(recipe for recipe, _ in outcomes))))
    seeds = tuple(sorted({seed for _, seed in outcomes}))
    usable = {key: outcome for key, outcome in outcomes.items() if outcome.folds}
    common = set.intersection(*({f.dataset for f in o.folds} for o in usable.values())) if usable else set()
    own = {
        recipe: _table([_of(usable[recipe, s], common) for s in seeds if (recipe, s) in usable], METHOD)
        for recipe in recipes
    }
    beside = [_of(usable[PAPER, s], common) for s in seeds if (PAPER, s) in usable]
    reference = next((recipe for recipe in recipes if len(own[recipe])), "")
    rows = []
    for recipe in recipes:
        failure = next((o.failure for (r, _), o in outcomes.items() if r == recipe and o.failure), "")
        rows.append(
            _row(
                recipe,
                recipe_title(recipe),
                own[recipe],
                own[reference] if reference and recipe != reference else None,
                figures_of("table3", METHOD) if recipe == PAPER else {},
                failure,
            )
        )
    tables = {b.key: (b.title, _table(beside, b.key)) for b in BASELINES}
    tables[ORACLE] = ("Oracle", _oracle(beside))
    for key, (title, table) in tables.items():
        note = "" if len(table) else _why_missing(key)
        compared = own[reference] if reference else None
        rows.append(_row(key, title, table, compared, figures_of("table3", key), note))
    skipped = next((o.skipped for o in usable.values()), {})
    return Comparison(tuple(rows), len(common), seeds, reference, skipped)


def inputs(outcomes: Mapping[tuple[str, str, int], Outcome]) -> Comparison:
    """Table 4: features only, graph only, both.

    Args:
        outcomes: by recipe, feature set and seed.

    Returns:
        One row for each recipe and feature set; p-values are against both of the same recipe.

    Source:
        Match & Choose, section 5.4, Table 4.
    """
    seeds = tuple(sorted({seed for _, _, seed in outcomes}))
    kinds = list(dict.fromkeys((recipe, features) for recipe, features, _ in outcomes))
    several = len({recipe for recipe, _ in kinds}) > 1
    rows = []
    for recipe, features in kinds:
        own = [outcomes[recipe, features, seed] for seed in seeds]
        whole = [outcomes[recipe, "all", seed] for seed in seeds if (recipe, "all", seed) in outcomes]
        title = FEATURE_TITLES[features] + (f" ({recipe} recipe)" if several else "")
        paper = figures_of("table4", features) if recipe == PAPER else {}
        compared = None if features == "all" else _table([o.folds for o in whole], METHOD)
        rows.append(_row(f"{recipe}:{features}", title, _method(own), compared, paper, _failure(own)))
    return Comparison(tuple(rows), _most_folds(outcomes.values()), seeds, "all", {})


def views(
    known: Sequence[View],
    outcomes: Mapping[tuple[str, int], Outcome],
    snapshots: Mapping[str, Snapshot],
    table: str,
) -> Comparison:
    """Tables 5 and 6: the same recipe by other metrics, or with the datasets seen through other probes.

    Args:
        known: the rows.
        outcomes: by key of the view and seed.
        snapshots: the views, for the range of their values.
        table: "table5" or "table6".

    Returns:
        One row for each; O2B and O2O as shares of the range of the metric's measured values, as metrics have
        no common unit. p-values are against always taking the best average rank by that very metric.

    Source:
        Match & Choose, sections 5.5 and 5.6, Tables 5 and 6.
    """
    seeds = tuple(sorted({seed for _, seed in outcomes}))
    rows = []
    for view in known:
        paper = figures_of(table, view.paper)
        if not view.key:
            rows.append(Row(view.title, view.title, {}, {}, {}, paper, view.note))
            continue
        own = [outcomes[view.key, seed] for seed in seeds]
        values = snapshots[view.key].performs["value"].dropna().to_numpy()
        scale = float(np.ptp(values)) if len(values) else 0.0
        method, rank = _method(own), _table([o.folds for o in own], AVERAGE_RANK)
        note = _failure(own) or view.note
        row = _row(view.key, view.title, method.scaled(scale), rank.scaled(scale), paper, note)
        rows.append(row)
    return Comparison(tuple(rows), _most_folds(outcomes.values()), seeds, AVERAGE_RANK, {})


def rankers(outcomes: Mapping[tuple[str, int], Outcome]) -> Comparison:
    """Table 7: the paper's recipe with other rankers.

    Args:
        outcomes: by ranker and seed.

    Returns:
        One row for each; p-values are against CatBoost.

    Source:
        Match & Choose, section 5.7, Table 7.
    """
    seeds = tuple(sorted({seed for _, seed in outcomes}))
    reference = [outcomes["catboost", seed] for seed in seeds]
    rows = []
    for name, title in TITLES.items():
        own = [outcomes[name, seed] for seed in seeds]
        compared = None if name == "catboost" else _method(reference)
        rows.append(_row(name, title, _method(own), compared, figures_of("table7", name), _failure(own)))
    return Comparison(tuple(rows), _most_folds(outcomes.values()), seeds, "catboost", {})


def sparsity(outcomes: Mapping[tuple[str, float, int], Outcome]) -> Sparsity:
    """Figure 6: figures with a share of the results removed.

    Args:
        outcomes: by recipe, share and seed.

    Source:
        Match & Choose, section 5.3, Figure 6.
    """
    recipes = list(dict.fromkeys(recipe for recipe, _, _ in outcomes))
    seeds = tuple(sorted({seed for _, _, seed in outcomes}))
    shares = tuple(sorted({share for _, share, _ in outcomes}))
    lines = [(recipe, METHOD, recipe_title(recipe)) for recipe in recipes]
    lines += [(recipes[-1], b.key, b.title) for b in BASELINES if b.key in (AVERAGE_RANK, RANDOM)]
    series, tables = [], {}
    for recipe, method, title in lines:
        key = recipe if method == METHOD else method
        points = [_table([outcomes[recipe, s, seed].folds for seed in seeds], method) for s in shares]
        tables[key] = points
        figures = {m.key: tuple(point.interval(m.key) for point in points) for m in (OSR, TAU)}
        series.append(Series(key, title, figures))
    lost_at = None
    for share, own, chance in zip(
        reversed(shares), tables[recipes[0]][::-1], tables[RANDOM][::-1], strict=True
    ):
        if own.p_value(chance, OSR.key) < 0.05 and own.mean(OSR.key) > chance.mean(OSR.key):
            break
        lost_at = share
    return Sparsity(shares, tuple(series), _most_folds(outcomes.values()), seeds, lost_at)


def noise(snapshot: Snapshot, replicates: Sequence[tuple[str, str, str, float]], *, seed: int = 0) -> Noise:
    """What another seed does to the measurements.

    Args:
        snapshot: the graph by one metric, with the recorded values.
        replicates: model, dataset, seed and value of the measurements that were repeated.
        seed: of the simulated measurements.

    Returns:
        The figures. Where models of one dataset were repeated under the same seeds, their order is compared
        between seeds. The ceiling is simulated for all datasets, with the pooled deviation on top of the
        recorded values; these are noisy themselves and lie farther apart than the truth, so it errs high.
    """
    matrix = loss_matrix(snapshot)
    sign = -1.0 if snapshot.metric.larger_is_better else 1.0
    recorded = {
        (model, dataset): matrix.losses[i, j]
        for i, model in enumerate(matrix.models)
        for j, dataset in enumerate(matrix.datasets)
        if not np.isnan(matrix.losses[i, j])
    }
    runs: dict[tuple[str, str], dict[str, float]] = {}
    for model, dataset, run_seed, value in replicates:
        runs.setdefault((model, dataset), {})[run_seed] = sign * value
    for pair, by_seed in runs.items():
        if pair in recorded:
            by_seed["recorded"] = recorded[pair]
    runs = {pair: by_seed for pair, by_seed in runs.items() if len(by_seed) > 1}
    squares = sum(float(np.var(list(v.values())) * len(v)) for v in runs.values())
    freedom = sum(len(v) - 1 for v in runs.values())
    deviation = float(np.sqrt(squares / freedom)) if freedom else float("nan")
    compared = changed = 0
    datasets = sorted({dataset for _, dataset in runs})
    used = set()
    for dataset in datasets:
        own = {model: v for (model, other), v in runs.items() if other == dataset}
        common = sorted(set.intersection(*(set(v) for v in own.values())))
        if len(own) < 2 or len(common) < 2:
            continue
        used.add(dataset)
        winners = [min(sorted(own), key=lambda model, s=s: own[model][s]) for s in common]
        for i, first in enumerate(winners):
            for second in winners[i + 1 :]:
                compared += 1
                changed += first != second
    within = [matrix.losses[~np.isnan(column), j] for j, column in enumerate(matrix.losses.T)]
    within = [values for values in within if len(values) > 1]
    between = (
        float(np.sqrt(np.mean([np.var(values, ddof=1) for values in within]))) if within else float("nan")
    )
    return Noise(
        len(runs),
        sum(len(v) for v in runs.values()),
        deviation,
        between,
        compared,
        changed,
        len(used),
        _ceiling(within, deviation, seed),
    )


def importances(
    trained: Mapping[tuple[str, int], np.ndarray], columns: Sequence[str], groups: Sequence[str]
) -> Importances:
    """Table 1: shares of the trees' importances.

    Args:
        trained: by ranker and seed, float64, (n_columns,), importances, not negative.
        columns: names of the columns.
        groups: of each column: "model", "dataset" or "graph".

    Returns:
        Shares of everything by group, and of all model attributes by column: the ten largest of the first
        ranker and the remaining ones in one, as the paper groups them.

    Source:
        Match & Choose, section 4.2, Table 1.
    """
    names = list(dict.fromkeys(ranker for ranker, _ in trained))
    seeds = tuple(sorted({seed for _, seed in trained}))
    shares = {key: values / values.sum() if values.sum() else values for key, values in trained.items()}
    member = {group: np.array([own == group for own in groups]) for group in ("model", "dataset", "graph")}

    def summed(name: str, pick: Callable[[np.ndarray], float], paper: float | None = None) -> Importance:
        values = {r: [pick(shares[r, s]) for s in seeds] for r in names}
        return Importance(
            name,
            {r: float(np.mean(v)) for r, v in values.items()},
            {r: float(np.std(v)) for r, v in values.items()},
            paper,
        )

    titles = {"model": "Model attributes", "dataset": "Dataset features", "graph": "Graph embedding"}
    whole = [summed(titles[g], lambda v, m=m: float(v[m].sum())) for g, m in member.items() if m.any()]
    model = np.flatnonzero(member["model"])

    def of_model(columns_of: np.ndarray) -> Callable[[np.ndarray], float]:
        def pick(values: np.ndarray) -> float:
            total = values[model].sum()
            return float(values[columns_of].sum() / total) if total else 0.0

        return pick

    first = np.mean([shares[names[0], s] for s in seeds], axis=0)
    order = sorted(model, key=lambda column: (-first[column], columns[column]))
    top, rest = order[:10], order[10:]
    features = [
        summed(columns[c], of_model(np.array([c])), figures_of("table1", columns[c]).get("share"))
        for c in top
    ]
    if rest:
        remaining = figures_of("table1", "remaining").get("share")
        features.append(summed(f"Remaining {len(rest)}", of_model(np.array(rest)), remaining))
    return Importances(tuple(whole), tuple(features), seeds)


def recipe_title(recipe: str) -> str:
    """A recipe's name for people."""
    if recipe == DEFAULT_RECIPE == PAPER:
        return METHOD_TITLE
    return f"{METHOD_TITLE} ({'paper recipe' if recipe == PAPER else recipe})"


# -- figures by dataset


@dataclass(frozen=True, eq=False)
class _Table:
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
        return self.interval(figure).mean

    def interval(self, figure: str) -> Interval:
        return bootstrap_interval(self.values(figure) if len(self) else np.empty(0))

    def between_seeds(self, figure: str) -> float:
        means = [float(np.nanmean(row)) for row in self.matrix(figure) if not np.isnan(row).all()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")

    def p_value(self, other: _Table, figure: str) -> float:
        shared = [dataset for dataset in self.datasets if dataset in set(other.datasets)]
        if not shared:
            return float("nan")
        ours, theirs = (
            dict(zip(table.datasets, table.values(figure), strict=True)) for table in (self, other)
        )
        return paired_p_value(np.array([ours[d] for d in shared]), np.array([theirs[d] for d in shared]))

    def scaled(self, scale: float) -> _Table:
        """O2B and O2O as shares of a range; not defined where that is 0."""

        def share(key: str, value: float) -> float:
            if key not in (O2B.key, O2O.key):
                return value
            return value / scale if scale > 0 else float("nan")

        return _Table(
            tuple(
                {dataset: {k: share(k, v) for k, v in own.items()} for dataset, own in seed.items()}
                for seed in self.by_seed
            )
        )


def _table(folds_by_seed: Sequence[Sequence[Fold]], method: str) -> _Table:
    by_seed = [
        {fold.dataset: fold.scores[method].figures for fold in folds if method in fold.scores}
        for folds in folds_by_seed
    ]
    if not by_seed or not all(by_seed):
        return _Table(())
    shared = set.intersection(*(set(own) for own in by_seed))
    return _Table(tuple({dataset: own[dataset] for dataset in shared} for own in by_seed))


def _method(outcomes: Sequence[Outcome]) -> _Table:
    return _table([outcome.folds for outcome in outcomes], METHOD)


def _oracle(folds_by_seed: Sequence[Sequence[Fold]]) -> _Table:
    """The figures of who knows the truth: its lead over the best on average is how far that stays behind."""
    return _Table(
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


def _of(outcome: Outcome, datasets: set[str]) -> list[Fold]:
    return [fold for fold in outcome.folds if fold.dataset in datasets]


def _row(
    key: str,
    title: str,
    table: _Table,
    compared: _Table | None,
    paper: Mapping[str, float],
    note: str = "",
) -> Row:
    figures, p_value, between = {}, {}, {}
    for metric in SELECTION_METRICS if len(table) else ():
        interval = table.interval(metric.key)
        if not interval.folds:
            continue
        figures[metric.key] = interval
        if compared is not None and len(compared):
            p_value[metric.key] = table.p_value(compared, metric.key)
        deviation = table.between_seeds(metric.key)
        if not np.isnan(deviation):
            between[metric.key] = deviation
    return Row(key, title, figures, p_value, between, dict(paper), note)


def _failure(outcomes: Sequence[Outcome]) -> str:
    return next((outcome.failure for outcome in outcomes if outcome.failure), "")


def _why_missing(key: str) -> str:
    return {
        "initial": "no values from before fine-tuning are recorded",
        "neighbours": "no two datasets were compared",
        "direct": "nothing tells the datasets apart",
    }.get(key, "not available")


def _most_folds(outcomes: Sequence[Outcome]) -> int:
    return max((len(outcome.folds) for outcome in outcomes), default=0)


def _last(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values)


def _ceiling(within: Sequence[np.ndarray], deviation: float, seed: int, n_draws: int = 2_000) -> float:
    """How often the best of a dataset stays the best in another measurement, simulated."""
    if np.isnan(deviation) or not within:
        return float("nan")
    rng = np.random.default_rng(seed)
    kept = [
        (
            (values + deviation * rng.normal(size=(n_draws, len(values)))).argmin(axis=1) == values.argmin()
        ).mean()
        for values in within
    ]
    return float(np.mean(kept))
