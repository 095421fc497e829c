"""Answers of `matchgraph predict` and `evaluate` as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import join
from typing import TYPE_CHECKING

from matchgraph.predictor.sentences import PERCENT, confidence_text, sentences, time_cell
from matchgraph.report.verdicts import p_text
from matchgraph.words import SECONDS_PER_HOUR, duration

if TYPE_CHECKING:
    from matchgraph.predictor.answer import Answer
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.new_models import NewModels
    from matchgraph.predictor.replay import BudgetCurve
    from matchgraph.predictor.starting import StartingPoint
    from matchgraph.shortlist import Shortlisted
    from matchgraph.stats.intervals import Interval
    from matchgraph.usable import Conditions

# Orders whose first models are measured.
SHORTLISTED = ("method", "average_rank", "average_value", "random")


def show_answer(answer: Answer, *, measure: str) -> None:
    """Print the ranking as a table and the answer in sentences, and last the command that would measure."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    metric, measured = answer.provenance["metric"], answer.measured
    table = new_table(f"Models for {answer.dataset} by {metric}")
    table.add_column("#", justify="right")
    table.add_column("model", overflow="fold")
    for name in ("expected rank", "P(best)", "fine-tuning", "per image"):
        # A number that is cut on a narrow screen would be another number.
        table.add_column(name, justify="right", overflow="fold")
    if measured:
        table.add_column(f"measured {metric}", justify="right", overflow="fold")
    for place, model in enumerate(answer.ranking, start=1):
        row = [
            str(place),
            model.model,
            f"{model.expected_rank:.1f} ± {model.rank_std:.1f}",
            f"{model.p_best * PERCENT:.0f} %",
            time_cell(model.cost.train_seconds),
            time_cell(model.cost.sample_seconds_per_image),
        ]
        if measured:
            row.append(f"{measured[model.model]:.4g}" if model.model in measured else "")
        table.add_row(*row)
    console.print(table)
    console.print(sentences(answer), soft_wrap=True)
    if answer.confidence is not None:
        console.print(confidence_text(answer.confidence), soft_wrap=True)
    console.print(f"To decide, measure the likeliest: {measure}", soft_wrap=True)


def show_start(start: StartingPoint) -> None:
    """Print what is published of the models as a table, and what that is in sentences."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    table = new_table("What is published of the models")
    table.add_column("published rank", justify="right")
    table.add_column("model", overflow="fold")
    for name in ("parameters", "TFLOP", "fits", "pixels"):
        table.add_column(name, justify="right", overflow="fold")
    for name in ("released", "license"):
        table.add_column(name, overflow="fold")
    for model in start.models:
        table.add_row(
            str(model.rank or ""),
            model.model,
            "" if model.params is None else f"{model.params / 1e9:.2f} G",
            "" if model.tflop is None else f"{model.tflop:.4g}",
            "" if model.fits_gib is None else f"{model.fits_gib} GiB",
            str(model.resolution_px or ""),
            model.released or "",
            model.license or "",
        )
    console.print(table)
    console.print("\n".join(start.notes), soft_wrap=True)


def show_decision(found: Shortlisted, metric: str) -> None:
    """Print what was measured as a table, and the decision in sentences."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console, decision = stdout_console(), found.decision
    table = new_table(f"Measured on {found.dataset} by {metric}")
    table.add_column("model", overflow="fold")
    for name in ("pretrained", "fine-tuned", "P(best)"):
        table.add_column(name, justify="right", overflow="fold")
    for outcome in decision.measured:
        before = with_error(outcome.initial, outcome.initial_standard_error)
        after = with_error(outcome.value, outcome.standard_error)
        chance = decision.chances[outcome.model]
        table.add_row(outcome.model, before, after, "" if chance is None else f"{chance * PERCENT:.0f} %")
    console.print(table)
    console.print(decision_text(found, metric), soft_wrap=True)


def decision_text(found: Shortlisted, metric: str) -> str:
    """The decision in sentences: what to take, its chance, why no more was measured, and where it lies."""
    decision = found.decision
    share = f"{len(decision.measured)} of {len(decision.chances)} models are measured"
    chance = "the probability that it is the best is unknown, as standard errors are missing"
    if decision.chance is not None:
        chance = f"the best with a probability of {decision.chance * PERCENT:.0f} %"
    if decision.tuned:
        lines = [f"Take {decision.model}, fine-tuned: {metric} {decision.value:.4g}, {chance}; {share}."]
    else:
        lines = [
            f"Do not fine-tune: pretrained {decision.model} has {metric} {decision.value:.4g}, and no "
            f"fine-tuned model is better; {share}."
        ]
    if decision.tuning_pays is not None:
        lines.append(
            f"Fine-tuning pays with a probability of {min(decision.tuning_pays * PERCENT, 99):.0f} %"
            f"{' or more' if decision.tuning_pays > 0.99 else ''}, given the standard errors, "
            "which count what another seed does if the graph has pairs measured under several."
        )
    if found.answer is None and len(decision.chances) > 1:
        lines.append(
            "The graph had no results to learn from: models were taken by their published average rank, "
            "then the cheapest first."
        )
    lines.append(found.stopped)
    lines += [f"Not measured: {model}: {reason}" for model, reason in found.failed.items()]
    if found.adapter is not None:
        lines.append(f"Weights: {found.adapter}")
    return "\n".join(lines)


def with_error(value: float | None, error: float | None) -> str:
    """A value with its standard error, as far as they are known."""
    if value is None:
        return ""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def measuring_command(target: str, answer: Answer, conditions: Conditions) -> str:
    """The command that measures the likeliest models on the dataset."""
    words = ["matchgraph", "predict", target, "--measure", str(len(answer.verdict.measure))]
    if conditions.fits_gib is not None:
        words += ["--fits", f"{conditions.fits_gib:g}"]
    for licence in conditions.licences:
        words += ["--license", licence]
    return join(words)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the table of all methods and the verdict."""
    from matchgraph.cli.rendering import new_table, stdout_console
    from matchgraph.predictor.metrics import SELECTION_METRICS

    console = stdout_console()
    metric = evaluation.provenance["metric"]
    kind = evaluation.provenance["hold_out"]
    table = new_table(f"Leave-one-{kind}-out over {len(evaluation.folds)} datasets by {metric}")
    table.add_column("method", overflow="fold")
    for figure in SELECTION_METRICS:
        table.add_column(
            f"{figure.title} {'↑' if figure.larger_is_better else '↓'}", justify="right", overflow="fold"
        )
    for summary in evaluation.summaries:
        cells = []
        for figure in SELECTION_METRICS:
            own = summary.figures[figure.key]
            cell = f"{own.value:.3g}\n[{own.low:.3g}, {own.high:.3g}]" if own.count else "not available"
            if own.count and figure.key in summary.p_value:
                cell += f"\np {p_text(summary.p_value[figure.key])}"
            cells.append(cell)
        table.add_row(summary.title, *cells)
    console.print(table)
    for dataset, reason in evaluation.skipped.items():
        console.print(f"Not held out: {dataset} ({reason}).", soft_wrap=True)
    if evaluation.shortlists:
        console.print(shortlist_text(evaluation), soft_wrap=True)
    console.print(verdict(evaluation), soft_wrap=True)
    console.print(tau_text(evaluation), soft_wrap=True)
    for note in evaluation.notes:
        console.print(f"Note: {note}", soft_wrap=True)


def show_new_models(found: NewModels) -> None:
    """Print how each model is placed that was held out, and what that comes to."""
    from rich.text import Text

    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    table = new_table(f"Models as if never measured, by {found.provenance['metric']}")
    table.add_column("model", overflow="fold")
    for name in ("datasets", "ordered rightly", "in the middle", "best on", "found first"):
        table.add_column(name, justify="right")
    for one in found.models:
        shares = (f"{share * PERCENT:.0f} %" for share in (one.ordered, one.in_the_middle))
        cells = [one.datasets, *shares, one.best_on, one.found]
        table.add_row(Text(one.model), *map(str, cells))
    console.print(table)
    for dataset, reason in found.skipped.items():
        console.print(f"Not held out: {dataset} ({reason}).", soft_wrap=True)
    console.print(new_models_text(found), soft_wrap=True)


def new_models_text(found: NewModels) -> str:
    """How well models that were never measured are placed, in sentences."""
    own, middle = (f"{figure.value * PERCENT:.0f} %" for figure in (found.ordered, found.in_the_middle))
    value, low, high = (end * PERCENT for end in (found.gain.value, found.gain.low, found.gain.high))
    best, first = (sum(getattr(one, name) for one in found.models) for name in ("best_on", "found"))
    return (
        f"A model that was never measured is on the right side of {own} of the others, and of {middle} where "
        f"it is put in the middle of them instead: {value:+.1f} points [{low:+.1f}, {high:+.1f}], 95 % "
        f"interval over {found.gain.count} models ({found.seconds:.0f} s). Of {best} times that it is the "
        f"best, it is found first {first} times."
    )


def shortlist_text(evaluation: Evaluation) -> str:
    """What measuring the first models gives, in a sentence for each order that is compared."""
    metric = evaluation.provenance["metric"]
    lines = []
    for own in evaluation.shortlists:
        if own.key not in SHORTLISTED or not own.osr.count:
            continue
        osr, regret = own.osr, own.regret
        lines.append(
            f"{own.title}: the best model is among the first {own.measured} on "
            f"{osr.value * PERCENT:.0f} % [{osr.low * PERCENT:.0f}, {osr.high * PERCENT:.0f}] of the "
            f"datasets; on average, the best of these is worse than the best of all by {regret.value:.3g} "
            f"[{regret.low:.3g}, {regret.high:.3g}] {metric}."
        )
    return "\n".join(lines)


def tau_text(evaluation: Evaluation) -> str:
    """Weighted tau by SciPy's default weights, which other papers report."""
    method, average = (
        next(own for own in evaluation.summaries if own.key == key) for key in ("method", "average_rank")
    )
    return (
        "τ_w weighs errors by the true ranks. With SciPy's default, the mean over true and predicted ranks, "
        f"it is {method.figures['tau_scipy'].value:.3g} for {method.title} and "
        f"{average.figures['tau_scipy'].value:.3g} for the average rank."
    )


def show_curve(curve: BudgetCurve) -> None:
    """Print accuracy against budget for all orders, and the verdict."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    metric = curve.provenance["metric"]
    table = new_table(f"Accuracy by budget on {curve.datasets} datasets by {metric}: τ_w, and OSR below it")
    table.add_column("budget", justify="right")
    for order in curve.curves:
        table.add_column(order.title, justify="right", overflow="fold")
    for row in zip(*(order.points for order in curve.curves), strict=True):
        budget = f"{row[0].share:.0%}\n{duration(row[0].share * curve.hours * SECONDS_PER_HOUR)}"
        table.add_row(budget, *(curve_cell(point.figures) for point in row))
    whole = f"100%\n{duration(curve.hours * SECONDS_PER_HOUR)}"
    table.add_row(whole, curve_cell(curve.everything), *[""] * (len(curve.curves) - 1))
    console.print(table)
    active = curve.curves[0]
    for other in curve.curves[1:]:
        lead = active.lead[other.key]
        console.print(curve_verdict(active.title, other.title, lead["tau_w"], lead["osr"]), soft_wrap=True)
    console.print(
        f"Costs from {curve.hours_from}. The method was trained {curve.trainings} times in "
        f"{curve.seconds:.0f} s.",
        soft_wrap=True,
    )


def curve_cell(figures: Mapping[str, Interval]) -> str:
    """One budget point of one order: the agreement of the order with its interval, and the hits."""
    tau = figures["tau_w"]
    return f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]\n{figures['osr'].value * PERCENT:.0f} %"


def curve_verdict(active: str, other: str, tau: Interval, osr: Interval) -> str:
    """Whether one order is better than another over all budget points, in a sentence."""
    if tau.low > 0:
        judged = "teaches more than"
    elif tau.high < 0:
        judged = "teaches less than"
    else:
        judged = "does not clearly differ from"
    return (
        f"{active} {judged} {other.lower()} at equal budget: τ_w {tau.value:+.3f} [{tau.low:+.3f}, "
        f"{tau.high:+.3f}], OSR {osr.value:+.3f} [{osr.low:+.3f}, {osr.high:+.3f}], mean over the budgets."
    )


def verdict(evaluation: Evaluation) -> str:
    """Whether the method beats the average rank, in a sentence."""
    method = evaluation.summaries[0]
    gain = method.gain["tau_w"]
    if not gain.count:
        judged = "cannot be compared with the average rank"
    elif gain.low > 0:
        judged = "orders models better than the average rank does"
    elif gain.high < 0:
        judged = "orders models worse than the average rank does: use that instead"
    else:
        judged = "is not clearly better or worse than the average rank"
    return (
        f"{method.title} {judged}: τ_w differs by {gain.value:+.3f}, 95 % interval [{gain.low:+.3f}, "
        f"{gain.high:+.3f}] over {gain.count} datasets ({evaluation.seconds:.0f} s)."
    )
