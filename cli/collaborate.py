"""`matchgraph collaborate`: a cheap student draws, and its teacher steps in where that is not good enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.route import (
    METRICS,
    aesthetic_option,
    device_option,
    json_option,
    probe_option,
    reward_option,
    seed_option,
)

if TYPE_CHECKING:
    from matchgraph.collaboration.trials import Grid, Trials
    from matchgraph.drawing import Drawing
    from matchgraph.graphdb.distillation import Distilled
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.loading import LoadedPipeline

FOLDER = "collaboration"


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "NUMBERS"

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[Any, ...]:
        """See `click.ParamType.convert`."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(dict.fromkeys(self._kind(part) for part in value.split(",") if value))
        except ValueError:
            self.fail(f"{value!r} are no numbers with commas between them.", parameter, context)


student_argument = click.argument("student", metavar="STUDENT")
resolution_option = click.option(
    "--resolution",
    "resolution_px",
    type=click.IntRange(8),
    default=512,
    show_default=True,
    help="Side of the images, pixels.",
)
metric_option = click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="clip_score",
    show_default=True,
    help="Quality metric that is the oracle.",
)
weights_options = (aesthetic_option, reward_option)
grid_options = (
    click.option(
        "--teacher-steps",
        type=Numbers(int),
        default="4,10,20",
        show_default=True,
        help="Step counts of the teacher, alone and to draw anew.",
    ),
    click.option(
        "--refine-steps",
        type=Numbers(int),
        default="2,4,8",
        show_default=True,
        help="Step counts of the teacher when it refines.",
    ),
    click.option(
        "--rollbacks",
        type=Numbers(float),
        default="0.3,0.5,0.7,0.9",
        show_default=True,
        help="Shares of the teacher's schedule that refinement draws anew.",
    ),
    click.option("--teacher-guidance", type=click.FloatRange(0), help="By default the pipeline's own."),
    click.option("--teacher-sampler", metavar="CLASS", help="The pipeline's own by default."),
)


def prompts_option(name: str, parameter: str, split: str) -> Callable[..., Any]:
    """A file of prompts in place of those of a split of the graph."""
    return click.option(
        name,
        parameter,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file with one prompt a line, or with a field prompt (JSON Lines, CSV); the graph's "
        f"{split} prompts by default.",
    )


def with_options(options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """Several options at once."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def collaborate() -> None:
    """Let a distilled student draw, and its teacher improve what an oracle rejects.

    First `calibrate` finds what the student's images score; `tune` then chooses what the teacher does, and
    below which score, for an average cost; `generate` draws, and `evaluate` reports what that is worth.
    """


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, loaded."""

    distilled: Distilled
    student: LoadedPipeline
    teacher: LoadedPipeline


@contextmanager
def loaded_pair(student: str, device: str, teacher: str | None = None) -> Iterator[Pair]:
    """The pipelines of a student and of its teacher, from the graph.

    Args:
        student: its id.
        device: `auto` or a torch device name.
        teacher: its id; by default what the graph says.
    """
    from matchgraph.cli.route import model_folders
    from matchgraph.collaboration.errors import NotCalibrated
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.distillation import DistillationGraph, Distilled
    from matchgraph.training.pipelines.loading import LoadedPipeline

    with connect() as runner:
        known = DistillationGraph(runner).load(student)
        folders = model_folders(runner)
    if teacher is not None and (known is None or known.teacher != teacher):
        known = Distilled(student, teacher)
    if known is None:
        raise NotCalibrated(
            f"{student!r} has no teacher in the graph: run "
            "`matchgraph collaborate calibrate STUDENT TEACHER`."
        )
    for model in (known.student, known.teacher):
        if model not in folders:
            raise click.UsageError(f"There is no pipeline folder of {model!r}: ingest one.")
    with (
        LoadedPipeline(folders[known.student], device=device) as one,
        LoadedPipeline(folders[known.teacher], device=device) as other,
    ):
        yield Pair(known, one, other)


def prompts_of(split: str, file: Path | None = None) -> list[str]:
    """Prompts of a split of the graph, or of a file."""
    from matchgraph.cli.route import prompt_graph
    from matchgraph.collaboration.errors import NoTrials
    from matchgraph.training.prompt_files import read_prompt_file

    if file is not None:
        return read_prompt_file(file).texts
    with prompt_graph() as (graph, _):
        found = [prompt.text for prompt in graph.prompts() if prompt.split == split]
    if not found:
        raise NoTrials(f"The graph holds no {split} prompts: add some with `matchgraph route prompts`.")
    return found


def scorer_of(metric: str, probe: str, aesthetic: Path | None, reward: Path | None, device: str) -> Scorer:
    """The oracle."""
    from matchgraph.cli.route import load_scorers

    [scorer] = load_scorers([metric], probe, aesthetic, reward, device)
    return scorer


@collaborate.command()
@student_argument
@click.argument("teacher", metavar="TEACHER")
@probe_option
@metric_option
@with_options(weights_options)
@prompts_option("--prompts", "file", "validation")
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Of the student.")
@click.option("--guidance", type=click.FloatRange(0), help="Of the student; the pipeline's own by default.")
@click.option("--sampler", metavar="CLASS", help="Of the student: diffusers' scheduler.")
@resolution_option
@seed_option("the noise")
@device_option
@json_option
def calibrate(
    student: str,
    teacher: str,
    probe: str,
    metric: str,
    aesthetic_weights: Path | None,
    reward_weights: Path | None,
    file: Path | None,
    steps: int,
    guidance: float | None,
    sampler: str | None,
    resolution_px: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Find what STUDENT's images score, and keep that on its edge to TEACHER in the graph.

    Both are ids of models in the graph whose folders are at hand (`matchgraph ingest models FOLDER`).
    """
    from matchgraph.collaboration.calibration import calibrate as calibrated
    from matchgraph.drawing import Drawing
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.distillation import DistillationGraph, Distilled

    scorer = scorer_of(metric, probe, aesthetic_weights, reward_weights, device)
    with loaded_pair(student, device, teacher) as pair:
        found = calibrated(
            pair.student,
            scorer,
            prompts_of("validation", file),
            Drawing(steps, guidance, sampler, resolution_px),
            seed=seed,
        )
    with connect() as runner:
        DistillationGraph(runner).save(Distilled(student, teacher, found))
    quartiles = {str(k): found.threshold(k) for k in (10, 25, 50, 75, 90)}
    if as_json:
        click.echo(json.dumps({**found.flat(), "percentiles": quartiles}))
        return
    told = ", ".join(f"{k} %: {value:.4f}" for k, value in quartiles.items())
    click.echo(f"{found.samples} images of {student} scored by {metric}: {told}.")


@collaborate.command()
@student_argument
@click.option("--budget", type=click.FloatRange(0, min_open=True), required=True, help="TFLOP an image.")
@probe_option
@with_options(weights_options)
@with_options(grid_options)
@prompts_option("--prompts", "file", "validation")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Images a prompt.")
@seed_option("the noise")
@device_option
@json_option
def tune(
    student: str,
    budget: float,
    probe: str,
    file: Path | None,
    aesthetic_weights: Path | None,
    reward_weights: Path | None,
    samples: int,
    seed: int,
    device: str,
    as_json: bool,
    **grid: Any,
) -> None:
    """Choose what the teacher does, and below which percentile, for an average cost of BUDGET.

    What is measured once is kept. The whole frontier of quality over cost goes into
    `collaboration/STUDENT/frontier.json` in the data folder.
    """
    from matchgraph.collaboration.tuning import best_for, choices, frontier
    from matchgraph.graphdb.connection import connect, settings_from_environment
    from matchgraph.graphdb.distillation import DistillationGraph, Tuned
    from matchgraph.training.files import write_json

    weights = aesthetic_weights, reward_weights
    with loaded_pair(student, device) as pair:
        drawing = calibrated_drawing(pair.distilled)
        asked = grid_of((drawing,), samples=samples, seed=seed, **grid)
        trials = measured(pair, prompts_of("validation", file), asked, probe, weights, device)
    calibration = pair.distilled.calibration
    assert calibration is not None
    found = choices(trials, calibration.metric)
    best = best_for(found, budget)
    kept = frontier(found)
    folder = settings_from_environment().home / FOLDER / student
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{name: v for name, v in asdict(choice).items() if name != "threshold"} for choice in kept]
    write_json(folder / "frontier.json", {"metric": calibration.metric, "frontier": rows})
    rollback, how = correction_of(best.correction, asked)
    tuned = Tuned(
        best.k,
        rollback,
        how,
        best.tflop,
        best.quality,
    )
    with connect() as runner:
        DistillationGraph(runner).save(replace(pair.distilled, tuned=tuned))
    if as_json:
        click.echo(json.dumps({"tuned": tuned.flat(), "frontier": rows}))
        return
    for row in rows:
        name = row["correction"] or "student alone"
        click.echo(f"{row['tflop']:.4g} TFLOP: {row['quality']:.4f} by {name} below {row['k']:g} %")
    click.echo(
        f"For {budget:g} TFLOP: {best.correction or 'student alone'} below {best.k:g} % "
        f"({calibration.metric} under {calibration.threshold(best.k):.4f}); expect {best.quality:.4f} for "
        f"{best.tflop:.4g}."
    )


@collaborate.command()
@student_argument
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@probe_option
@with_options(weights_options)
@click.option("--percentile", "k", type=click.FloatRange(0, 100), help="In place of the tuned one.")
@click.option("--rollback", type=float, help="Refine from there; in place of what was tuned.")
@click.option("--regenerate", is_flag=True, help="Draw rejected images anew; in place of what was tuned.")
@click.option("--teacher-steps", type=click.IntRange(1), help="In place of the tuned ones.")
@click.option(
    "--edit",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A picture to edit (SDEdit), the same for each prompt.",
)
@click.option("--strength", type=float, help="Of --edit: share of the schedule that is drawn anew.")
@click.option(
    "--controlnet",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a ControlNet that steers both, as `matchgraph control train` writes it.",
)
@click.option(
    "--control-image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What --controlnet is shown, as `matchgraph control image` draws it; for each prompt the same.",
)
@click.option(
    "--control-scale",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="How strongly it steers.",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for images."
)
@seed_option("the noise")
@device_option
@json_option
@click.pass_context
def generate(
    context: click.Context,
    student: str,
    prompts: tuple[str, ...],
    probe: str,
    aesthetic_weights: Path | None,
    reward_weights: Path | None,
    k: float | None,
    rollback: float | None,
    regenerate: bool,
    teacher_steps: int | None,
    edit: Path | None,
    strength: float | None,
    controlnet: Path | None,
    control_image: Path | None,
    control_scale: float,
    out: Path,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Draw each prompt with STUDENT, and let its teacher improve what is rejected.

    Exits with 1 if something failed on the way; the student's images are there all the same.
    """
    from matchgraph.collaboration.calibration import check_calibrated
    from matchgraph.collaboration.collaborate import Collaboration
    from matchgraph.collaboration.plan import Correction, Plan
    from matchgraph.drawing import Drawing
    from matchgraph.graphdb.prompts import check_prompt, prompt_id
    from matchgraph.training.images import load_rgb
    from matchgraph.training.pipelines.controlnet import controlled

    for prompt in prompts:
        check_prompt(prompt)
    if (controlnet is None) != (control_image is None):
        raise click.UsageError("--controlnet goes with --control-image, and --control-image with it.")
    failed = False
    with ExitStack() as inside:
        pair = inside.enter_context(loaded_pair(student, device))
        if controlnet is not None:
            for loaded in (pair.student, pair.teacher):
                inside.enter_context(controlled(loaded, controlnet))
        drawing = calibrated_drawing(pair.distilled)
        calibration, tuned = pair.distilled.calibration, pair.distilled.tuned
        assert calibration is not None
        if tuned is None and (k is None or teacher_steps is None):
            raise click.UsageError(
                f"{student!r} is not tuned: run `matchgraph collaborate tune`, or give --percentile and "
                "--teacher-steps."
            )
        if rollback is None and not regenerate and tuned is not None:
            rollback = tuned.rollback
        how = tuned.teacher if tuned else Drawing(teacher_steps, resolution_px=drawing.resolution_px)
        if teacher_steps is not None:
            how = replace(how, steps=teacher_steps)
        if k is None:
            assert tuned is not None
            k = tuned.k
        threshold = calibration.threshold(k)
        plan = Plan(
            drawing,
            Correction(how, None if regenerate else rollback),
            seed,
            strength=strength,
            control_scale=control_scale,
        )
        scorer = scorer_of(calibration.metric, probe, aesthetic_weights, reward_weights, device)
        check_calibrated(calibration, scorer, plan.student)
        both = Collaboration(pair.student, pair.teacher, scorer, threshold, plan)
        pictures, controls = (
            None if path is None else [load_rgb(path)] * len(prompts) for path in (edit, control_image)
        )
        out.mkdir(parents=True, exist_ok=True)
        numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]
        rows = []
        for outcome in both.generate(prompts, numbers=numbers, pictures=pictures, controls=controls):
            prompt = prompts[outcome.place]
            path = out / f"{outcome.place:04d}-{prompt_id(prompt)}.png"
            outcome.image.save(path)
            failed = failed or outcome.failure is not None
            row = {"path": str(path), "prompt": prompt, "score": outcome.score, "decision": outcome.decision}
            row |= {"steps": outcome.steps, "tflop": outcome.tflop, "failure": outcome.failure}
            rows.append(row)
            if not as_json:
                score = "?" if outcome.score is None else f"{outcome.score:.4f}"
                click.echo(
                    f"{path}: {outcome.decision} (score {score}, threshold {threshold:.4f}), "
                    f"{outcome.steps} steps, {outcome.tflop:.4g} TFLOP"
                )
            if outcome.failure is not None:
                click.echo(f"{path}: {outcome.failure}; this is the student's image.", err=True)
    if as_json:
        click.echo(json.dumps({"percentile": k, "images": rows}))
    context.exit(1 if failed else 0)


@collaborate.command()
@student_argument
@probe_option
@with_options(weights_options)
@with_options(grid_options)
@click.option(
    "--student-steps",
    type=Numbers(int),
    default="",
    help="Further step counts of the student alone, to compare with.",
)
@click.option(
    "--reference",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of real images for the Frechet distance.",
)
@prompts_option("--tune-prompts", "tune_file", "validation")
@prompts_option("--test-prompts", "test_file", "test")
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Images a prompt.")
@click.option(
    "--out",
    default=Path("collaboration"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the report.",
)
@seed_option("noise and bootstrap")
@device_option
def evaluate(
    student: str,
    probe: str,
    aesthetic_weights: Path | None,
    reward_weights: Path | None,
    student_steps: tuple[int, ...],
    reference: Path | None,
    tune_file: Path | None,
    test_file: Path | None,
    samples: int,
    out: Path,
    seed: int,
    device: str,
    **grid: Any,
) -> None:
    """Report what collaboration is worth: tuned on some prompts, shown on others.

    Prompts that the student was distilled on belong in neither.
    """
    from importlib.metadata import version

    from matchgraph.collaboration.evaluation import evaluate as evaluated
    from matchgraph.report.collaboration import write_report
    from matchgraph.training.images import list_captioned_images, load_rgb
    from matchgraph.training.measure.extractors import load_clip

    weights = aesthetic_weights, reward_weights
    with loaded_pair(student, device) as pair:
        drawing = calibrated_drawing(pair.distilled)
        further = tuple(replace(drawing, steps=steps) for steps in student_steps if steps != drawing.steps)
        asked = grid_of((drawing, *further), samples=samples, seed=seed, **grid)
        tuned_on, test = (
            measured(pair, prompts_of(split, file), asked, probe, weights, device)
            for split, file in (("validation", tune_file), ("test", test_file))
        )
    calibration = pair.distilled.calibration
    assert calibration is not None
    statistics = None
    if reference is not None:
        paths = [image.path for image in list_captioned_images(reference)]
        statistics = load_clip(probe, device=device).statistics(load_rgb(path) for path in paths)
    study = evaluated(tuned_on, test, calibration.metric, reference=statistics, seed=seed)
    facts = {
        "student": pair.distilled.student,
        "teacher": pair.distilled.teacher,
        "oracle": {"metric": calibration.metric, "scorer": calibration.scorer},
        "prompts": {"validation": len(tuned_on.prompts) // samples, "test": len(test.prompts) // samples},
        "images a prompt": samples,
        "seed": seed,
        "versions": {name: version(name) for name in ("matchgraph", "torch", "diffusers", "numpy")},
    }
    page, summary = write_report(study, out, command_given(click.get_current_context()), facts)
    for sentence in summary:
        click.echo(sentence)
    click.echo(f"Written to {page}.")


def command_given(context: click.Context) -> str:
    """The command as it was given, for the record; of files their names alone."""
    from click.core import ParameterSource

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


def calibrated_drawing(distilled: Distilled) -> Drawing:
    """How the student draws: as it was calibrated."""
    from matchgraph.collaboration.errors import NotCalibrated

    calibration = distilled.calibration
    if calibration is None:
        raise NotCalibrated(
            f"{distilled.student!r} is not calibrated: run `matchgraph collaborate calibrate "
            f"{distilled.student} {distilled.teacher}`."
        )
    return calibration.drawing


def grid_of(
    students: tuple[Drawing, ...],
    *,
    teacher_steps: tuple[int, ...],
    refine_steps: tuple[int, ...],
    rollbacks: tuple[float, ...],
    teacher_guidance: float | None,
    teacher_sampler: str | None,
    samples: int,
    seed: int,
) -> Grid:
    """What is tried, as the options say."""
    from matchgraph.collaboration.trials import Grid
    from matchgraph.drawing import Drawing

    resolution_px = students[0].resolution_px
    teachers, refiners = (
        tuple(Drawing(steps, teacher_guidance, teacher_sampler, resolution_px) for steps in some)
        for some in (teacher_steps, refine_steps)
    )
    return Grid(students, teachers, rollbacks, refiners, samples, seed)


def correction_of(name: str | None, grid: Grid) -> tuple[float | None, Drawing]:
    """Rollback and drawing of a correction that was tuned; without one, what would be the least."""
    for refinement in grid.refinements:
        if refinement.id == name:
            return refinement.rollback, refinement.drawing
    for teacher in grid.teachers:
        if name == f"regenerate@{teacher.name}":
            return None, teacher
    return None, min((*grid.teachers, *grid.refiners), key=lambda drawing: drawing.steps or 0)


def measured(
    pair: Pair,
    prompts: Sequence[str],
    grid: Grid,
    probe: str,
    weights: tuple[Path | None, Path | None],
    device: str,
) -> Trials:
    """Trials of a pair, kept in the data folder; by the oracle, CLIPScore and sharpness."""
    from matchgraph.cli.route import load_scorers
    from matchgraph.collaboration.calibration import check_calibrated
    from matchgraph.collaboration.trials import measure
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.training.measure.extractors import load_clip

    calibration = pair.distilled.calibration
    assert calibration is not None
    metrics = dict.fromkeys([calibration.metric, "clip_score", "sharpness"])
    scorers = load_scorers(list(metrics), probe, *weights, device)
    check_calibrated(calibration, scorers[0], grid.students[0])
    folder = settings_from_environment().home / FOLDER / pair.distilled.student

    def told(name: str, done: int, total: int) -> None:
        click.echo(f"{name}: {done} of {total} columns", err=True)

    return measure(
        pair.student,
        pair.teacher,
        scorers,
        load_clip(probe, device=device),
        prompts,
        grid,
        folder,
        told,
    )
