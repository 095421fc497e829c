"""The figures of the studies of datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.metrics import OSR, TAU, SelectionMetric
from matchgraph.svg import COLOURS, FAINT, INK, LINES, MARKERS, drawing

if TYPE_CHECKING:
    from matchgraph.report.chances import Chances
    from matchgraph.report.comparisons import Comparison, Sparsity
    from matchgraph.report.measurements import Landscape
    from matchgraph.report.trained import Importances

# Above this, cells are one picture instead of one shape each, and only some are named.
MOST_CELLS = 2_500
MOST_NAMES = 64
MOST_LABELLED_CELLS = 400
LONGEST_NAME = 28


def heatmap(study: Landscape) -> str:
    """Figure 3b: every model on every dataset, lighter is better, the best of each dataset marked."""
    rows, columns = study.values.shape
    with drawing("heatmap", height=1.6 + 0.3 * min(rows, MOST_NAMES)) as (figure, finish):
        axes = figure.subplots()
        axes.set_facecolor("none")
        # Reversed where smaller is better, so that light is good either way.
        colours = "cividis" if study.larger_is_better else "cividis_r"
        shown = np.ma.masked_invalid(study.values)
        low, high = np.nanquantile(study.values, [0.02, 0.98])
        mesh = axes.pcolormesh(
            shown,
            cmap=colours,
            vmin=low,
            vmax=high if high > low else low + 1,
            edgecolors="none",
            rasterized=rows * columns > MOST_CELLS,
        )
        axes.invert_yaxis()
        _named(axes.set_yticks, study.models)
        _named(axes.set_xticks, study.datasets, rotation=90)
        axes.tick_params(length=0)
        for i, j in zip(*np.nonzero(study.best), strict=True):
            # Black on light and white on dark, whatever the page: the cell is its own ground.
            red, green, blue, _ = mesh.cmap(mesh.norm(study.values[i, j]))
            on_light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
            if columns <= MOST_NAMES:
                axes.plot(
                    j + 0.5,
                    i + 0.5,
                    marker="*",
                    markersize=8,
                    color="#000000" if on_light else "#ffffff",
                    lw=0,
                )
        for side in axes.spines.values():
            side.set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.025, pad=0.015)
        bar.outline.set_visible(False)
        bar.set_label(f"{study.metric} ({'larger' if study.larger_is_better else 'smaller'} is better)")
        return finish()


def before_and_after(study: Landscape) -> str | None:
    """Figure 3a: each pair before and after fine-tuning; None where nothing was measured before."""
    known = ~np.isnan(study.initial) & ~np.isnan(study.values)
    if not known.any():
        return None
    with drawing("before-after", width=5.2, height=4.4) as (figure, finish):
        axes = figure.subplots()
        before, after = study.initial[known], study.values[known]
        ends = [float(min(before.min(), after.min())), float(max(before.max(), after.max()))]
        axes.plot(ends, ends, color=INK, linestyle=":", linewidth=1)
        of_best = study.best[known]
        for chosen, colour, marker, label in (
            (~of_best, COLOURS[5], "o", "other models"),
            (of_best, COLOURS[1], "*", "best of its dataset"),
        ):
            axes.plot(
                before[chosen],
                after[chosen],
                linestyle="",
                marker=marker,
                markersize=8 if marker == "*" else 4,
                color=colour,
                alpha=0.9,
                label=label,
                rasterized=len(before) > MOST_CELLS,
            )
        axes.set_xlabel(f"{study.metric} before fine-tuning")
        axes.set_ylabel(f"{study.metric} after")
        axes.legend(frameon=False)
        return finish()


def intervals(
    name: str, comparison: Comparison, metrics: Sequence[SelectionMetric] = (OSR, TAU)
) -> str | None:
    """Each row's figures as points with their intervals, the paper's as hollow diamonds; None without any."""
    rows = [row for row in comparison.rows if row.figures]
    if not rows:
        return None
    highlighted = comparison.rows[comparison.highlighted]
    with drawing(name, height=0.9 + 0.34 * len(rows)) as (figure, finish):
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            for place, row in enumerate(rows):
                own = row.figures.get(metric.key)
                if own is None:
                    continue
                colour = COLOURS[0] if row is highlighted else INK
                axes.plot(
                    [own.low, own.high],
                    [place, place],
                    color=colour,
                    linewidth=2 if row is highlighted else 1.2,
                )
                axes.plot(own.value, place, "o", color=colour, markersize=6)
                if metric.key in row.paper:
                    axes.plot(
                        row.paper[metric.key],
                        place,
                        "D",
                        markersize=6,
                        markerfacecolor="none",
                        markeredgecolor=COLOURS[1],
                    )
            axes.set_xlabel(metric.title)
            axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.8)
            if metric.key == OSR.key:
                axes.set_xlim(-0.03, 1.03)
                axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        panels[0].set_yticks(range(len(rows)), [shortened(row.title, 44) for row in rows])
        panels[0].invert_yaxis()
        return finish()


def sparsity(study: Sparsity) -> str:
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


def importances(study: Importances, titles: dict[str, str]) -> str | None:
    """Table 1 as bars; None where models differ in nothing."""
    if not study.features:
        return None
    rankers = list(study.features[0].share)
    with drawing("importances", height=0.9 + 0.36 * len(study.features)) as (figure, finish):
        axes = figure.subplots()
        thickness = 0.8 / len(rankers)
        for number, ranker in enumerate(rankers):
            places = np.arange(len(study.features)) + (number - (len(rankers) - 1) / 2) * thickness
            axes.barh(
                places,
                [100 * row.share[ranker] for row in study.features],
                height=thickness * 0.9,
                xerr=[100 * row.spread[ranker] for row in study.features] if len(study.seeds) > 1 else None,
                ecolor=FAINT,
                color=COLOURS[number],
                hatch="" if number == 0 else "////",
                edgecolor="#ffffff" if number else COLOURS[0],
                linewidth=0,
                label=titles[ranker],
            )
        axes.set_yticks(range(len(study.features)), [shortened(row.name, 44) for row in study.features])
        axes.invert_yaxis()
        axes.set_xlabel("share of all model attributes' importance, %")
        axes.legend(frameon=False, loc="lower right")
        return finish()


def reliability(study: Chances) -> str:
    """How often models were the best against the chance they were given."""
    with drawing("reliability", width=5.6, height=4.6) as (figure, finish):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1, label="perfectly calibrated")
        observed = np.array([own.observed.value for own in study.curve])
        ends = np.array([[own.observed.low, own.observed.high] for own in study.curve])
        axes.errorbar(
            [own.predicted for own in study.curve],
            observed,
            # The end of an interval may lie on the other side of the share by a rounding.
            yerr=np.abs(np.clip((ends - observed[:, None]) * [-1, 1], 0, None).T),
            color=COLOURS[0],
            marker=MARKERS[0],
            linestyle=LINES[0],
            markersize=5,
            elinewidth=0.8,
            label="as predicted",
        )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("predicted chance of being the best")
        axes.set_ylabel("share that was the best")
        axes.legend(frameon=False, loc="upper left")
        return finish()


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _named(set_ticks: Any, names: Sequence[str], **options: Any) -> None:
    """Name the cells along an axis, or some of them where there are many."""
    step = -(-len(names) // MOST_NAMES)
    places = range(0, len(names), step)
    set_ticks(
        [place + 0.5 for place in places],
        [shortened(names[place]) for place in places],
        fontsize=8,
        **options,
    )
