"""`matchgraph collaborate`: a cheap student draws, and its teacher improves the images that are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from matchgraph.cli.cascade import scores
from matchgraph.cli.control import control_image
from matchgraph.cli.display import show_work
from matchgraph.cli.distill import distill, student
from matchgraph.cli.groups import SuggestingGroup
from matchgraph.cli.options import (
    caption_column_option,
    configuration,
    data_folder,
    device_option,
    gpu_memory_option,
    json_option,
    opened_graph,
    out_option,
    probe_option,
    prompts_option,
    scorer_options,
    seed_option,
    settings_options,
    with_options,
)
from matchgraph.cli.route import Numbers, budget_option
from matchgraph.collaboration.corrections import Corrections
from matchgraph.collaboration.pairs import Oracle
from matchgraph.drawing import Drawing
from matchgraph.training.measure.scorers import SCORE_METRICS

if TYPE_CHECKING:
    from matchgraph.progress import Progress

student_argument = click.argument("student", metavar="STUDENT")
oracle_options = with_options([probe_option(required=True), scorer_options, device_option, gpu_memory_option])


corrections_options = settings_options(
    Corrections,
    teacher_steps={"type": Numbers(int, 1), "multiple": False},
    refine_steps={"type": Numbers(int, 1), "multiple": False},
    rollbacks={"type": Numbers(float), "multiple": False},
)


def with_oracle(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of an `Oracle`, and pass it one as `oracle`."""
    from functools import wraps

    @oracle_options
    @wraps(command)
    def called(
        *arguments: Any,
        probe: str,
        weights: Mapping[str, Path | None],
        device: str,
        gpu_memory: float | None,
        **options: Any,
    ) -> Any:
        return command(*arguments, oracle=Oracle(probe, weights, device, gpu_memory), **options)

    return called


def with_corrections(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Corrections`, and pass it them as `corrections`."""
    from functools import wraps

    @corrections_options
    @wraps(command)
    def called(*arguments: Any, **options: Any) -> Any:
        corrections = configuration(Corrections, options)
        return command(*arguments, corrections=corrections, **options)

    return called


def shown_progress(unit: str) -> Progress:
    """Print each step of a long measurement to stderr."""

    def show(step: str, done: int, total: int) -> None:
        click.echo(f"{step}: {done} of {total} {unit}", err=True)

    return show


@click.group(cls=SuggestingGroup)
def collaborate() -> None:
    """Let a distilled student draw, and its teacher improve what an oracle rejects.

    `distill` or `student` makes a student. `calibrate` measures the scores of its images, `tune` chooses the
    teacher's correction and the threshold for an average cost, `generate` draws, and `evaluate` reports the
    gain. `scores` does the same with scores of your own, without drawing.
    """


for each in (distill, student, control_image, scores):
    collaborate.add_command(each)


@collaborate.command()
@student_argument
@click.argument("teacher", metavar="TEACHER")
@with_oracle
@click.option(
    "--metric",
    default="clip_score",
    show_default=True,
    help=f"Quality metric to judge by: {', '.join(SCORE_METRICS)}, or a mixture.",
)
@prompts_option("One prompt per line; the graph's validation prompts by default.")
@settings_options(
    Drawing,
    only=("steps", "guidance", "sampler", "resolution_px", "precision"),
    steps={"default": 4, "show_default": True},
    precision={"help": "Precision of weights and arithmetic, of the teacher too."},
    resolution_px={"default": None, "help": "Side of the images, in pixels; the student's own by default."},
)
@seed_option("the noise")
@json_option
def calibrate(
    student: str,
    teacher: str,
    oracle: Oracle,
    metric: str,
    resolution_px: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the scores of STUDENT's images, and store them on its edge to TEACHER in the graph.

    Both are ids of models in the graph whose folders are on this machine (`matchgraph ingest models FOLDER`).
    """
    from matchgraph.collaboration.workflow import calibrate as calibrate_pair

    drawing = configuration(Drawing, options)
    with opened_graph() as (_, runner):
        found = calibrate_pair(
            runner,
            student,
            teacher,
            drawing,
            oracle,
            resolution_px=resolution_px,
            metric=metric,
            on_work=show_work,
            **options,
        )
    quartiles = {str(k): found.threshold(k) for k in (10, 25, 50, 75, 90)}
    if as_json:
        click.echo(json.dumps({**found.flat(), "percentiles": quartiles}))
        return
    scores = ", ".join(f"{k} %: {value:.4f}" for k, value in quartiles.items())
    click.echo(f"{found.samples} images of {student} scored by {metric}: {scores}.")


@collaborate.command()
@student_argument
@budget_option("Average cost per image.", required=True)
@with_oracle
@with_corrections
@prompts_option("One prompt per line; the graph's validation prompts by default.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Images per prompt.")
@seed_option("the noise")
@json_option
def tune(student: str, budget_tflop: float, oracle: Oracle, as_json: bool, **options: Any) -> None:
    """Choose the teacher's correction, and the percentile below which it is used, for a given average cost.

    Measurements are kept and reused. The full frontier of quality over cost is written to
    `collaboration/STUDENT/frontier.json` in the data folder.
    """
    from matchgraph.collaboration.workflow import frontier_rows
    from matchgraph.collaboration.workflow import tune as tune_pair

    with opened_graph() as (_, runner):
        found = tune_pair(
            runner,
            data_folder(),
            student,
            budget_tflop,
            oracle,
            on_progress=shown_progress("columns"),
            on_work=show_work,
            **options,
        )
    tuned, calibration, best = found.distilled.tuned, found.distilled.calibration, found.best
    assert tuned is not None
    assert calibration is not None
    rows = frontier_rows(found.frontier)
    if as_json:
        click.echo(json.dumps({"tuned": tuned.flat(), "frontier": rows}))
        return
    for row in rows:
        name = row["correction"] or "student alone"
        click.echo(
            f"{row['tflop']:.4g} TFLOP: quality {row['quality']:.4f}, {name} below percentile {row['k']:g}"
        )
    click.echo(
        f"For {budget_tflop:g} TFLOP: {best.correction or 'student alone'} below percentile {best.k:g} "
        f"({calibration.metric} below {calibration.threshold(best.k):.4f}); expect quality "
        f"{best.quality:.4f} for {best.tflop:.4g} TFLOP."
    )


@collaborate.command()
@student_argument
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@with_oracle
@click.option(
    "--percentile",
    "k",
    type=click.FloatRange(0, 100),
    help="Percentile below which images are rejected, instead of the tuned one.",
)
@click.option("--rollback", type=float, help="Refine with this rollback, instead of the tuned correction.")
@click.option(
    "--regenerate", is_flag=True, help="Draw rejected images from noise, instead of the tuned correction."
)
@click.option(
    "--teacher-steps",
    type=click.IntRange(1),
    help="Denoising steps of the teacher, instead of the tuned number.",
)
@click.option(
    "--teacher-resolution",
    "teacher_resolution_px",
    type=click.IntRange(8),
    help="Side of the teacher's images, in pixels, instead of the tuned one or the student's.",
)
@click.option(
    "--edit",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Image to edit (SDEdit), the same for each prompt.",
)
@click.option("--strength", type=float, help="With --edit: share of the schedule that is repeated.")
@click.option(
    "--controlnet",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a ControlNet for student and teacher; needs --control-image.",
)
@click.option(
    "--control-image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Input of --controlnet, from `collaborate control-image`; the same for each prompt.",
)
@click.option(
    "--control-scale",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Strength of the ControlNet.",
)
@out_option("Folder for the images.", required=True)
@seed_option("the noise")
@json_option
@click.pass_context
def generate(
    context: click.Context,
    /,
    student: str,
    prompts: tuple[str, ...],
    out: Path,
    oracle: Oracle,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw each prompt with STUDENT, and let its teacher improve rejected images.

    Accepted images have the student's size, and improved ones the teacher's.

    Exits with 1 if a correction failed; the student's image is then kept.
    """
    from matchgraph.collaboration.workflow import generate as generate_images

    if (options["controlnet"] is None) != (options["control_image"] is None):
        raise click.UsageError("--controlnet and --control-image must be given together.")
    rows, failed, k = [], False, None
    with opened_graph() as (_, runner):
        for drawn in generate_images(runner, student, prompts, out, oracle, on_work=show_work, **options):
            outcome, k = drawn.outcome, drawn.k
            failed = failed or outcome.failure is not None
            row = {"path": str(drawn.path), "prompt": drawn.prompt, "score": outcome.score}
            row |= {name: getattr(outcome, name) for name in ("decision", "steps", "tflop", "failure")}
            rows.append(row)
            if not as_json:
                score = "?" if outcome.score is None else f"{outcome.score:.4f}"
                click.echo(
                    f"{drawn.path}: {outcome.decision} (score {score}, threshold {drawn.threshold:.4f}), "
                    f"{outcome.steps} steps, {outcome.tflop:.4g} TFLOP"
                )
            if outcome.failure is not None:
                click.echo(f"{drawn.path}: {outcome.failure}; this is the student's image.", err=True)
    if as_json:
        click.echo(json.dumps({"percentile": k, "images": rows}))
    context.exit(1 if failed else 0)


@collaborate.command()
@student_argument
@with_oracle
@with_corrections
@click.option(
    "--student-steps",
    type=Numbers(int, 1),
    default="",
    help="Further step counts of the student alone, for comparison.",
)
@click.option(
    "--reference",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of real images for the Frechet distance.",
)
@caption_column_option
@prompts_option(
    "Prompts to tune on, one per line; the graph's validation prompts by default.", name="--tune-prompts"
)
@prompts_option(
    "Prompts to measure on, one per line; the graph's test prompts by default.", name="--test-prompts"
)
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Images per prompt.")
@out_option("Folder for the report.", default="collaboration-report")
@seed_option("the noise and the bootstrap")
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    student: str,
    oracle: Oracle,
    out: Path,
    reference: Path | None,
    caption_column: str | None,
    **options: Any,
) -> None:
    """Report the gain of collaboration, tuned on some prompts and measured on others.

    Neither should contain prompts that the student was distilled on.
    """
    from matchgraph.collaboration.workflow import evaluate as evaluate_pair
    from matchgraph.report.collaboration import write_report
    from matchgraph.training.images import DatasetFolder

    with opened_graph() as (_, runner):
        found = evaluate_pair(
            runner,
            data_folder(),
            student,
            oracle,
            reference=None if reference is None else DatasetFolder(reference, caption_column),
            on_progress=shown_progress("columns"),
            on_work=show_work,
            **options,
        )
    page, summary = write_report(found.study, out, command_given(context), found.facts)
    for sentence in summary:
        click.echo(sentence)
    click.echo(f"Written to {page}.")


def command_given(context: click.Context) -> str:
    """The command as it was given, for the record; files by their names only."""
    parts = [context.command_path]
    for parameter in context.command.params:
        name = str(parameter.name)
        value = context.params.get(name)
        if isinstance(parameter, click.Argument):
            parts.append(str(value))
        elif context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            shown = value.name if isinstance(value, Path) else value
            shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            parts += [parameter.opts[0], str(shown)]
    return " ".join(parts)
