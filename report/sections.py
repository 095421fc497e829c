"""A study as a section of the page: what it says in words, its figures, its tables and how they were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matchgraph.predictor.metrics import OSR, SELECTION_METRICS, TAU
from matchgraph.predictor.recipes import RECIPES
from matchgraph.report import figures, tables
from matchgraph.report.chances import Chances
from matchgraph.report.comparisons import SURE, Comparison, Row, Sparsity
from matchgraph.report.measurements import Landscape, Noise
from matchgraph.report.rankers import TITLES
from matchgraph.report.tables import Table
from matchgraph.report.trained import Importances, Timing
from matchgraph.stats.intervals import Interval

INTERVALS = "Brackets are 95 % bootstrap intervals over datasets"


@dataclass(frozen=True)
class Drawing:
    """A figure of a section.

    Attributes:
        svg: the drawing.
        caption: what it shows.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: its name for `--only`.
        title: for people.
        source: what of the paper it is, such as "Table 3".
        lead: what it says, in a sentence or two; for a part without data, why there is none.
        also: what else it says.
        caption: how to read it.
        drawings: its figures.
        tables: its tables.
        data: tables too long for the page, as CSV files only.
        folds: how many datasets were held out; 0 where none are.
        seeds: that it was computed with.
        missing: whether the graph has no data for it.
    """

    key: str
    title: str
    source: str
    lead: str
    caption: str = ""
    also: str = ""
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    data: tuple[Table, ...] = ()
    folds: int = 0
    seeds: tuple[int, ...] = ()
    missing: bool = False


def landscape_section(study: Landscape) -> Section:
    """Figure 3."""
    leaders = sorted(study.wins, key=lambda model: (-study.wins[model], model))
    winners = sum(wins > 0 for wins in study.wins.values())
    first = leaders[0]
    lead = (
        f"{winners} of {len(study.models)} models {'is' if winners == 1 else 'are'} the best somewhere; "
        f"{first} wins most often, on {_count(study.wins[first])} of {len(study.datasets)} datasets."
    )
    improved, of = study.improved
    if of:
        lead += f" Fine-tuning improved {improved} of {of} pairs ({100 * improved / of:.0f} %)."
    drawings = [
        Drawing(
            figures.heatmap(study),
            f"{study.metric} after fine-tuning of every model (rows, best average rank first) on every "
            "dataset (columns). Lighter is better; a star marks the best of each dataset. Colours end at "
            "the 2 % and 98 % quantiles.",
        )
    ]
    scatter = figures.before_and_after(study)
    if scatter:
        side = "Above" if study.larger_is_better else "Below"
        drawings.append(Drawing(scatter, f"{side} the dotted line, fine-tuning helped."))
    return Section(
        "landscape",
        "What was measured",
        "Figure 3",
        lead,
        drawings=tuple(drawings),
        data=(tables.landscape_table(study),),
    )


def selection_section(study: Comparison, models: int) -> Section:
    """Table 3."""
    first = study.rows[study.highlighted]
    if not first.figures:
        return without_data("selection", "Choosing the model", "Table 3", first.note)
    drawing = figures.intervals("selection", study)
    return Section(
        "selection",
        "Choosing the model",
        "Table 3",
        chosen(first, study.folds, models),
        "Each dataset is held out in turn and the models are ranked for it from all others. OSR: how "
        "often the best model was chosen. τ_w: agreement of the whole order, mistakes about the best "
        "weigh more. O2B: how far the chosen model's value stays behind that of the model best on average "
        f"(negative is better). O2O: behind that of the best one. {INTERVALS}, figures averaged over seeds "
        f"first; p is that of a paired permutation test of each row against {first.title}, over the same "
        "datasets.",
        drawings=_intervals_drawn(drawing),
        tables=(tables.comparison_table("table3-selection", study),),
        also=against_baselines(study),
        folds=study.folds,
        seeds=study.seeds,
    )


def inputs_section(study: Comparison) -> Section:
    """Table 4."""
    # The rows of the first recipe; those of another follow.
    said = [f"{row.title}: OSR {_reached(row)}" for row in study.rows[:3] if row.figures]
    return _compared(
        "inputs",
        "What the ranker sees",
        "Table 4",
        "table4-inputs",
        study,
        "The same recipe with only the nodes' own features, only the graph's embedding, or both; p compares "
        f"with both, of the same recipe. {INTERVALS}.",
        first="input",
        lead=f"{'; '.join(said)}." if said else "",
    )


def metrics_section(study: Comparison, *, alone: bool) -> Section:
    """Table 5; `alone` where there is one metric only."""
    return _compared(
        "metrics",
        "Other metrics of quality",
        "Table 5",
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
        "Other probes of the datasets",
        "Table 6",
        "table6-probes",
        study,
        "The same results, with the datasets seen through another probe: other features, or other "
        f"similarities. p compares with always taking the best average rank. {INTERVALS}.",
        first="probe",
        lead="The graph knows the datasets through one probe only, so there is nothing to compare."
        if alone
        else "",
    )


def rankers_section(study: Comparison) -> Section:
    """Table 7."""
    return _compared(
        "rankers",
        "Other rankers",
        "Table 7",
        "table7-rankers",
        study,
        "The paper's recipe with another classifier of ranks: an RBF kernel for SVC, a hidden layer of "
        "256 for the MLP, 300 trees for the others; XGBoost has CatBoost's depth, thresholds and share of "
        f"columns. p compares with CatBoost. {INTERVALS}.",
        first="ranker",
    )


def sparsity_section(study: Sparsity) -> Section:
    """Figure 6."""
    first = study.series[0]
    full, last = first.figures[OSR.key][0], first.figures[OSR.key][-1]
    lead = (
        f"With all results, {first.title} chooses the best model on {_percent(full)} of the datasets; with "
        f"{100 * study.removed[-1]:.0f} % of them removed, on {_percent(last)}."
    )
    if study.lost_at is None:
        lead += " At every share it is clearly above chance."
    else:
        lead += f" From {100 * study.lost_at:.0f} % on it is not clearly above chance (p ≥ {SURE})."
    return Section(
        "sparsity",
        "Fewer results",
        "Figure 6",
        lead,
        "A share of the visible results is taken away at random, in each fold anew; similarities and the "
        "held-out truth stay. The band is the 95 % bootstrap interval over datasets of the first line. In "
        "the paper, OSR falls from 61.3 % and from 60 % removed results on is no better than a random "
        "guess, on its own matrix.",
        drawings=(Drawing(figures.sparsity(study), "OSR and τ_w by the share of results removed."),),
        tables=(tables.sparsity_table(study),),
        folds=study.folds,
        seeds=study.seeds,
    )


def importances_section(study: Importances) -> Section:
    """Table 1."""
    if not study.features:
        return without_data(
            "importances", "What counts in a model", "Table 1", "The models' attributes differ in nothing."
        )
    ranker = next(iter(study.features[0].share))
    groups = ", ".join(f"{g.name.lower()} {100 * g.share[ranker]:.0f} %" for g in study.groups)
    named = study.features[0]
    drawing = figures.importances(study, TITLES)
    return Section(
        "importances",
        "What counts in a model",
        "Table 1",
        f"The {TITLES[ranker].lower()} looks at: {groups}. Of the model attributes, {named.name} counts most "
        f"({100 * named.share[ranker]:.1f} % of what attributes count).",
        "Trained on all results by the paper's recipe. Random forest: how much its splits on a column "
        "purify the ranks. CatBoost: mean absolute SHAP value. Attributes of the same meaning share what "
        "they count among them, so a small share is no proof that an attribute is useless.",
        drawings=(Drawing(drawing, "The ten most important model attributes, and all others together."),),
        tables=tables.importance_tables(study, TITLES),
        seeds=study.seeds,
    )


def time_section(studies: Sequence[Timing]) -> Section:
    """Section 5.2's time of a prediction."""
    first = studies[0]
    return Section(
        "time",
        "Time of a prediction",
        "Section 5.2",
        f"A prediction takes {first.median:.2g} s (median of {len(first.seconds)}, {first.models} models and "
        f"{first.datasets} datasets), from the graph in memory to the ranking and its reasons.",
        "Everything is computed anew: weights, embedding, ranker. Looking at the images of a new dataset "
        "comes on top. On this machine, with whatever else ran on it; the paper's minute is that of its "
        "own.",
        tables=(tables.timing_table(studies),),
    )


def calibration_section(studies: Sequence[Chances]) -> Section:
    """Whether chances come true."""
    first = studies[0]
    held = first.coverage[-1]
    also = (
        f"Sets asked to hold the best model with {100 * held.confidence:.0f} % hold it on "
        f"{_percent(held.coverage)} of the datasets, with {held.size.value:.1f} models on average."
    )
    caption = (
        "How often a model was the best, against the chance it had been given, in bins of equally many "
        f"pairs; bars are 95 % bootstrap intervals over datasets. {first.title}."
    )
    return Section(
        "calibration",
        "Can the chances be trusted?",
        "",
        f"The chances of {first.title} are off by {_percent(first.error)} on average.",
        "Expected calibration error: mean distance of the predicted chance from how often it came true; "
        "few datasets leave it above 0 for perfect chances too. The sets of `predict --confidence` "
        "(conformal) are learned from all other datasets and judged on the one left out. "
        f"{INTERVALS}.",
        also=also,
        drawings=(Drawing(figures.reliability(first), caption),),
        tables=(tables.chances_table(studies),),
        data=(tables.reliability_table(studies),),
        folds=first.folds,
        seeds=(0,),
    )


def noise_section(study: Noise) -> Section:
    """How much of a result is chance."""
    if not study.pairs:
        return without_data(
            "noise",
            "Noise between seeds",
            "",
            "No measurement was repeated under another seed, so its noise is not known: "
            "`matchgraph ingest run --replicate` measures it.",
        )
    lead = f"Measured again under another seed, a value moves by {study.deviation:.3g} (standard deviation)"
    lead += f", while models of one dataset differ by {study.between_models:.3g}."
    if study.compared:
        lead += (
            f" The best model was another in {study.changed} of {study.compared} comparisons between two "
            f"seeds ({100 * study.changed / study.compared:.0f} %, {study.datasets} datasets). What the mean "
            f"of the other seeds foretells of one seed reaches OSR {study.repeated_osr:.2f} and weighted tau "
            f"{study.repeated_tau:.2f}."
        )
    if not math.isnan(study.ceiling):
        lead += (
            f" If all were measured again, about {100 * study.ceiling:.0f} % of the best models would stay."
        )
    return Section(
        "noise",
        "Noise between seeds",
        "",
        lead,
        "No method can choose the best model much more often than the best model stays the best: one that "
        "fine-tuned all models on the dataset itself, under other seeds, would reach what these foretell. "
        "Deviations are pooled over pairs; the last row simulates a second measurement of every pair with "
        "the pooled deviation, which errs high, as the recorded values hold noise already.",
        tables=(tables.noise_table(study),),
    )


def without_data(key: str, title: str, source: str, why: str) -> Section:
    """A part that the graph has no data for."""
    return Section(key, title, source, why, missing=True)


def chosen(row: Row, folds: int, models: int) -> str:
    """How often a method chose the best model, as a sentence."""
    osr, tau = row.figures[OSR.key], row.figures.get(TAU.key)
    text = (
        f"{row.title} chose the best of {models} models on {_percent(osr)} of {folds} held-out datasets "
        f"(95 % interval {100 * osr.low:.0f} to {100 * osr.high:.0f} %)"
    )
    return text + (f", with τ_w {_number(tau.value)}." if tau else ".")


def against_baselines(study: Comparison) -> str:
    """Which baselines the method clearly beats, and which not, by its choice and by its order."""
    first = study.rows[study.highlighted]
    others = [row for row in study.rows if row.key not in ("oracle", *RECIPES) and OSR.key in row.figures]
    said = _sorted_out(first, others, OSR.key)
    text = f"That is {said}." if said else ""
    order = _sorted_out(first, others, TAU.key)
    return f"{text} Its whole order (τ_w) agrees {order}." if order else text


def _sorted_out(first: Row, others: Sequence[Row], figure: str) -> str:
    """Which rows the first one clearly exceeds, which not, and which exceed it, as a clause."""
    verdicts: dict[str, list[str]] = {"clearly more": [], "not clearly more or less": [], "clearly less": []}
    more, level, less = verdicts.values()
    for row in others:
        p = row.p_value.get(figure, math.nan)
        if figure not in row.figures or math.isnan(p):
            continue
        group = (
            level if p >= SURE else more if first.figures[figure].value > row.figures[figure].value else less
        )
        own = row.figures[figure]
        shown = _percent(own) if figure == OSR.key else _number(own.value)
        group.append(f"{row.title} ({shown}, p {_p(p)})")
    often = " often" if figure == OSR.key else ""
    return "; ".join(f"{words}{often} than {_listed(names)}" for words, names in verdicts.items() if names)


def _compared(
    key: str,
    title: str,
    source: str,
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
        return without_data(key, title, source, why)
    best = max(filled, key=lambda row: row.figures[OSR.key].value)
    lead = lead or f"{best.title} does best: OSR {_reached(best)}."
    drawing = figures.intervals(key, study)
    metrics = SELECTION_METRICS if scaled else (OSR, TAU)
    return Section(
        key,
        title,
        source,
        lead,
        caption,
        drawings=_intervals_drawn(drawing),
        tables=(tables.comparison_table(name, study, metrics, first=first, scaled=scaled),),
        folds=study.folds,
        seeds=study.seeds,
    )


def _intervals_drawn(svg: str | None) -> tuple[Drawing, ...]:
    caption = "OSR and τ_w with their intervals. Hollow diamonds: the paper, on its own matrix."
    return (Drawing(svg, caption),) if svg else ()


def _reached(row: Row) -> str:
    tau = row.figures.get(TAU.key)
    return _percent(row.figures[OSR.key]) + (f", τ_w {_number(tau.value)}" if tau else "")


def _percent(value: Interval) -> str:
    return f"{100 * value.value:.1f} %"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
