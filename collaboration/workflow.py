"""A student and its teacher, from calibration to images: what `matchgraph collaborate` and the API call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.collaboration.calibration import calibrate as calibrate_student
from matchgraph.collaboration.calibration import check_calibrated, check_enough
from matchgraph.collaboration.collaborate import Collaboration, Outcome
from matchgraph.collaboration.corrections import Corrections, correction_of
from matchgraph.collaboration.errors import InvalidPlan, NotCalibrated, NoTrials
from matchgraph.collaboration.evaluation import Study
from matchgraph.collaboration.evaluation import evaluate as evaluate_trials
from matchgraph.collaboration.pairs import FOLDER, Oracle, calibration_of, loaded_pair, measure_pair
from matchgraph.collaboration.plan import Correction, Plan, price
from matchgraph.collaboration.tuning import Choice, best_for, check_budget, choices, frontier
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import Calibration, DistillationGraph, Distilled, Tuned
from matchgraph.graphdb.prompt_models import check_prompt, prompt_id
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import OnWork, Pace, Progress, Work, no_progress, no_work
from matchgraph.training.prompt_files import read_prompts

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Split
    from matchgraph.graphdb.runner import Runner
    from matchgraph.training.images import DatasetFolder


@dataclass(frozen=True)
class TuneResult:
    """What was tuned.

    Attributes:
        distilled: student and teacher as the graph now has them.
        best: the choice for the budget.
        frontier: the best choices at all costs.
    """

    distilled: Distilled
    best: Choice
    frontier: Sequence[Choice]


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image that was drawn.

    Attributes:
        path: of the PNG.
        prompt: of it.
        k: percentile of the student's scores that was required.
        threshold: the score at that percentile.
        outcome: who drew it, and at what cost.
    """

    path: Path
    prompt: str
    k: float
    threshold: float
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The gain of collaboration on test prompts.

    Attributes:
        study: the figures.
        facts: what they were made with, ready for JSON.
    """

    study: Study
    facts: Mapping[str, Any]


def prompts_of(runner: Runner, split: Split, file: Path | None = None) -> list[str]:
    """The prompts of a file, or without one those of a split of the graph.

    Raises:
        BadPromptFile: the file cannot be used.
        NoTrials: the graph has no such prompts.
    """
    if file is not None:
        return read_prompts(file, check_prompt).texts
    found = PromptGraph(runner).texts(split)
    if not found:
        raise NoTrials(f"The graph has no {split} prompts: add some with `matchgraph route prompts`.")
    return found


def calibrate(
    runner: Runner,
    student: str,
    teacher: str,
    drawing: Drawing,
    oracle: Oracle,
    *,
    resolution_px: int | None = None,
    metric: str = "clip_score",
    prompts_file: Path | None = None,
    seed: int = 0,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
) -> Calibration:
    """Measure the scores of a student's images, and store them on its edge to its teacher.

    Args:
        runner: the connection.
        student: its id.
        teacher: its id.
        drawing: how the student draws, but for the side of the images; its steps are given.
        oracle: scores the images.
        resolution_px: that side; the student's own by default.
        metric: it scores by.
        prompts_file: one prompt on each line; the graph's validation prompts by default.
        seed: of the noise.
        on_progress: called with the student and the scored images.
        on_work: called with what there is to draw.

    Raises:
        CollaborationError, TrainingError: something about the pair, the prompts or the metric.
    """
    from matchgraph.training.pipelines.profile import profiler_of

    [scorer] = oracle.scorers(metric)
    prompts = prompts_of(runner, "validation", prompts_file)
    check_enough(prompts)
    folders = MatchingGraph(runner).model_folders()
    if resolution_px is None and student in folders:
        resolution_px = profiler_of(folders[student]).native_px
    if resolution_px is not None:
        drawing = replace(drawing, resolution_px=resolution_px)
    with loaded_pair(runner, student, oracle=oracle, teacher=teacher, drawing=drawing) as pair:
        cost = price(pair.student, drawing)
        pace = Pace(Work(len(prompts), len(prompts) * cost), on_work)

        drawn = 0

        def note(done: int, total: int) -> None:
            nonlocal drawn
            pace.drew(done - drawn, (done - drawn) * cost)
            drawn = done
            on_progress(student, done, total)

        found = calibrate_student(pair.student, scorer, prompts, drawing, seed=seed, on_progress=note)
    DistillationGraph(runner).save(Distilled(student, teacher, found))
    return found


def tune(
    runner: Runner,
    home: Path,
    student: str,
    budget_tflop: float,
    oracle: Oracle,
    *,
    corrections: Corrections = Corrections(),
    prompts_file: Path | None = None,
    samples: int = 1,
    seed: int = 0,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
) -> TuneResult:
    """Choose the teacher's correction, and the percentile below which it is used, for a given average cost.

    What is measured once is kept. The frontier goes into `collaboration/STUDENT/frontier.json`.

    Args:
        runner: the connection.
        home: the data folder.
        student: its id; calibrated.
        budget_tflop: what an image may cost on average.
        oracle: scores the images, by the metric of the calibration.
        corrections: what is tried.
        prompts_file: one prompt on each line; the graph's validation prompts by default.
        samples: images of each prompt.
        seed: of the noise.
        on_progress: called with a column of the trials and how many are measured.
        on_work: called with what there is to draw.

    Raises:
        InvalidPlan: the student alone costs more; nothing was drawn.
        CollaborationError, TrainingError: something about the pair, the prompts or the metric.
    """
    from matchgraph.training.files import write_json

    side = corrections.teacher_resolution_px
    with loaded_pair(runner, student, oracle=oracle, teacher_px=side) as pair:
        grid = corrections.grid((pair.calibration.drawing,), samples, seed)
        check_budget(budget_tflop, price(pair.student, pair.calibration.drawing))
        prompts = prompts_of(runner, "validation", prompts_file)
        check_enough(prompts)
        trials = measure_pair(pair, prompts, grid, oracle, home, on_progress, on_work)
        metric = pair.calibration.metric
    found = choices(trials, metric)
    best, kept = best_for(found, budget_tflop), frontier(found)
    folder = home / FOLDER / student
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "frontier.json", {"metric": metric, "frontier": frontier_rows(kept)})
    rollback, teacher = correction_of(best.correction, grid)
    tuned = Tuned(best.k, rollback, teacher, best.tflop, best.quality)
    distilled = replace(pair.distilled, tuned=tuned)
    DistillationGraph(runner).save(distilled)
    return TuneResult(distilled, best, kept)


def frontier_rows(kept: Sequence[Choice]) -> list[dict[str, Any]]:
    """Choices as JSON-ready rows; without thresholds, which may be infinite."""
    return [{name: value for name, value in asdict(choice).items() if name != "threshold"} for choice in kept]


def generate(
    runner: Runner,
    student: str,
    prompts: Sequence[str],
    out: Path,
    oracle: Oracle,
    *,
    k: float | None = None,
    rollback: float | None = None,
    regenerate: bool = False,
    teacher_steps: int | None = None,
    teacher_resolution_px: int | None = None,
    edit: Path | None = None,
    strength: float | None = None,
    controlnet: Path | None = None,
    control_image: Path | None = None,
    control_scale: float = 1.0,
    seed: int = 0,
    on_work: OnWork = no_work,
) -> Iterator[Drawn]:
    """Draw prompts with a student, and let its teacher improve rejected images.

    Args:
        runner: the connection.
        student: its id; calibrated, and tuned unless `k` and `teacher_steps` are given.
        prompts: at least one.
        out: folder for the images.
        oracle: scores the student's images, by the metric of the calibration.
        k: percentile that is required, in place of the tuned one.
        rollback: refine with it, in place of what was tuned.
        regenerate: draw rejected images from noise, in place of what was tuned.
        teacher_steps: in place of the tuned ones.
        teacher_resolution_px: in place of the tuned one.
        edit: a picture to edit (SDEdit), the same for each prompt.
        strength: of `edit`, share of the schedule that is repeated.
        controlnet: folder of a ControlNet that steers both.
        control_image: what it is shown, the same for each prompt.
        control_scale: how strongly it steers.
        seed: of the noise.
        on_work: called with what there is to draw, and what it is expected to cost.

    Yields:
        Each image as soon as it is written.

    Raises:
        NotCalibrated: the student is not calibrated, or not tuned and `k` or `teacher_steps` is missing.
        InvalidPlan: a value is out of range, or a ControlNet comes without its image or the reverse.
        CalibrationDiffers: the oracle is another than at calibration.
    """
    from matchgraph.training.images import load_rgb
    from matchgraph.training.pipelines.controlnet import controlled

    for prompt in prompts:
        check_prompt(prompt)
    if (controlnet is None) != (control_image is None):
        raise InvalidPlan("A ControlNet and a control image must be given together.")
    known = DistillationGraph(runner).load(student)
    # Said before the pipelines are loaded, which takes a while.
    if known is not None:
        calibration_of(known)
        if known.tuned is None and None in (k, teacher_steps):
            raise NotCalibrated(
                f"{student!r} is not tuned: run `matchgraph collaborate tune`, or give --percentile and "
                "--teacher-steps."
            )
    with ExitStack() as inside:
        if teacher_resolution_px is None and known is not None and known.tuned is not None:
            teacher_resolution_px = known.tuned.teacher.resolution_px
        pair = inside.enter_context(
            loaded_pair(runner, student, oracle=oracle, teacher_px=teacher_resolution_px)
        )
        if controlnet is not None:
            for loaded in (pair.student, pair.teacher):
                inside.enter_context(controlled(loaded, controlnet))
        calibration, tuned = pair.calibration, pair.distilled.tuned
        side = teacher_resolution_px or calibration.drawing.resolution_px
        if tuned is None:
            teacher = Drawing(teacher_steps, resolution_px=side, precision=calibration.drawing.precision)
        else:
            teacher = replace(tuned.teacher, steps=teacher_steps or tuned.teacher.steps, resolution_px=side)
            k = tuned.k if k is None else k
            rollback = tuned.rollback if rollback is None else rollback
        plan = Plan(
            calibration.drawing,
            Correction(teacher, None if regenerate else rollback),
            seed,
            strength=strength,
            control_scale=control_scale,
        )
        assert k is not None
        threshold = calibration.threshold(k)
        [scorer] = oracle.scorers(calibration.metric)
        check_calibrated(calibration, scorer, plan.student)
        both = Collaboration(pair.student, pair.teacher, scorer, threshold, plan)
        pictures, controls = (
            None if path is None else [load_rgb(path)] * len(prompts) for path in (edit, control_image)
        )
        expected = both.student_tflop + k / 100 * both.teacher_tflop
        on_work(Work(len(prompts), len(prompts) * expected))
        out.mkdir(parents=True, exist_ok=True)
        numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]
        for outcome in both.generate(prompts, numbers=numbers, pictures=pictures, controls=controls):
            prompt = prompts[outcome.place]
            path = out / f"{outcome.place:04d}-{prompt_id(prompt)}.png"
            outcome.image.save(path)
            yield Drawn(path, prompt, k, threshold, outcome)


def evaluate(
    runner: Runner,
    home: Path,
    student: str,
    oracle: Oracle,
    *,
    corrections: Corrections = Corrections(),
    student_steps: Sequence[int] = (),
    reference: DatasetFolder | None = None,
    tune_prompts_file: Path | None = None,
    test_prompts_file: Path | None = None,
    samples: int = 4,
    seed: int = 0,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
) -> Evaluation:
    """Measure the gain of collaboration, tuned on some prompts and tested on others.

    Prompts that the student was distilled on belong in neither.

    Args:
        runner: the connection.
        home: the data folder.
        student: its id; calibrated.
        oracle: scores the images, by the metric of the calibration.
        corrections: what is tried.
        student_steps: further step counts of the student alone, to compare with.
        reference: folder of real images for the Frechet distance.
        tune_prompts_file: one prompt on each line; the graph's validation prompts by default.
        test_prompts_file: likewise; the graph's test prompts by default.
        samples: images of each prompt.
        seed: of noise and bootstrap.
        on_progress: called with a column of the trials and how many are measured.
        on_work: called with what there is to draw for the tuning prompts, then for the test prompts.

    Raises:
        CollaborationError, TrainingError: something about the pair, the prompts or the metric.
    """
    from importlib.metadata import version

    from matchgraph.training.images import list_captioned_images, load_rgb
    from matchgraph.training.measure.extractors import load_clip

    side = corrections.teacher_resolution_px
    with loaded_pair(runner, student, oracle=oracle, teacher_px=side) as pair:
        calibration = pair.calibration
        asked = [
            prompts_of(runner, "validation", tune_prompts_file),
            prompts_of(runner, "test", test_prompts_file),
        ]
        drawing = calibration.drawing
        further = tuple(replace(drawing, steps=steps) for steps in student_steps if steps != drawing.steps)
        grid = corrections.grid((drawing, *further), samples, seed)
        check_enough(asked[0])
        tuned_on, test = (
            measure_pair(pair, prompts, grid, oracle, home, on_progress, on_work) for prompts in asked
        )
    statistics = None
    if reference is not None:
        paths = [image.path for image in list_captioned_images(reference)]
        extractor = load_clip(oracle.probe, device=oracle.device)
        statistics = extractor.statistics(load_rgb(path) for path in paths)
    study = evaluate_trials(tuned_on, test, calibration.metric, reference=statistics, seed=seed)
    facts = {
        "student": pair.distilled.student,
        "teacher": pair.distilled.teacher,
        "oracle": {"metric": calibration.metric, "scorer": calibration.scorer},
        "prompts": {"validation": len(asked[0]), "test": len(asked[1])},
        "images per prompt": samples,
        "seed": seed,
        "versions": {name: version(name) for name in ("matchgraph", "torch", "diffusers", "numpy")},
    }
    return Evaluation(study, facts)
