"""Methods side by side over held-out datasets: Tables 3 to 7."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.evaluation import METHOD_TITLE
from matchgraph.predictor.folds import METHOD
from matchgraph.predictor.metrics import SELECTION_METRICS
from matchgraph.predictor.recipes import DEFAULT_RECIPE, PAPER
from matchgraph.report.by_dataset import FoldFigures, fold_figures, of_method, of_oracle
from matchgraph.report.paper import figures_of
from matchgraph.report.rankers import TITLES
from matchgraph.stats.intervals import Interval

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.folds import Fold
    from matchgraph.report.sources import View
    from matchgraph.report.variants import Outcome

ORACLE, AVERAGE_RANK, RANDOM = "oracle", "average_rank", "random"
FEATURE_TITLES = {"node": "Model and dataset features", "graph": "Graph embeddings", "all": "Both"}
INTERVALS = "Brackets are 95 % bootstrap intervals over datasets"


@dataclass(frozen=True)
class Row:
    """A method in a table of selection figures.

    Attributes:
        key: its name in JSON.
        title: its readable name.
        figures: by key of the selection metric; what is not defined is left out.
        difference: its mean minus that of what it is compared with, over the datasets of both, by key.
        p_value: of being no different from that, by key.
        between_seeds: standard deviation over seeds of the mean over datasets, by key; empty for one seed.
        paper: the paper's figures for it, by key.
        note: why there are no figures, or what is particular.
    """

    key: str
    title: str
    figures: Mapping[str, Interval]
    difference: Mapping[str, float]
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
        against: what p-values compare with, in words.
        skipped: why a dataset is not held out, by its id.
    """

    rows: tuple[Row, ...]
    folds: int
    seeds: tuple[int, ...]
    reference: str
    against: str
    skipped: Mapping[str, str]

    @property
    def highlighted(self) -> int:
        """The number of the row that the others are compared with."""
        return next((i for i, row in enumerate(self.rows) if row.key == self.reference), 0)


def selection(outcomes: Mapping[tuple[str, int], Outcome]) -> Comparison:
    """Table 3: the recipes against all baselines, the random choice and the oracle.

    Args:
        outcomes: by recipe and seed; the paper's recipe brings the baselines.

    Returns:
        The recipes first, the default one at the top; p-values are of each row against it.

    Source:
        Match & Choose, section 5.2, Table 3.
    """
    recipes = list(dict.fromkeys(recipe for recipe, _ in outcomes))
    seeds = tuple(sorted({seed for _, seed in outcomes}))
    usable = {key: outcome for key, outcome in outcomes.items() if outcome.folds}
    common = set.intersection(*({f.dataset for f in o.folds} for o in usable.values())) if usable else set()
    own = {
        recipe: fold_figures([_of(usable[recipe, s], common) for s in seeds if (recipe, s) in usable], METHOD)
        for recipe in recipes
    }
    per_seed = [_of(usable[PAPER, s], common) for s in seeds if (PAPER, s) in usable]
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
    tables = {b.key: (b.title, fold_figures(per_seed, b.key)) for b in BASELINES}
    tables[ORACLE] = ("Oracle", of_oracle(per_seed))
    for key, (title, table) in tables.items():
        note = "" if len(table) else _why_missing(key)
        compared = own[reference] if reference else None
        rows.append(_row(key, title, table, compared, figures_of("table3", key), note))
    skipped = next((o.skipped for o in usable.values()), {})
    against = recipe_title(reference) if reference else ""
    return Comparison(tuple(rows), len(common), seeds, reference, against, skipped)


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
        title = FEATURE_TITLES[features] + (f" ({_kind(recipe)})" if several else "")
        paper = figures_of("table4", features) if recipe == PAPER else {}
        compared = None if features == "all" else fold_figures([o.folds for o in whole], METHOD)
        rows.append(_row(f"{recipe}:{features}", title, of_method(own), compared, paper, _failure(own)))
    return Comparison(tuple(rows), most_folds(outcomes.values()), seeds, "", "both", {})


def views(
    known: Sequence[View],
    outcomes: Mapping[tuple[str, str, int], Outcome],
    snapshots: Mapping[str, Snapshot],
    table: str,
) -> Comparison:
    """Tables 5 and 6: the recipes by other metrics, or with the datasets seen through other probes.

    Args:
        known: the views.
        outcomes: by recipe, key of the view and seed.
        snapshots: the views, for the range of their values.
        table: "table5" or "table6".

    Returns:
        One row for each view and recipe; O2B and O2O as shares of the range of the metric's measured values,
        as metrics have no common unit. p-values are against always taking the best average rank by that very
        metric.

    Source:
        Match & Choose, sections 5.5 and 5.6, Tables 5 and 6.
    """
    seeds = tuple(sorted({seed for _, _, seed in outcomes}))
    recipes = list(dict.fromkeys(recipe for recipe, _, _ in outcomes))
    rows = []
    for recipe in recipes:
        for view in known:
            if not view.key:
                continue
            own = [outcomes[recipe, view.key, seed] for seed in seeds]
            values = snapshots[view.key].performs["value"].dropna().to_numpy()
            scale = float(np.ptp(values)) if len(values) else 0.0
            method, rank = of_method(own), fold_figures([o.folds for o in own], AVERAGE_RANK)
            paper = figures_of(table, view.paper) if recipe == PAPER else {}
            title = view.title + (f" ({_kind(recipe)})" if len(recipes) > 1 else "")
            note = _failure(own) or view.note
            key = view.key if len(recipes) == 1 else f"{view.key}:{recipe}"
            rows.append(_row(key, title, method.scaled(scale), rank.scaled(scale), paper, note))
    rows += [
        Row(view.title, view.title, {}, {}, {}, {}, dict(figures_of(table, view.paper)), view.note)
        for view in known
        if not view.key
    ]
    return Comparison(
        tuple(rows), most_folds(outcomes.values()), seeds, AVERAGE_RANK, "the best average rank", {}
    )


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
        compared = None if name == "catboost" else of_method(reference)
        rows.append(_row(name, title, of_method(own), compared, figures_of("table7", name), _failure(own)))
    return Comparison(tuple(rows), most_folds(outcomes.values()), seeds, "catboost", TITLES["catboost"], {})


def recipe_title(recipe: str) -> str:
    """A recipe's readable name."""
    return METHOD_TITLE if DEFAULT_RECIPE == PAPER else f"{METHOD_TITLE} ({_kind(recipe)})"


def _kind(recipe: str) -> str:
    return {DEFAULT_RECIPE: "default recipe", PAPER: "paper recipe"}.get(recipe, recipe)


def _of(outcome: Outcome, datasets: set[str]) -> list[Fold]:
    return [fold for fold in outcome.folds if fold.dataset in datasets]


def _row(
    key: str,
    title: str,
    table: FoldFigures,
    compared: FoldFigures | None,
    paper: Mapping[str, float],
    note: str = "",
) -> Row:
    figures, difference, p_value, between = {}, {}, {}, {}
    for metric in SELECTION_METRICS if len(table) else ():
        interval = table.interval(metric.key)
        if not interval.count:
            continue
        figures[metric.key] = interval
        if compared is not None and len(compared):
            difference[metric.key] = table.difference(compared, metric.key)
            p_value[metric.key] = table.p_value(compared, metric.key)
        deviation = table.between_seeds(metric.key)
        if not np.isnan(deviation):
            between[metric.key] = deviation
    return Row(key, title, figures, difference, p_value, between, dict(paper), note)


def _failure(outcomes: Sequence[Outcome]) -> str:
    return next((outcome.failure for outcome in outcomes if outcome.failure), "")


def _why_missing(key: str) -> str:
    return {
        "initial": "no values from before fine-tuning are recorded",
        "neighbours": "no two datasets were compared",
        "direct": "no facts distinguish the datasets",
    }.get(key, "not available")


def most_folds(outcomes: Iterable[Outcome]) -> int:
    """How many datasets were held out."""
    return max((len(outcome.folds) for outcome in outcomes), default=0)
