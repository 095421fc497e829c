"""How figures fall when results are taken away, Figure 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.folds import METHOD
from matchgraph.predictor.metrics import OSR, TAU
from matchgraph.report.by_dataset import fold_figures
from matchgraph.report.comparisons import AVERAGE_RANK, RANDOM, most_folds, recipe_title
from matchgraph.report.config import section_of
from matchgraph.report.page import Figure, Section
from matchgraph.report.tables import Column, Table, table
from matchgraph.report.verdicts import SURE, percent
from matchgraph.svg import COLOURS, FAINT, LINES, MARKERS, drawing

if TYPE_CHECKING:
    from matchgraph.report.variants import Outcome
    from matchgraph.stats.intervals import Interval

REMOVED = tuple(step / 10 for step in range(10))


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
        points = [fold_figures([outcomes[recipe, s, seed].folds for seed in seeds], method) for s in shares]
        tables[key] = points
        figures = {m.key: tuple(point.interval(m.key) for point in points) for m in (OSR, TAU)}
        series.append(Series(key, title, figures))
    lost_at = None
    for share, own, chance in zip(
        reversed(shares), tables[recipes[0]][::-1], tables[RANDOM][::-1], strict=True
    ):
        if own.verdict(chance, OSR.key) == "above":
            break
        lost_at = share
    return Sparsity(shares, tuple(series), most_folds(outcomes.values()), seeds, lost_at)


def sparsity_figure(study: Sparsity) -> str:
    """Figure 6: figures against the share of results that was taken away."""
    with drawing("sparsity", height=3.9) as (figure, finish):
        panels = figure.subplots(1, 2)
        for axes, metric in zip(panels, (OSR, TAU), strict=True):
            for number, series in enumerate(study.series):
                points = series.figures[metric.key]
                removed = np.array(study.removed[: len(points)])
                means = np.array([point.value for point in points])
                axes.plot(
                    removed,
                    means,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    linestyle=LINES[number % len(LINES)],
                    markersize=5,
                    label=series.title,
                )
                if number == 0:
                    low, high = [p.low for p in points], [p.high for p in points]
                    axes.fill_between(removed, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
            axes.set_xlabel("share of results removed")
            axes.set_ylabel(metric.title)
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            axes.grid(color=FAINT, alpha=0.3, linewidth=0.8)
            if metric.key == OSR.key:
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        return finish()


def sparsity_section(study: Sparsity) -> Section:
    """Figure 6."""
    first = study.series[0]
    full, last = first.figures[OSR.key][0], first.figures[OSR.key][-1]
    lead = (
        f"With all results, {first.title} chooses the best model on {percent(full)} of the datasets; with "
        f"{100 * study.removed[-1]:.0f} % of them removed, on {percent(last)}."
    )
    if study.lost_at is None:
        lead += " At every share it is clearly above chance."
    else:
        lead += f" From {100 * study.lost_at:.0f} % on it is not clearly above chance (p ≥ {SURE})."
    return section_of(
        "sparsity",
        lead,
        "A share of the visible results is removed at random, independently in each fold; similarities and "
        "the held-out results stay. The band is the 95 % bootstrap interval over datasets of the first line. "
        "In the paper, on its own matrix, OSR starts at 61.3 % and from 60 % removed results on is no better "
        "than a random guess.",
        figures=(Figure(sparsity_figure(study), "OSR and τ_w by the share of results removed."),),
        tables=(sparsity_table(study),),
        folds=study.folds,
        seeds=study.seeds,
    )


def sparsity_table(study: Sparsity) -> Table:
    """One row for each share of removed results."""
    columns = [Column("removed", "Removed", lambda i: study.removed[i], "share")]

    def of_series(own: Series) -> list[Column]:
        osr, tau = own.figures[OSR.key], own.figures[TAU.key]
        return [
            Column(f"{own.key}_osr", f"{own.title}: OSR", lambda i: osr[i], "share"),
            Column(f"{own.key}_tau_w", f"{own.title}: τ_w", lambda i: tau[i], "number"),
        ]

    for own in study.series:
        columns += of_series(own)
    return table("fig6-sparsity", range(len(study.removed)), columns)
