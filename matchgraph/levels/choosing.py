"""The three levels in one go: the model for a set of images, the candidate for each prompt, and for each
image whether the student's will do.

All three serve one measure: nearness to the images, or a metric of images and prompts. Everything is drawn
once, by all levels together. What each level is worth is measured on request, by drawing with and without it,
with the same noise: from one choice for everything (the candidate with the best average quality that the
budget pays for), by choosing for each prompt, and by letting teachers step in, both among all candidates and
among those of the chosen models and of their students.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.candidates import Candidate, PromptDrawer
from matchgraph.collaboration.calibration import FEWEST_PROMPTS, check_enough
from matchgraph.errors import Error
from matchgraph.graphdb.distillation import DistillationGraph
from matchgraph.graphdb.prompt_models import check_prompt
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.tables.new_dataset import NewFolder
from matchgraph.predictor.workflow import predict
from matchgraph.progress import OnWork, Pace, Progress, Work, no_progress, no_work
from matchgraph.routing.errors import BudgetTooSmall
from matchgraph.routing.policy import choose as choose_candidates
from matchgraph.routing.policy import lambda_for_budget
from matchgraph.stats.intervals import bootstrap
from matchgraph.training.prompt_files import read_prompts

if TYPE_CHECKING:
    from matchgraph.graphdb.distillation import Distilled
    from matchgraph.graphdb.prompt_models import Variant
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.router import Router
    from matchgraph.routing.store import RouterStore
    from matchgraph.training.images import DatasetFolder
    from matchgraph.training.measure.frechet import GaussianStatistics
    from matchgraph.training.measure.prompts import PromptEncoder


ONE_CHOICE = "one choice"


class NotChosen(Error):
    """An adapter or scores are not of what was chosen."""


@dataclass(frozen=True)
class Level:
    """What one level made of the prompts.

    Attributes:
        name: of the level.
        candidates: name of each prompt's candidate, see `Candidate.name`.
        expected_tflop: of an image, on average.
        tflop: spent, likewise.
        expected_quality: by the metric, on average.
        quality: measured, likewise.
        over_one_choice: difference to the first level, with a 95 % bootstrap interval over prompts; None
            where levels are not compared.
        over_fewer: likewise to the level without the last of its parts: `model + prompt` to `model`.
        distance: Frechet distance of the images to those given, in the probe's space; None without.
        by_teacher: share of the images that a teacher refined or drew.
    """

    name: str
    candidates: tuple[str, ...]
    expected_tflop: float
    tflop: float
    expected_quality: float
    quality: float
    over_one_choice: tuple[float, float, float] | None
    over_fewer: tuple[float, float, float] | None
    distance: float | None
    by_teacher: float


def choose(
    runner: Runner,
    store: RouterStore,
    images: DatasetFolder | None,
    prompts_file: Path,
    models: Sequence[str] | int,
    budget_tflop: float,
    probe: str,
    *,
    metric: str = "clip_score",
    weights: Mapping[str, Path | None] | None = None,
    compare: bool = False,
    adapters: Mapping[str, Path] | None = None,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
    on_failure: Callable[[str, str], None] = lambda *_: None,
) -> tuple[list[str], list[Level]]:
    """Draw prompts by all three levels.

    Args:
        runner: the connection.
        store: has a router for the metric.
        images: folder of images that distances are measured to, and nearness; the latter needs one.
        prompts_file: what to draw, one prompt on each line.
        models: chosen for the images, see `models_for`; or how many, to be chosen by the metric.
        budget_tflop: what an image may cost on average.
        probe: the CLIP that reads prompts and looks at images.
        metric: the measure that all levels serve; the router's.
        weights: of what scores images, and mixtures, see `training.measure.scorers.load_scorers`.
        compare: also draw by fewer levels, and measure what each level is worth.
        adapters: what models were fine-tuned to on the images, by model.
        out: folder for the images of the last level.
        seed: of the noise and the bootstrap.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU for the pipelines to stay within; by default what is free.
        on_progress: called with a level and how many are drawn.
        on_work: called with what there is to draw, and as the pace is known with how long that takes.
        on_failure: called with a prompt and what failed about its image, which is then the student's.

    Returns:
        The models, and the levels: all three together, or first all that they are compared with, from one
        choice for everything on.

    Raises:
        BudgetTooSmall: the cheapest candidate of the chosen models costs more.
        NotChosen: an adapter is of no chosen model, or the scores of nearness are to other images.
        InvalidValue: a candidate of the router is not drawn by a pipeline of the graph.
        RoutingError, CollaborationError, TrainingError: something about router, students or files.
    """
    from matchgraph.training.images import list_captioned_images, load_rgb
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.measure.scorers import load_scorers

    prompts = read_prompts(prompts_file, check_prompt).texts
    encoder = load_prompt_encoder(probe, device=device)
    near = None if images is None else images.folder
    [scorer] = load_scorers([metric], probe, weights={**(weights or {}), "nearness": near}, device=device)
    graph = PromptGraph(runner)
    if metric == "nearness" and (made := graph.table(metric).scorer) not in ("", scorer.hash):
        raise NotChosen(
            f"The graph's scores of nearness are to other images ({made}, not {scorer.hash}): give those, or "
            "score by these with `route score`."
        )
    router = store.router(store.load(metric), graph, encoder, exact=True)
    for variant in router.variants:
        variant.require_drawing("choose by another metric")
    validation = graph.texts("validation")
    if isinstance(models, int):
        models = models_by(router, router.compared(encoder.encode(validation)), budget_tflop, models)
    planned = plans(
        router,
        encoder,
        validation,
        prompts,
        set(models),
        students_of(runner, router.variants),
        adapters or {},
        budget_tflop,
        metric,
    )
    if not compare:
        planned = dict([list(planned.items())[-1]])
    drawings = [candidate for candidates, _ in planned.values() for candidate in candidates]
    cost, count = sum(candidate.tflop for candidate in drawings), len(drawings)
    held_out = [*validation, *graph.texts("train")][: max(len(validation), FEWEST_PROMPTS)]
    for candidate in {candidate for candidate in drawings if candidate.teacher_adapter}:
        if drawings.count(candidate) < FEWEST_PROMPTS:
            # Its threshold needs images of its own.
            check_enough(held_out)
            cost, count = cost + len(held_out) * candidate.variant.cost, count + len(held_out)
    pace = Pace(Work(count, cost), on_work)
    folders = MatchingGraph(runner).model_folders()
    drawer = PromptDrawer(folders, scorer, prompts, seed, device, gpu_memory, on_failure, held_out)
    extractor = load_clip(probe, device=device)
    real = None
    if images is not None:
        real = extractor.statistics(load_rgb(image.path) for image in list_captioned_images(images))
    levels: list[Level] = []
    measured: dict[str, np.ndarray] = {}
    for name, (candidates, expected) in planned.items():
        on_progress(name, len(levels), len(planned))
        drawn = drawer.draw(candidates, pace.drew)
        pictures = [each.image for each in drawn]
        quality = measured[name] = scorer.score(prompts, pictures)
        levels.append(
            Level(
                name,
                tuple(candidate.name for candidate in candidates),
                float(np.mean([candidate.tflop for candidate in candidates])),
                float(np.mean([each.tflop for each in drawn])),
                expected,
                float(quality.mean()),
                over(quality, measured[ONE_CHOICE], seed) if compare else None,
                over(quality, measured[fewer(name)], seed) if compare else None,
                None if real is None else distance(extractor.statistics(pictures), real),
                float(np.mean([each.by_teacher for each in drawn])),
            )
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for place, picture in enumerate(pictures):
            picture.save(out / f"{place:04d}.png")
    return list(models), levels


def models_for(
    graph: MatchingGraph,
    images: DatasetFolder,
    probe: str,
    count: int = 1,
    *,
    on_progress: Progress = no_progress,
) -> tuple[list[str], tuple[str, ...]]:
    """The models that are predicted to be best for a folder of images, by the default method, and the notes
    of the prediction.

    Args:
        graph: models, datasets and results.
        images: the folder.
        probe: the CLIP that looks at the images.
        count: how many models.
        on_progress: see `predictor.workflow.predict`.
    """
    target = NewFolder(images.folder, probe, images.caption_column)
    answer = predict(graph, target, on_progress=on_progress)
    return [ranked.model for ranked in answer.ranking[:count]], answer.notes


def models_by(router: Router, known: np.ndarray, budget: float, count: int = 1) -> list[str]:
    """The models whose best single candidate within a budget has the best average quality.

    Args:
        router: has the candidates.
        known: what it expects of the validation prompts, (n, m).
        budget: TFLOP of an image.
        count: how many models.

    Raises:
        BudgetTooSmall: the cheapest candidate costs more.
    """
    best: dict[str, float] = {}
    for variant, quality in zip(router.variants, known.mean(axis=0), strict=True):
        if variant.cost <= budget and not np.isnan(quality):
            best[variant.model] = max(float(quality), best.get(variant.model, float("-inf")))
    if not best:
        raise BudgetTooSmall(
            f"A budget of {budget:g} TFLOP is below {router.cost.min():g}, the cost of the cheapest "
            "candidate: raise it, or add a cheaper one with `route variants`."
        )
    return sorted(best, key=lambda model: -best[model])[:count]


def students_of(runner: Runner, variants: Sequence[Variant]) -> dict[str, Distilled]:
    """Students among the models of some candidates, by id."""
    graph = DistillationGraph(runner)
    found = {model: graph.load(model) for model in sorted({variant.model for variant in variants})}
    return {model: distilled for model, distilled in found.items() if distilled is not None}


def plans(
    router: Router,
    encoder: PromptEncoder,
    validation: Sequence[str],
    prompts: Sequence[str],
    chosen: set[str],
    students: Mapping[str, Distilled],
    adapters: Mapping[str, Path],
    budget: float,
    metric: str,
) -> dict[str, tuple[list[Candidate], float]]:
    """For each level the candidate of each prompt, and the mean quality to expect.

    Students of a chosen model are candidates with it, unless it has an adapter and they have none: then they
    do not draw what it was chosen for. Behind a student with an adapter is its teacher if that has one, with
    the gain that was measured without.

    Raises:
        BudgetTooSmall: the cheapest candidate of the chosen models costs more.
        NotChosen: an adapter is of no model that was chosen.
    """
    known = router.compared(encoder.encode(validation))
    asked = router.compared(encoder.encode(prompts))
    scored = ~np.isnan(known).any(axis=0)
    taught = {model for model, student in students.items() if student.teacher in chosen}
    plain = {model for model in taught - adapters.keys() if students[model].teacher in adapters}
    own = np.array([variant.model in (chosen | taught) - plain for variant in router.variants])
    if strange := sorted(adapters.keys() - chosen - taught):
        raise NotChosen(
            f"{strange[0]} was not chosen for the images ({', '.join(sorted(chosen))} was): leave its "
            "adapter out, or raise --models."
        )
    alone = [Candidate(variant, variant.cost) for variant in router.variants]
    tuned = [replace(candidate, adapter=adapters.get(candidate.variant.model)) for candidate in alone]

    def with_backed(candidates: Sequence[Candidate]) -> list[tuple[int, Candidate]]:
        backed = [
            with_teacher(candidate, students.get(candidate.variant.model), metric, adapters)
            for candidate in candidates
        ]
        return [
            *enumerate(candidates),
            *((number, candidate) for number, candidate in enumerate(backed) if candidate.distilled),
        ]

    def fixed(candidates: Sequence[Candidate], allowed: np.ndarray) -> tuple[list[Candidate], float]:
        cost = router.cost
        affordable = np.flatnonzero(allowed & scored & (cost <= budget))
        if not len(affordable):
            least = cost[allowed & scored].min() if (allowed & scored).any() else float("nan")
            raise BudgetTooSmall(
                f"A budget of {budget:g} TFLOP is below {least:g}, the cost of the cheapest candidate of "
                f"{', '.join(sorted(chosen))}: raise it, or add a cheaper one with `route variants`."
            )
        best = affordable[known[:, affordable].mean(axis=0).argmax()]
        return [candidates[best]] * len(prompts), float(asked[:, best].mean())

    def routed(
        numbered: Iterable[tuple[int, Candidate]], within: np.ndarray
    ) -> tuple[list[Candidate], float]:
        """By candidates with their numbers among the router's."""
        allowed = [(number, candidate) for number, candidate in numbered if within[number] and scored[number]]
        some = [number for number, _ in allowed]
        cost = np.array([candidate.tflop for _, candidate in allowed])
        gain = np.array([candidate.gain for _, candidate in allowed])
        lam = lambda_for_budget(known[:, some] + gain, cost, budget)
        picked = choose_candidates(asked[:, some] + gain, cost, lam)
        expected = (asked[:, some] + gain)[np.arange(len(prompts)), picked].mean()
        return [allowed[place][1] for place in picked], float(expected)

    everything = np.ones(len(alone), dtype=bool)
    return {
        ONE_CHOICE: fixed(alone, everything),
        "prompt": routed(enumerate(alone), everything),
        "prompt + image": routed(with_backed(alone), everything),
        "model": fixed(tuned, own),
        "model + prompt": routed(enumerate(tuned), own),
        "model + prompt + image": routed(with_backed(tuned), own),
    }


def with_teacher(
    candidate: Candidate, distilled: Distilled | None, metric: str, adapters: Mapping[str, Path] | None = None
) -> Candidate:
    """The candidate with its teacher behind it, if it is a student that was tuned as it is drawn here.

    Args:
        candidate: as it is drawn alone.
        distilled: the student and its teacher; None where its model is no student.
        metric: that the oracle is to score by.
        adapters: of models; a student with one needs a teacher with one.
    """
    if distilled is None or distilled.tuned is None or distilled.calibration is None:
        return candidate
    teachers = (adapters or {}).get(distilled.teacher) if candidate.adapter else None
    calibration, variant = distilled.calibration, candidate.variant
    if (variant.drawing, metric) != (calibration.drawing, calibration.metric) or (
        candidate.adapter and not teachers
    ):
        return candidate
    gain = distilled.tuned.quality - float(np.mean(calibration.percentiles))
    return Candidate(variant, distilled.tuned.tflop, gain, distilled, candidate.adapter, teachers)


def fewer(level: str) -> str:
    """The level without the last of its parts."""
    return level.rpartition(" + ")[0] or ONE_CHOICE


def over(quality: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float, float]:
    """By how much one level is above another, on the same prompts."""

    def figures(weights: np.ndarray) -> list[float]:
        return [float(np.average(quality - other, weights=weights))]

    [interval] = bootstrap(figures, len(quality), seed=seed)
    return interval.value, interval.low, interval.high


def distance(one: GaussianStatistics, other: GaussianStatistics) -> float:
    """Frechet distance between the features of two sets of images."""
    from matchgraph.training.measure.frechet import frechet_distance

    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
