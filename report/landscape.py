"""What was measured: every model on every dataset, Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.baselines import average_rank
from matchgraph.predictor.visibility import loss_matrix
from matchgraph.report.config import section_of
from matchgraph.report.page import Figure, Section
from matchgraph.report.tables import Column, Table, table
from matchgraph.svg import COLOURS, INK, drawing, shortened

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

# Above this, cells are one picture instead of one shape each, and only some are named.
MOST_CELLS = 2_500
MOST_NAMES = 64


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


def landscape(snapshot: Snapshot) -> Landscape:
    """Lay out what was measured.

    Args:
        snapshot: the graph by one metric.

    Source:
        Match & Choose, section 3, Figure 3.
    """
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


def _last(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values)


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


def landscape_section(study: Landscape) -> Section:
    """Figure 3."""
    leaders = sorted(study.wins, key=lambda model: (-study.wins[model], model))
    winners = sum(wins > 0 for wins in study.wins.values())
    first = leaders[0]
    lead = (
        f"{winners} of {len(study.models)} models {'is' if winners == 1 else 'are'} the best somewhere; "
        f"{first} wins most often, on {_wins(study.wins[first])} of {len(study.datasets)} datasets."
    )
    improved, of = study.improved
    if of:
        lead += f" Fine-tuning improved {improved} of {of} pairs ({100 * improved / of:.0f} %)."
    figures = [
        Figure(
            heatmap(study),
            f"{study.metric} after fine-tuning of every model (rows, best average rank first) on every "
            "dataset (columns). Lighter is better; a star marks the best of each dataset. Colours end at "
            "the 2 % and 98 % quantiles.",
        )
    ]
    scatter = before_and_after(study)
    if scatter:
        side = "Above" if study.larger_is_better else "Below"
        figures.append(Figure(scatter, f"{side} the dotted line, fine-tuning helped."))
    return section_of(
        "landscape",
        lead,
        figures=tuple(figures),
        data=(landscape_table(study),),
    )


def landscape_table(study: Landscape) -> Table:
    """One row for each measured pair."""
    pairs = [(int(i), int(j)) for i, j in np.argwhere(~np.isnan(study.values))]
    return table(
        "fig3-results",
        pairs,
        [
            Column("model", "Model", lambda pair: study.models[pair[0]]),
            Column("dataset", "Dataset", lambda pair: study.datasets[pair[1]]),
            Column("initial", "Before", lambda pair: float(study.initial[pair]), "number"),
            Column("value", "After", lambda pair: float(study.values[pair]), "number"),
            Column("best", "Best", lambda pair: int(study.best[pair]), "count"),
        ],
    )


def _wins(value: float) -> str:
    """A number of wins, whole where no tie was shared."""
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
