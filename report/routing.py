"""What routing is worth, as a page: deferral curves, quality at equal cost, cost at equal quality, and what
goes where.

The parts and the page are those of the other report, `report`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from matchgraph.report.page import Figure, Head, Section, write_page
from matchgraph.report.tables import Column, Table, table
from matchgraph.report.verdicts import verdict
from matchgraph.routing.evaluation import CHOSEN, MIXING, ORACLE, Study, typical_words
from matchgraph.routing.policy import choose, lambda_for_budget
from matchgraph.routing.standing import NEVER
from matchgraph.stats.intervals import Interval
from matchgraph.svg import COLOURS, INK, LINES, drawing, logarithmic

NAME = "routing"
TITLES = {
    CHOSEN: "chosen on validation prompts",
    "knn": "nearest prompts",
    "gaussian": "Gaussian process",
    "network": "network",
    MIXING: "random mixing",
    ORACLE: "oracle",
}
NOTE = (
    "Quality is the mean over the images of a prompt. All figures are of held-out test prompts; training, "
    "validation and test prompts are rotated until each was a test prompt once. The oracle chooses by the "
    "scores that it is evaluated on, noise included, so no router can reach it. Intervals are 95 % bootstrap "
    "intervals over prompts; random mixing is the best mixture in each resample."
)


def write_report(
    studies: Sequence[Study], folder: Path, command: str, facts: Mapping[str, Any]
) -> tuple[Path, list[str]]:
    """Write the page, a CSV file for each table, and `routing.json`.

    Args:
        studies: at least one.
        folder: gets the files.
        command: that makes them.
        facts: what they were computed from and with.

    Returns:
        The page, and what it says first.
    """
    parts = [part for study in studies for part in sections(study)]
    summary = [summary_of(study) for study in studies]
    head = Head("The gain of routing each prompt", summary, command, facts, NOTE)
    figures = {"studies": {study.metric: figures_of(study) for study in studies}}
    page = write_page(folder, head, parts, figures, page=f"{NAME}.html", data=f"{NAME}.json")
    return page.path, summary


def summary_of(study: Study) -> str:
    """The study in a sentence, about the router that the validation prompts chose."""
    own, stands = study.comparisons[CHOSEN], study.standings[CHOSEN]
    above = sum(verdict(interval) == "above" for interval in own.over_candidate.values())
    return (
        f"{study.metric}: over all budgets the router that the validation prompts chose ({chosen(study)}) "
        f"has a mean quality of {own.area.value:.4f}: {signed(own.over_mixing)} against random mixing; "
        f"{signed(stands.over_single)} against the best single candidate ({singles(study)}) at its cost. "
        f"At equal cost it is clearly above {above} of {len(own.over_candidate)} fixed candidates "
        f"({len(study.prompts)} test prompts)."
    )


def chosen(study: Study) -> str:
    """Which estimators were chosen, and how often."""
    return named([TITLES[name] for name in study.chosen])


def singles(study: Study) -> str:
    """Which candidates were the best single ones, and how often."""
    return named(study.singles)


def named(each: Sequence[str]) -> str:
    """Names of turns, with how many of them each has unless it has all."""
    counts = Counter(each).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{name} in {count} of {len(each)} folds" for name, count in counts)


def sections(study: Study) -> list[Section]:
    """The parts of the page about one metric."""
    return [
        Section(
            f"{study.metric}-curve",
            f"{study.metric}: quality for its cost",
            "Figures 3 and 5",
            summary_of(study),
            "Points are single candidates used for all prompts; lines are routers over all budgets. Each "
            "estimator was fitted on the training prompts; the number of neighbours and the kernel of the "
            "process were chosen on the validation prompts.",
            figures=(Figure(deferral(study), "Mean quality over mean cost, test prompts."),),
            tables=(areas_table(study),),
        ),
        Section(
            f"{study.metric}-standing",
            f"{study.metric}: against the best single candidate",
            "LLMRouterBench, RouterArena",
            f"The best single candidate is {singles(study)}: chosen on the training prompts, so that it may "
            "not be the best on the test prompts.",
            "Quality is compared at the candidate's cost, and cost at its quality: below 100 % the router is "
            f"cheaper; {100 * NEVER:.0f} % says that it does not reach that quality. A decision is timed one "
            "prompt at a time, once the prompt is read.",
            tables=(standing_table(study),),
        ),
        Section(
            f"{study.metric}-equal",
            f"{study.metric}: at the cost, and at the quality, of each candidate",
            "Tables 2 and 3",
            "The quality of routing at the cost of each candidate, and its cost at the candidate's quality.",
            "The share is the router's cost at the candidate's quality, divided by the candidate's cost.",
            tables=(equal_table(study),),
        ),
        Section(
            f"{study.metric}-shares",
            f"{study.metric}: which candidates are chosen",
            "Appendix H",
            goes_where(study, CHOSEN),
            f"By the router {TITLES[CHOSEN]}.",
            figures=(Figure(shares(study, CHOSEN), "Share of the prompts by mean cost."),),
        ),
        *chances(study),
        *robustness(study),
    ]


def deferral(study: Study) -> str:
    """Deferral curves, and the fixed candidates as points."""
    with drawing(f"deferral-{study.metric}", height=4.6) as (figure, finish):
        axes = figure.subplots()
        for number, (name, curve) in enumerate(study.curves.items()):
            cost = np.append(curve.cost, max(float(study.cost.max()), curve.cost[-1]))
            quality = np.append(curve.quality, curve.quality[-1])
            axes.plot(
                cost,
                quality,
                color=INK if name == ORACLE else COLOURS[number],
                linestyle=LINES[number],
                label=TITLES[name],
            )
        axes.plot(
            study.cost,
            study.truth.mean(axis=0),
            linestyle="",
            marker="o",
            markersize=4,
            color=COLOURS[5],
            label="fixed candidates",
        )
        logarithmic(axes)
        axes.set_xlabel(f"{study.unit} per image, on average")
        axes.set_ylabel(f"{study.metric}, on average")
        axes.legend(frameon=False, loc="lower right")
        return finish()


def shares(study: Study, estimator: str) -> str:
    """Which share of the prompts each model gets, over the average cost."""
    curve = study.curves[estimator]
    lams = curve.lam[np.linspace(0, len(curve.lam) - 1, 60).astype(int)]
    own = study.shares(estimator, lams.tolist())
    models = list(dict.fromkeys(variant.model for variant in study.variants))
    of_model = np.array([[variant.model == model for variant in study.variants] for model in models])
    with drawing(f"shares-{study.metric}", height=4.0) as (figure, finish):
        axes = figure.subplots()
        stacked = own @ of_model.T
        axes.stackplot(
            own @ study.cost,
            stacked.T,
            labels=models,
            colors=[COLOURS[number % len(COLOURS)] for number in range(len(models))],
            alpha=0.75,
        )
        for edge in np.cumsum(stacked, axis=1).T:
            axes.plot(own @ study.cost, edge, color=INK, linewidth=0.5)
        logarithmic(axes)
        axes.set_ylim(0, 1)
        axes.set_xlabel(f"{study.unit} per image, on average")
        axes.set_ylabel("share of the prompts")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return finish()


def goes_where(study: Study, estimator: str) -> str:
    """What kinds of prompts go to the candidates chosen most, at the middle of all budgets."""
    low, high = float(study.curves[estimator].cost[0]), float(study.curves[estimator].cost[-1])
    budget = math.sqrt(low * high)
    estimates = study.estimates[estimator]
    rows = choose(estimates, study.cost, lambda_for_budget(estimates, study.cost, budget))
    chosen = [study.variants[row].id for row in rows]
    typical = typical_words(study.prompts, chosen)
    counts = sorted(((chosen.count(name), name) for name in typical), reverse=True)[:4]
    parts = "; ".join(
        f"{100 * count / len(chosen):.0f} % to {name}"
        + (f" (prompts with {', '.join(typical[name][:5])})" if typical[name] else "")
        for count, name in counts
    )
    return f"At {budget:.3g} {study.unit} per image: {parts}."


def areas_table(study: Study) -> Table:
    """One row for each curve."""
    low, high = float(study.cost.min()), float(study.cost.max())
    comparisons = study.comparisons

    def area(name: str) -> Any:
        return comparisons[name].area if name in comparisons else study.curves[name].area(low, high)

    def over_mixing(name: str) -> Any:
        return comparisons[name].over_mixing if name in comparisons else None

    return table(
        f"{study.metric}-areas",
        [*comparisons, MIXING, ORACLE],
        [
            Column("router", "Router", TITLES.__getitem__),
            Column("area", "Mean quality over all budgets", area, "score"),
            Column("over_mixing", "Over random mixing", over_mixing, "score"),
            Column("rmse", "Error of an estimate", study.errors.get, "score"),
        ],
    )


def standing_table(study: Study) -> Table:
    """One row for each router."""
    return table(
        f"{study.metric}-standing",
        list(study.standings),
        [
            Column("router", "Router", TITLES.__getitem__),
            Column("over_single", "Over the best single", lambda n: study.standings[n].over_single, "score"),
            Column("below_oracle", "Below the oracle", lambda n: study.standings[n].below_oracle, "score"),
            Column("cost", "Cost at its quality", lambda n: study.standings[n].cost, "share"),
            Column("decision_ms", "Decision, ms", study.decision_ms.get, "number"),
        ],
    )


def chances(study: Study) -> list[Section]:
    """How reliable the chances are that the router gives."""
    if study.best is None or study.enough is None:
        return []
    rows = [("The best of all", study.best), ("A success", study.enough)]
    return [
        Section(
            f"{study.metric}-chances",
            f"{study.metric}: are the probabilities calibrated?",
            "split and cross-conformal predictive distributions",
            "The probability that a prompt's likeliest candidate is the best for it is off by "
            f"{percent(study.best.error)} on average over bins of a tenth; the probability of a success by "
            f"{percent(study.enough.error)}. The squared error of the first is "
            f"{against_shares(study.best.over_share)}; of the second, "
            f"{against_shares(study.enough.over_share)}.",
            "A success is a quality of at least the best single candidate's mean on the training prompts. "
            "With so many prompts, the error is above 0 even for perfect probabilities. The squared error is "
            "compared with that of a candidate's share of the training prompts, the same for every prompt.",
            tables=(
                table(
                    f"{study.metric}-chances",
                    rows,
                    [
                        Column("what", "Probability of", lambda each: each[0]),
                        Column("error", "Calibration error", lambda each: each[1].error, "score"),
                        Column("over_share", "Squared error saved", lambda each: each[1].over_share, "score"),
                    ],
                ),
            ),
        )
    ]


def against_shares(saved: Interval) -> str:
    """How a squared error compares with that of fixed shares, of which it saves so much."""
    words = {"above": "below", "below": "above", "level": "not clearly different from"}
    return f"{words[verdict(saved) or 'level']} that of fixed shares ({signed(saved)} saved)"


def robustness(study: Study) -> list[Section]:
    """What becomes of the gain where prompts are worded otherwise, or are of another world."""
    found, statements = [], []
    for kind, own in study.rewordings.items():
        statements.append(
            f"Reworded {kind} ({own.wordings} wordings), {percent(own.same)} of the prompts keep their "
            f"candidate at the middle of all budgets, and their quality changes by {signed(own.change)}."
        )
        found += [
            (f"Reworded {kind}: the same candidate", own.same),
            (f"Reworded {kind}: change of quality", own.change),
        ]
    if (world := study.world) is not None:
        statements.append(
            f"With one of {world.topics} topics held out at a time, the router is "
            f"{signed(world.over_mixing)} against random mixing and {signed(world.standing.over_single)} "
            f"against the best single candidate; {percent(world.unfamiliar)} of the prompts are marked as "
            "unfamiliar."
        )
        found += [
            ("Another topic: over random mixing", world.over_mixing),
            ("Another topic: over the best single", world.standing.over_single),
            ("Another topic: marked as unfamiliar", world.unfamiliar),
        ]
    if not found:
        return []
    return [
        Section(
            f"{study.metric}-robustness",
            f"{study.metric}: other wordings and other topics",
            "RouterArena",
            " ".join(statements),
            "A rewording by rule is lower case, with the parts between commas in reverse order after 'a "
            "picture of'; the decision for a rewording is judged by the images of the prompt. Topics are "
            "k-means clusters of the prompts' embeddings.",
            tables=(
                table(
                    f"{study.metric}-robustness",
                    found,
                    [
                        Column("what", "", lambda each: each[0]),
                        Column("value", "", lambda each: each[1], "score"),
                    ],
                ),
            ),
        )
    ]


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def percent(interval: Interval) -> str:
    """A share with its interval."""
    return f"{100 * interval.value:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def equal_table(study: Study) -> Table:
    """One row for each candidate: the routers' quality at its cost, and their cost at its quality."""
    fixed = study.truth.mean(axis=0)

    def quality(name: str, number: int) -> float:
        return float(study.curves[name].quality_at(study.variants[number].cost))

    def cost(name: str, number: int) -> float:
        return study.curves[name].cost_of(float(fixed[number])) / study.variants[number].cost

    columns = [
        Column("candidate", "Candidate", lambda number: study.variants[number].id),
        Column("cost", study.unit, lambda number: study.variants[number].cost, "number"),
        Column("fixed", "Alone", lambda number: float(fixed[number]), "score"),
    ]
    for name in study.comparisons:
        over = study.comparisons[name].over_candidate
        columns += [
            Column(f"{name}_quality", f"By {TITLES[name]}", partial(quality, name), "score"),
            Column(f"{name}_gain", "Gain", over.get, "score"),
            Column(f"{name}_cost", "Cost", partial(cost, name), "share"),
        ]
    return table(f"{study.metric}-equal", range(len(study.variants)), columns)


def figures_of(study: Study) -> dict[str, Any]:
    """The study's figures, for the record."""
    return {
        "test_prompts": len(study.prompts),
        "chosen": list(study.chosen),
        "best_single": list(study.singles),
        "rewordings": study.rewordings,
        "another_world": study.world,
        "chances": {"best": study.best, "success": study.enough},
        "neighbours": list(study.neighbours),
        "processes": [list(process) for process in study.processes],
        "candidates": {
            variant.id: {
                "cost": variant.cost,
                "unit": variant.unit,
                "quality": float(study.truth[:, number].mean()),
            }
            for number, variant in enumerate(study.variants)
        },
        "routers": {
            name: {
                "area": own.area,
                "over_mixing": own.over_mixing,
                "over_candidate": {
                    study.variants[number].id: interval for number, interval in own.over_candidate.items()
                },
                "rmse": study.errors[name],
                "over_single": study.standings[name].over_single,
                "below_oracle": study.standings[name].below_oracle,
                "cost_at_its_quality": study.standings[name].cost,
                "decision_ms": study.decision_ms.get(name),
            }
            for name, own in study.comparisons.items()
        },
    }
