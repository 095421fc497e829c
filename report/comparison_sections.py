"""Comparisons of methods as sections of the page: Tables 3 to 7 in words, intervals and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matchgraph.predictor.metrics import OSR, SELECTION_METRICS, TAU, SelectionMetric
from matchgraph.predictor.recipes import RECIPES
from matchgraph.report.comparisons import INTERVALS, ORACLE, Comparison, Row
from matchgraph.report.config import section_of, without_data
from matchgraph.report.page import Figure, Section
from matchgraph.report.tables import Column, Kind, Table, table
from matchgraph.report.verdicts import listed, number, p_text, percent, verdict
from matchgraph.svg import COLOURS, FAINT, INK, drawing, shortened

# In shares of a range, as the paper's Table 5 has them.
SCALED = ("o2b", "o2o")
WORDS = {"above": "clearly more", "level": "not clearly more or less", "below": "clearly less"}


def selection_section(study: Comparison, models: int) -> Section:
    """Table 3."""
    first = study.rows[study.highlighted]
    if not first.figures:
        return without_data("selection", first.note)
    drawing = intervals("selection", study)
    return section_of(
        "selection",
        chosen(first, study.folds, models),
        "Each dataset is held out in turn and the models are ranked for it from all others. OSR: how "
        "often the best model was chosen. τ_w: agreement of the whole order; errors among the best models "
        "weigh more. O2B: how much worse the chosen model is than the one that is best on average "
        f"(negative is better). O2O: than the best one. {INTERVALS}, figures averaged over seeds "
        f"first; p is from a paired permutation test of each row against {first.title}, over the same "
        "datasets.",
        figures=_intervals_drawn(drawing),
        tables=(comparison_table("table3-selection", study),),
        also=against_baselines(study),
        folds=study.folds,
        seeds=study.seeds,
    )


def inputs_section(study: Comparison) -> Section:
    """Table 4."""
    # The rows of the first recipe; those of another follow.
    reached = [f"{row.title}: OSR {_reached(row)}" for row in study.rows[:3] if row.figures]
    return _compared(
        "inputs",
        "table4-inputs",
        study,
        "The same recipe with only the nodes' own features, only the graph's embedding, or both; p compares "
        f"with both, of the same recipe. {INTERVALS}.",
        first="input",
        lead=f"{'; '.join(reached)}." if reached else "",
    )


def metrics_section(study: Comparison, *, alone: bool) -> Section:
    """Table 5; `alone` where there is one metric only."""
    return _compared(
        "metrics",
        "table5-metrics",
        study,
        "Results and similarities by another metric, everything else the same. O2B and O2O are shares of the "
        "range of that metric's measured values; p compares with always taking the best average rank by "
        f"that metric. {INTERVALS}.",
        first="metric",
        scaled=True,
        lead="The graph has results by one metric only, so there is nothing to compare." if alone else "",
    )


def probes_section(study: Comparison, *, alone: bool) -> Section:
    """Table 6; `alone` where there is one probe only."""
    return _compared(
        "probes",
        "table6-probes",
        study,
        "The same results, with another probe of the datasets: other features, or other "
        f"similarities. p compares with always taking the best average rank. {INTERVALS}.",
        first="probe",
        lead="The graph has one probe of the datasets only, so there is nothing to compare." if alone else "",
    )


def rankers_section(study: Comparison) -> Section:
    """Table 7."""
    return _compared(
        "rankers",
        "table7-rankers",
        study,
        "The paper's recipe with another classifier of ranks: an RBF kernel for SVC, a hidden layer of "
        "256 for the MLP, 300 trees for the others; XGBoost has CatBoost's depth, thresholds and share of "
        f"columns. p compares with CatBoost. {INTERVALS}.",
        first="ranker",
    )


def chosen(row: Row, folds: int, models: int) -> str:
    """How often a method chose the best model, as a sentence."""
    osr, tau = row.figures[OSR.key], row.figures.get(TAU.key)
    text = (
        f"{row.title} chose the best of {models} models on {percent(osr)} of {folds} held-out datasets "
        f"(95 % interval {100 * osr.low:.0f} to {100 * osr.high:.0f} %)"
    )
    return text + (f", with τ_w {number(tau.value)}." if tau else ".")


def _intervals_drawn(svg: str | None) -> tuple[Figure, ...]:
    caption = "OSR and τ_w with their intervals. Hollow diamonds: the paper, on its own matrix."
    return (Figure(svg, caption),) if svg else ()


def _reached(row: Row) -> str:
    tau = row.figures.get(TAU.key)
    return percent(row.figures[OSR.key]) + (f", τ_w {number(tau.value)}" if tau else "")


def against_baselines(study: Comparison) -> str:
    """Which baselines the method clearly beats, and which not, by its choice and by its order."""
    first = study.rows[study.highlighted]
    others = [row for row in study.rows if row.key not in (ORACLE, *RECIPES) and OSR.key in row.figures]
    by_choice, by_order = (_by_verdict(first, others, figure) for figure in (OSR.key, TAU.key))
    text = f"That is {by_choice}." if by_choice else ""
    return f"{text} Its whole order (τ_w) agrees {by_order}." if by_order else text


def _by_verdict(first: Row, others: Sequence[Row], figure: str) -> str:
    """Which rows the first one clearly exceeds, which not, and which exceed it, as a clause."""
    groups: dict[str, list[str]] = {name: [] for name in WORDS}
    for row in others:
        if figure not in row.figures or figure not in row.p_value:
            continue
        own = row.figures[figure]
        found = verdict(first.figures[figure].value - own.value, row.p_value[figure])
        if found:
            shown = percent(own) if figure == OSR.key else number(own.value)
            groups[found].append(f"{row.title} ({shown}, p {p_text(row.p_value[figure])})")
    often = " often" if figure == OSR.key else ""
    return "; ".join(
        f"{WORDS[name]}{often} than {listed(titles)}" for name, titles in groups.items() if titles
    )


def _compared(
    key: str,
    name: str,
    study: Comparison,
    caption: str,
    *,
    first: str,
    scaled: bool = False,
    lead: str = "",
) -> Section:
    filled = [row for row in study.rows if row.figures]
    if not filled:
        why = next((row.note for row in study.rows if row.note), "There is nothing to compare.")
        return without_data(key, why)
    metrics = SELECTION_METRICS if scaled else (OSR, TAU)
    return section_of(
        key,
        lead or highest(filled, study.against),
        caption,
        figures=_intervals_drawn(intervals(key, study)),
        tables=(comparison_table(name, study, metrics, first=first, scaled=scaled),),
        folds=study.folds,
        seeds=study.seeds,
    )


def highest(rows: Sequence[Row], against: str) -> str:
    """Which row has the highest OSR, and whether it is clearly above what it is compared with.

    Args:
        rows: with figures.
        against: what p-values compare with, in words.
    """
    best = max(rows, key=lambda row: row.figures[OSR.key].value)
    text = f"{best.title} has the highest OSR: {_reached(best)}"
    difference = best.difference.get(OSR.key)
    found = None if difference is None else verdict(difference, best.p_value[OSR.key])
    if found is None:
        return f"{text}."
    p = p_text(best.p_value[OSR.key])
    return f"{text}; {WORDS[found]} than {against} (p {p})."


def intervals(name: str, comparison: Comparison) -> str | None:
    """Each row's figures as points with their intervals, the paper's as hollow diamonds; None without any."""
    rows = [row for row in comparison.rows if row.figures]
    if not rows:
        return None
    highlighted = comparison.rows[comparison.highlighted]
    with drawing(name, height=0.9 + 0.34 * len(rows)) as (figure, finish):
        panels = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, (OSR, TAU), strict=True):
            for place, row in enumerate(rows):
                own = row.figures.get(metric.key)
                if own is None:
                    continue
                colour, width = (COLOURS[0], 2.0) if row is highlighted else (INK, 1.2)
                axes.plot([own.low, own.high], [place, place], color=colour, linewidth=width)
                axes.plot(own.value, place, "o", color=colour, markersize=6)
                if metric.key in row.paper:
                    hollow = {"markerfacecolor": "none", "markeredgecolor": COLOURS[1]}
                    axes.plot(row.paper[metric.key], place, "D", markersize=6, **hollow)
            axes.set_xlabel(metric.title)
            axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.8)
            if metric.key == OSR.key:
                axes.set_xlim(-0.03, 1.03)
                axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        panels[0].set_yticks(range(len(rows)), [shortened(row.title, 44) for row in rows])
        panels[0].invert_yaxis()
        return finish()


def comparison_table(
    name: str,
    comparison: Comparison,
    metrics: Sequence[SelectionMetric] = SELECTION_METRICS,
    *,
    first: str = "method",
    scaled: bool = False,
) -> Table:
    """Rows of selection figures, each with its p-value, the spread over seeds, and the paper's figure."""

    def kind(metric: SelectionMetric) -> Kind:
        return "share" if metric is OSR or (scaled and metric.key in SCALED) else "number"

    def of(attribute: str, metric: SelectionMetric, **changed: Any) -> Column:
        value = lambda row: getattr(row, attribute).get(metric.key)  # noqa: E731
        return Column(value=value, **{"kind": kind(metric), **changed})

    def known(attribute: str) -> list[SelectionMetric]:
        return [m for m in metrics if any(m.key in getattr(row, attribute) for row in comparison.rows)]

    columns = [
        Column("key", "", lambda row: row.key),
        Column(first, first.capitalize(), lambda row: row.title),
    ]
    for m in metrics:
        arrow = "↑" if m.larger_is_better else "↓"
        columns.append(of("figures", m, name=m.key, title=f"{_short(m)} {arrow}"))
        if m in known("p_value"):
            # Two p-values are enough to read; the file has them all, and the spread over seeds.
            title = "p" if m in (OSR, TAU) else ""
            columns.append(of("p_value", m, name=f"{m.key}_p", title=title, kind="p"))
    columns += [
        of("between_seeds", m, name=f"{m.key}_seeds", title="±\u00a0seeds" if m is OSR else "")
        for m in known("between_seeds")
    ]
    columns += [of("paper", m, name=f"paper_{m.key}", title=_short(m), of_paper=True) for m in known("paper")]
    if any(row.note for row in comparison.rows):
        columns.append(Column("note", "Note", lambda row: row.note))
    return table(name, comparison.rows, columns, {comparison.highlighted})


def _short(metric: SelectionMetric) -> str:
    return metric.title.removeprefix("Kendall ")
