"""An answer in sentences, for every place where it is read: a terminal, a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.words import duration

if TYPE_CHECKING:
    from matchgraph.predictor.answer import Answer
    from matchgraph.predictor.confidence import Confidence

PERCENT = 100
# Of the default recipe's parts.
METHODS = {
    "average_rank": "average rank",
    "average_value": "average value",
    "similar": "similar datasets",
    "wider": "all datasets by similarity",
    "process": "Gaussian process on values",
    "process_of_ranks": "Gaussian process on ranks",
    "paper": "the paper's recipe",
}


def sentences(answer: Answer) -> str:
    """The answer in sentences: the choice, its probability, the reasons, and the measured best."""
    first = answer.ranking[0]
    lines = [
        f"Fine-tune {first.model}: the best of {len(answer.ranking)} with a probability of "
        f"{first.p_best * PERCENT:.0f} %."
    ]
    lines += verdict_lines(answer)
    if mixture := answer.provenance.get("mixture"):
        lines.append(mixture_text(mixture))
    if first.why:
        reasons = ", ".join(f"{readable(reason.part)} {reason.lift:+.2f}" for reason in first.why[:4])
        unit = "log-odds" if answer.provenance["recipe"] == "paper" else "standard deviations"
        lines.append(f"Reasons, in {unit}: {reasons}.")
    if answer.neighbours:
        near = "; ".join(
            f"{neighbour.dataset} at {neighbour.similarity:.3g}"
            + (f" (best there: {', '.join(neighbour.best)})" if neighbour.best else "")
            for neighbour in answer.neighbours
        )
        lines.append(f"Most similar datasets: {near}.")
    if answer.measured:
        choose = max if answer.provenance["larger_is_better"] else min
        best = choose(answer.measured, key=lambda model: answer.measured[model])
        place = next(i for i, model in enumerate(answer.ranking, start=1) if model.model == best)
        lines.append(
            f"Best model measured on this dataset (not used for the ranking): {best}, ranked {place}."
        )
    if any(cost.train_seconds is not None for cost in answer.costs.values()):
        lines.append("Times are medians of the graph's runs, on the machines that carried them out.")
    lines += [f"Note: {note}" for note in answer.notes]
    return "\n".join(lines)


def verdict_lines(answer: Answer) -> list[str]:
    """What the chance was measured on, what a wrong choice costs, and a warning off the zoo."""
    verdict, metric = answer.verdict, answer.provenance["metric"]
    lines = []
    if verdict.judged_on:
        lines.append(f"The probability is calibrated on {verdict.judged_on} other datasets.")
    if verdict.expected_loss is not None:
        lines.append(f"Expected loss against the best model: {verdict.expected_loss:.2g} {metric}.")
    if (familiar := verdict.familiarity) and familiar.off_zoo:
        times = f", {familiar.times:.1f} times as far" if familiar.times else ""
        lines.append(
            f"Warning: {answer.dataset} is unlike any measured dataset: the nearest one is "
            f"{familiar.nearest} at {familiar.value:.3g}{times}; measured ones have a neighbour within "
            f"{familiar.farthest:.3g}. The probabilities allow for that. Measure before you rely on them."
        )
    return lines


def confidence_text(sure: Confidence) -> str:
    """The prediction set in sentences: its models, why if it has all, and the coverage of such sets."""
    chosen, coverage = sure.chosen, sure.coverage
    count = len(chosen.models)
    lines = [
        f"With {PERCENT * chosen.confidence:g} % confidence, the best model is "
        + (f"one of {count}: {', '.join(chosen.models)}." if count > 1 else f"{chosen.models[0]}.")
    ]
    if chosen.reason:
        lines.append(f"{chosen.reason[0].upper()}{chosen.reason[1:]}.")
    if coverage is not None:
        share, size = coverage.coverage, coverage.size
        lines.append(
            f"Such sets contained the best model on {share.value * PERCENT:.0f} % "
            f"[{share.low * PERCENT:.0f}, {share.high * PERCENT:.0f}] of the other {share.count} datasets, "
            f"with {size.value:.1f} models on average."
        )
    if sure.shifted is not None:
        share, size = sure.shifted.coverage, sure.shifted.size
        lines.append(
            f"With whole clusters of datasets held out: {share.value * PERCENT:.0f} % "
            f"[{share.low * PERCENT:.0f}, {share.high * PERCENT:.0f}], {size.value:.1f} models."
        )
    return "\n".join(lines)


def mixture_text(mixture: Mapping[str, Any]) -> str:
    """Which methods the default answer is a mixture of, by their weights on this graph."""
    weights = mixture["weights"]
    if mixture["fell_back"]:
        name = METHODS[max(weights, key=weights.get)]
        return f"Ranked by: {name} alone, as no mixture clearly beats it on the other datasets."
    shares = [
        f"{METHODS[name]} {weight * PERCENT:.0f} %"
        for name, weight in sorted(weights.items(), key=lambda one: -one[1])
        if round(weight * PERCENT)
    ]
    return f"Ranked by: {', '.join(shares)} (weights learned from the other datasets)."


def readable(part: str) -> str:
    """A readable name of a part of the input."""
    names = {
        "dataset": "the dataset's embedding",
        "graph": "similar datasets",
        "general": "results anywhere",
        "recipe": "the paper's recipe",
    }
    return names.get(part, part.removeprefix("model:"))


def time_cell(seconds: float | None) -> str:
    """A time in its own unit; empty where it is not known."""
    if seconds is None:
        return ""
    return f"{seconds:.3g} s" if seconds < 120 else duration(seconds)
