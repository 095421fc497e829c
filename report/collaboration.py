"""What collaboration is worth, as a page: quality over cost, what was tuned against what costs as much, and
when the student wins.

The parts and the page are those of the other reports, `report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchgraph.collaboration.evaluation import Lead, Study
from matchgraph.report.page import Figure, Head, Section, write_page
from matchgraph.report.tables import Column, Table, table
from matchgraph.report.verdicts import verdict
from matchgraph.svg import COLOURS, INK, LINES, drawing, logarithmic

NAME = "collaboration"
KINDS = ("student", "teacher", "refine all", "refine", "regenerate")
TITLES = {
    "student": "student alone",
    "teacher": "teacher alone",
    "refine all": "every image refined",
    "refine": "rejected images refined",
    "regenerate": "rejected images drawn again",
}
MARKERS = ("o", "s", "^", "D", "v")
NOTE = (
    "Everything was tuned on the validation prompts and measured on the test prompts. Cost is that of the "
    "denoiser's calls; steps are those of both models together. Intervals are 95 % bootstrap intervals over "
    "prompts; in each resample a model alone is the best mixture of its step counts for that resample."
)


def write_report(
    study: Study, folder: Path, command: str, facts: Mapping[str, Any]
) -> tuple[Path, list[str]]:
    """Write the page, a CSV file for each table, and `collaboration.json`.

    Args:
        study: what was measured.
        folder: gets the files.
        command: that makes them.
        facts: what they were computed from and with.

    Returns:
        The page, and what it says first.
    """
    summary = [summary_of(study), student_wins(study)]
    head = Head("The gain of collaboration", summary, command, facts, NOTE)
    page = write_page(
        folder, head, sections(study), {"study": study}, page=f"{NAME}.html", data=f"{NAME}.json"
    )
    return page.path, summary


def margin(lead: Lead) -> float:
    """The least that a collaboration is above student, teacher and chance at equal cost, by its intervals."""
    return min(lead.over_best_student.low, lead.over_teacher.low, lead.over_random.low)


def clear(lead: Lead) -> bool:
    """Whether a collaboration is above student, teacher and chance at equal cost, by its intervals."""
    over = lead.over_best_student, lead.over_teacher, lead.over_random
    return all(verdict(each) == "above" for each in over)


def summary_of(study: Study) -> str:
    """The study in a sentence."""
    if not study.leads:
        return f"No correction was better than the student alone by {study.metric} at any cost."
    above = [lead for lead in study.leads if clear(lead)]
    best = max(above or study.leads, key=margin)
    spans = ", ".join(
        f"{each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}] against {what}"
        for what, each in (
            ("the teacher alone", best.over_teacher),
            ("the student alone", best.over_best_student),
            ("as many images corrected at random", best.over_random),
        )
    )
    return (
        f"{study.metric}: {len(above)} of {len(study.leads)} tuned collaborations are clearly above "
        f"student, teacher and random correction at equal cost; {best.strategy.name} at "
        f"{best.strategy.steps:.1f} steps: {spans} "
        f"({study.prompts} test prompts, {study.samples} images each)."
    )


def student_wins(study: Study) -> str:
    """How often the student is the better one, in a sentence."""
    wins = study.wins
    low, medium, high = (100 * share for share in wins.by_distance)
    return (
        f"The student's image has a higher score than {wins.teacher}'s on the same noise in "
        f"{100 * wins.share.value:.0f} % [{100 * wins.share.low:.0f}, {100 * wins.share.high:.0f}]; "
        f"{low:.0f}, {medium:.0f} and {high:.0f} % for the low, middle and high third of their distances. "
        f"Its score alone separates wins from losses with an AUC of {wins.accuracy.value:.2f}."
    )


def sections(study: Study) -> list[Section]:
    """The parts of the page."""
    return [
        Section(
            "collaboration-frontier",
            "Quality over cost",
            "Figure 10",
            summary_of(study),
            "Points are strategies for drawing all test prompts; those joined by lines were tuned on the "
            "validation prompts for increasing average costs.",
            figures=(Figure(quality_over_cost(study), "Mean quality over mean cost, test prompts."),),
            tables=(ways_table(study),),
        ),
        Section(
            "collaboration-equal",
            "Gain at equal cost",
            "Figure 9",
            f"{sum(map(clear, study.leads))} of {len(study.leads)} are above all three by their intervals.",
            "The gain over the student at its own, lower cost; over the best mixture of either model's step "
            "counts at the same average cost; and over correcting as many images chosen at random.",
            tables=(leads_table(study),),
        ),
        Section(
            "collaboration-wins",
            "When the student wins",
            "Figures 3 to 7",
            student_wins(study),
            "Distance is 1 - cosine of the two images' features; complexity is the size of the teacher's "
            "image as a PNG; curvature is the mean distance of its latents, step by step, from the straight "
            "line between the first and the last, as a share of that line. Correlations are of ranks.",
            tables=(wins_table(study), cases_table(study)),
        ),
    ]


def quality_over_cost(study: Study) -> str:
    """All ways of drawing by cost and quality."""
    with drawing("collaboration-frontier", height=4.6) as (figure, finish):
        axes = figure.subplots()
        for number, kind in enumerate(KINDS):
            ways = sorted((way for way in study.strategies if way.kind == kind), key=lambda way: way.tflop)
            if not ways:
                continue
            tuned = kind in ("refine", "regenerate")
            axes.plot(
                [way.tflop for way in ways],
                [way.quality[study.metric] for way in ways],
                color=INK if kind == "student" else COLOURS[number],
                linestyle=LINES[number] if tuned or kind == "teacher" else "",
                marker=MARKERS[number],
                markersize=4,
                label=TITLES[kind],
            )
        logarithmic(axes)
        axes.set_xlabel("TFLOP per image, on average")
        axes.set_ylabel(f"{study.metric}, on average")
        axes.legend(frameon=False, loc="lower right")
        return finish()


def ways_table(study: Study) -> Table:
    """One row for each way of drawing, by cost."""
    metrics = sorted({metric for way in study.strategies for metric in way.quality})

    def quality(metric: str) -> Column:
        return Column(metric, metric, lambda way: way.quality.get(metric), "score")

    return table(
        "collaboration-ways",
        sorted(study.strategies, key=lambda way: way.tflop),
        [
            Column("way", "Strategy", lambda way: way.name),
            Column("kind", "Kind", lambda way: TITLES[way.kind]),
            Column("steps", "Steps", lambda way: way.steps, "number"),
            Column("tflop", "TFLOP", lambda way: way.tflop, "number"),
            Column("rate", "By the teacher", lambda way: way.rate, "share"),
            *map(quality, metrics),
            Column("fid", "Frechet distance", lambda way: way.fid, "number"),
            Column("diversity", "Diversity", lambda way: way.diversity, "number"),
        ],
    )


def leads_table(study: Study) -> Table:
    """One row for each tuned collaboration."""
    return table(
        "collaboration-equal",
        study.leads,
        [
            Column("way", "Collaboration", lambda lead: lead.strategy.name),
            Column("steps", "Steps", lambda lead: lead.strategy.steps, "number"),
            Column("tflop", "TFLOP", lambda lead: lead.strategy.tflop, "number"),
            Column("quality", study.metric, lambda lead: lead.strategy.quality[study.metric], "score"),
            Column("over_student", "Over the student", lambda lead: lead.over_student, "score"),
            Column(
                "over_best_student",
                "Over the student at equal cost",
                lambda lead: lead.over_best_student,
                "score",
            ),
            Column("over_teacher", "Over the teacher at equal cost", lambda lead: lead.over_teacher, "score"),
            Column("over_random", "Over random correction", lambda lead: lead.over_random, "score"),
        ],
    )


def wins_table(study: Study) -> Table:
    """How often the student wins, and what goes with its distance from the teacher."""
    wins = study.wins
    rows = [
        ("distance of the two images", None, wins.distance_gap, wins.by_distance),
        *((each.name, each.distance, each.gap, each.wins) for each in wins.aspects),
    ]
    return table(
        "collaboration-wins",
        rows,
        [
            Column("aspect", "Images by", lambda row: row[0]),
            Column("distance", "With their distance", lambda row: row[1], "number"),
            Column("gap", "With the difference of scores", lambda row: row[2], "number"),
            Column("wins_low", "Student wins, low third", lambda row: row[3][0], "share"),
            Column("wins_middle", "Student wins, middle third", lambda row: row[3][1], "share"),
            Column("wins_high", "Student wins, high third", lambda row: row[3][2], "share"),
        ],
    )


def cases_table(study: Study) -> Table:
    """Prompts that the student draws better, and worse, than the teacher."""
    return table(
        "collaboration-cases",
        [*study.wins.best, *reversed(study.wins.worst)],
        [
            Column("prompt", "Prompt", lambda case: case.prompt),
            Column("lead", f"Student above teacher, {study.metric}", lambda case: case.lead, "score"),
        ],
    )
