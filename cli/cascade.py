"""`matchgraph collaborate scores`: a student and its teacher by given scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.options import FiniteRange, json_option, opened_graph, seed_option
from matchgraph.cli.route import budget_options

if TYPE_CHECKING:
    from matchgraph.collaboration.given import GivenPlan
    from matchgraph.collaboration.routed import RoutedResult
    from matchgraph.stats.intervals import Interval

WHO = {
    "student": "{student} alone",
    "teacher": "{teacher} alone",
    "cascade": "{student}, and {teacher} where {confidence} is below {threshold:.4g}",
}


@click.command()
@click.argument("student")
@click.argument("teacher")
@click.option("--metric", required=True, help="Quality metric for both.")
@click.option("--confidence", required=True, help="Metric with the oracle's confidence in STUDENT's image.")
@budget_options("Average cost per image.")
@click.option(
    "--student-seconds", type=FiniteRange(0, min_open=True), help="Seconds that STUDENT takes per image."
)
@click.option(
    "--teacher-seconds", type=FiniteRange(0, min_open=True), help="Seconds that TEACHER takes per image."
)
@click.option(
    "--longest-seconds",
    type=FiniteRange(0, min_open=True),
    help="Longest time for any image, in seconds; one that both draw takes the sum of both.",
)
@click.option(
    "--route-first",
    is_flag=True,
    help="Let a router, fitted on the training prompts, choose STUDENT, TEACHER or both for each prompt.",
)
@seed_option("the bootstrap")
@json_option
def scores(
    student: str,
    teacher: str,
    metric: str,
    confidence: str,
    student_seconds: float | None,
    teacher_seconds: float | None,
    route_first: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Choose a threshold from scores that `route scores` added, and report the gain, without drawing.

    STUDENT and TEACHER are candidates. The threshold is chosen on the validation prompts, from STUDENT alone
    to TEACHER alone, and judged on the test prompts. With --route-first, prompts whose image by STUDENT is
    expected to be rejected go to TEACHER at once, and only those in between are drawn by STUDENT and judged.
    """
    from matchgraph.collaboration.given import cascade
    from matchgraph.levels.routed import route_first as route_pair

    given = (student, teacher, metric, confidence)
    seconds = (student_seconds, teacher_seconds)
    with opened_graph() as (_, runner):
        if route_first:
            routed, unit = route_pair(runner, *given, seconds=seconds, **limits)
            if as_json:
                told = {**asdict(routed), "unrouted": flat(routed.unrouted), "unit": unit}
                click.echo(json.dumps(told))
            else:
                show_routed(routed, *given, unit)
            return
        found, unit = cascade(runner, *given, seconds=seconds, **limits)
    plan = found.plan
    if as_json:
        click.echo(json.dumps({**asdict(found), "plan": flat(plan), "unit": unit}))
        return
    click.echo(f"Draw with {who_draws(plan, student, teacher, confidence)}.")
    click.echo(
        f"On {found.prompts} test prompts: {percent(found.accepted)} of the student's images kept; {metric} "
        f"{written(found.quality)}, {written(found.over_student, '+')} over {student} alone, "
        f"{written(found.over_random, '+')} over as many chosen at random, "
        f"{written(found.over_teacher, '+')} over {teacher} alone; {written(found.cost)} {unit} per image."
    )
    if found.seconds is not None:
        click.echo(f"{written(found.seconds)} s per image, {found.longest_seconds:.4g} s at most.")


def show_routed(
    found: RoutedResult, student: str, teacher: str, metric: str, confidence: str, unit: str
) -> None:
    """Print who draws which share of the prompts, and what that is worth."""
    shares = {way: percent(found.shares[way]) for way in found.shares}
    both, over_routing = "", ""
    if "cascade" in found.plan.ways:
        both = (
            f"; {shares['cascade']} are drawn by {student}, and by {teacher} where {confidence} is below "
            f"{found.plan.threshold:.4g}"
        )
        over_routing = f", {written(found.over_routing, '+')} over routing without the cascade"
    click.echo(
        f"Route {shares['student']} of the prompts to {student} alone, {shares['teacher']} to {teacher} "
        f"alone{both}."
    )
    click.echo(
        f"On {found.prompts} test prompts: {metric} {written(found.quality)}, "
        f"{written(found.over_student, '+')} over {student} alone, {written(found.over_teacher, '+')} over "
        f"{teacher} alone{over_routing}; {written(found.cost)} {unit} per image."
    )
    click.echo(
        f"Against the best plan without routing ({who_draws(found.unrouted, student, teacher, confidence)}): "
        f"{metric} {written(found.over_cascade, '+')}, {written(found.over_cascade_cost, '+')} {unit} per "
        f"image; at no higher cost, {metric} {written(found.over_cascade_at_cost, '+')}."
    )
    if found.seconds is not None:
        click.echo(f"{written(found.seconds)} s per image, {found.longest_seconds:.4g} s at most.")


def flat(plan: GivenPlan) -> dict[str, Any]:
    """A plan ready for JSON, which lacks the infinite threshold of one alone."""
    threshold = plan.threshold if plan.kind == "cascade" else None
    return {"kind": plan.kind, "percentile": plan.k, "threshold": threshold}


def who_draws(plan: GivenPlan, student: str, teacher: str, confidence: str) -> str:
    """Who draws by a plan, in words."""
    return WHO[plan.kind].format(
        student=student, teacher=teacher, confidence=confidence, threshold=plan.threshold
    )


def written(interval: Interval, sign: str = "") -> str:
    """A figure with its interval."""
    value, low, high = (f"{each:{sign}.4g}" for each in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def percent(interval: Interval) -> str:
    """A share with its interval."""
    return f"{100 * interval.value:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
