"""`matchgraph choose`: one graph, three levels. The model for a set of images, the candidate for each prompt,
and for each image whether the student's will do.

What each level is worth is seen by drawing for real with and without it, with the same noise: from one choice
for everything (the candidate with the best average quality that the budget pays for), by choosing for each
prompt, and by letting teachers step in, both among all candidates and among those of the models that were
chosen for the images and of their students.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from matchgraph.cli.route import device_option, json_option, probe_option, seed_option

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.distillation import Distilled
    from matchgraph.graphdb.prompts import Variant
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.router import Router
    from matchgraph.training.measure.prompts import PromptEncoder
    from matchgraph.training.measure.quality import Scorer

BATCH = 32


@dataclass(frozen=True)
class Way:
    """A candidate, alone or with its teacher behind it.

    Attributes:
        variant: the candidate.
        tflop: to expect of an image, the teacher's share included.
        gain: quality that the teacher adds on average.
        distilled: student and teacher, where the teacher steps in.
        adapter: what the model was fine-tuned to, see `training.sampling.generate.sample_images`.
    """

    variant: Variant
    tflop: float
    gain: float = 0.0
    distilled: Distilled | None = None
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """The candidate, and what is with it."""
        return (
            self.variant.id
            + (" + adapter" if self.adapter else "")
            + (" + teacher" if self.distilled else "")
        )


@dataclass(frozen=True)
class Level:
    """What one level made of the prompts.

    Attributes:
        name: of the level.
        ways: candidate of each prompt, `+ adapter` where it was fine-tuned, `+ teacher` where one stood
            behind it.
        expected_tflop: of an image, on average.
        tflop: spent, likewise.
        expected_quality: by the metric, on average.
        quality: measured, likewise.
        over_one_choice: how far that is above the first level, with a 95 % bootstrap interval over prompts.
        distance: Frechet distance of the images to those given, in the probe's space.
        by_teacher: share of the images that a teacher refined or drew.
    """

    name: str
    ways: tuple[str, ...]
    expected_tflop: float
    tflop: float
    expected_quality: float
    quality: float
    over_one_choice: tuple[float, float, float]
    distance: float
    by_teacher: float


@click.command()
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the images that the model is for.",
)
@click.option(
    "--prompts",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is to be drawn, one prompt a line.",
)
@click.option(
    "--budget", required=True, type=click.FloatRange(0, min_open=True), help="TFLOP an image, on average."
)
@probe_option
@click.option("--metric", default="clip_score", show_default=True, help="Quality metric of a fitted router.")
@click.option(
    "--models",
    "count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many of the models that are best for the images may draw.",
)
@click.option(
    "--adapter",
    "adapters",
    metavar="MODEL=FILE",
    multiple=True,
    callback=lambda _context, _parameter, given: adapters_of(given),
    help="What a model was fine-tuned to on the images: it draws with that where it was chosen for them.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the last images.")
@seed_option("the noise and the bootstrap")
@device_option
@json_option
def choose(
    images: Path,
    file: Path,
    budget: float,
    probe: str,
    metric: str,
    count: int,
    adapters: Mapping[str, Path],
    out: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Choose model, candidate and teacher for images and prompts, draw, and say what each level was worth.

    Needs a graph with results, scored prompts, a fitted router and, for the last level, tuned students. What
    a model will be after fine-tuning is what it is chosen for: fine-tune it (`matchgraph ingest run`) and
    give its adapter to see it so. Its scores are expected to be those of the model as it is.
    """
    from matchgraph.cli.collaborate import prompts_of, scorer_of
    from matchgraph.cli.route import model_folders, store
    from matchgraph.graphdb.connection import connect
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.prompts import load_prompt_encoder

    prompts = prompts_of("test", file)
    if not prompts:
        raise click.UsageError(f"{file} holds no prompt.")
    chosen = models_for(images, probe, count)
    encoder = load_prompt_encoder(probe, device=device)
    scorer = scorer_of(metric, probe, None, None, device)
    kept = store()
    with connect() as runner:
        from matchgraph.graphdb.prompts import PromptGraph

        graph = PromptGraph(runner)
        router = kept.router(kept.load(metric), graph, encoder, exact=True)
        validation = [prompt.text for prompt in graph.prompts() if prompt.split == "validation"]
        students = students_of(runner, router.variants)
        folders = model_folders(runner)
    planned = plans(router, encoder, validation, prompts, set(chosen), students, adapters, budget, metric)
    artist = Artist(folders, scorer, prompts, seed, device)
    extractor = load_clip(probe, device=device)
    levels: list[Level] = []
    first: np.ndarray | None = None
    for name, (ways, expected) in planned.items():
        drawn, spent, teacher = artist.draw(ways)
        quality = scorer.score(prompts, drawn)
        first = quality if first is None else first
        levels.append(
            Level(
                name,
                tuple(way.name for way in ways),
                float(np.mean([way.tflop for way in ways])),
                float(np.mean(spent)),
                expected,
                float(quality.mean()),
                over(quality, first, seed),
                distance(extractor, drawn, images),
                float(np.mean(teacher)),
            )
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(drawn):
            image.save(out / f"{place:04d}.png")
    if as_json:
        click.echo(json.dumps({"models": chosen, "levels": [asdict(level) for level in levels]}))
        return
    click.echo(f"For {images}: {', '.join(chosen)}.")
    for level in levels:
        value, low, high = level.over_one_choice
        click.echo(
            f"{level.name}: {metric} {level.quality:.4f} ({level.expected_quality:.4f} expected, "
            f"{value:+.4f} [{low:+.4f}, {high:+.4f}] over one choice) for {level.tflop:.4g} TFLOP "
            f"({level.expected_tflop:.4g} expected), distance to the images {level.distance:.2f}, "
            f"{100 * level.by_teacher:.0f} % by a teacher; {most(level.ways)}."
        )


def adapters_of(given: Sequence[str]) -> dict[str, Path]:
    """Adapters by model, from `MODEL=FILE`.

    Raises:
        BadParameter: one is of another form, its file is not there, or a model has two.
    """
    found: dict[str, Path] = {}
    for each in given:
        model, separator, file = each.partition("=")
        if not (model and separator and file):
            raise click.BadParameter(f"{each!r} is not of the form MODEL=FILE.")
        if not Path(file).exists():
            raise click.BadParameter(f"There is no {file}, which is to be the adapter of {model}.")
        if model in found:
            raise click.BadParameter(f"{model} has two adapters: give one.")
        found[model] = Path(file)
    return found


def models_for(images: Path, probe: str, count: int) -> list[str]:
    """The models that are expected to be best for some images, by the default recipe."""
    from matchgraph.cli.display import progress_bar
    from matchgraph.cli.options import opened_graph
    from matchgraph.ingest.tables.new_dataset import NewFolder
    from matchgraph.predictor.workflow import predict

    with progress_bar() as progress, opened_graph() as (graph, _):
        answer = predict(graph, NewFolder(images, probe), on_progress=progress)
    return [ranked.model for ranked in answer.ranking[:count]]


def students_of(runner: Runner, variants: Sequence[Variant]) -> dict[str, Distilled]:
    """Students among the models of some candidates, by id."""
    from matchgraph.graphdb.distillation import DistillationGraph

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
) -> dict[str, tuple[list[Way], float]]:
    """For each level the way of each prompt, and the mean quality to expect.

    Students of a chosen model are candidates with it, unless it has an adapter and they have none: then they
    do not draw what it was chosen for. Behind a student with an adapter there is no teacher, as its threshold
    was calibrated without.

    Raises:
        BudgetTooSmall: the cheapest candidate of the chosen models costs more.
        UsageError: an adapter is of no model that was chosen.
    """
    from matchgraph.routing.errors import BudgetTooSmall
    from matchgraph.routing.policy import choose as route
    from matchgraph.routing.policy import lambda_for_budget

    known = router.compared(encoder.encode(validation))
    asked = router.compared(encoder.encode(prompts))
    scored = ~np.isnan(known).any(axis=0)
    taught = {model for model, student in students.items() if student.teacher in chosen}
    plain = {model for model in taught - adapters.keys() if students[model].teacher in adapters}
    own = np.array([variant.model in (chosen | taught) - plain for variant in router.variants])
    if strange := sorted(adapters.keys() - chosen - taught):
        raise click.UsageError(
            f"{strange[0]} was not chosen for the images ({', '.join(sorted(chosen))} was): leave its "
            "adapter out, or raise --models."
        )
    alone = [Way(variant, variant.tflop) for variant in router.variants]
    tuned = [replace(way, adapter=adapters.get(way.variant.model)) for way in alone]

    def with_backed(ways: Sequence[Way]) -> list[tuple[int, Way]]:
        backed = [with_teacher(way, students.get(way.variant.model), metric) for way in ways]
        return [*enumerate(ways), *((number, way) for number, way in enumerate(backed) if way.distilled)]

    def fixed(ways: Sequence[Way], allowed: np.ndarray) -> tuple[list[Way], float]:
        cost = router.cost
        affordable = np.flatnonzero(allowed & scored & (cost <= budget))
        if not len(affordable):
            least = cost[allowed & scored].min() if (allowed & scored).any() else float("nan")
            raise BudgetTooSmall(
                f"A budget of {budget:g} TFLOP is below {least:g}, what the cheapest candidate of "
                f"{', '.join(sorted(chosen))} costs: raise it, or add a cheaper one by `route variants`."
            )
        best = affordable[known[:, affordable].mean(axis=0).argmax()]
        return [ways[best]] * len(prompts), float(asked[:, best].mean())

    def routed(numbered: Iterable[tuple[int, Way]], within: np.ndarray) -> tuple[list[Way], float]:
        """By candidates with their numbers among the router's."""
        allowed = [(number, way) for number, way in numbered if within[number] and scored[number]]
        some = [number for number, _ in allowed]
        cost = np.array([way.tflop for _, way in allowed])
        gain = np.array([way.gain for _, way in allowed])
        lam = lambda_for_budget(known[:, some] + gain, cost, budget)
        picked = route(asked[:, some] + gain, cost, lam)
        expected = (asked[:, some] + gain)[np.arange(len(prompts)), picked].mean()
        return [allowed[place][1] for place in picked], float(expected)

    everything = np.ones(len(alone), dtype=bool)
    return {
        "one choice": fixed(alone, everything),
        "prompt": routed(enumerate(alone), everything),
        "prompt + image": routed(with_backed(alone), everything),
        "model": fixed(tuned, own),
        "model + prompt": routed(enumerate(tuned), own),
        "model + prompt + image": routed(with_backed(tuned), own),
    }


def with_teacher(way: Way, distilled: Distilled | None, metric: str) -> Way:
    """The way with its teacher behind it, if it is a student that was tuned as it is drawn here."""
    if way.adapter or distilled is None or distilled.tuned is None or distilled.calibration is None:
        return way
    calibration, variant = distilled.calibration, way.variant
    if (variant.drawing, metric) != (calibration.drawing, calibration.metric):
        return way
    gain = distilled.tuned.quality - float(np.mean(calibration.percentiles))
    return Way(variant, distilled.tuned.tflop, gain, distilled)


class Artist:
    """Draws prompts by the ways chosen for them.

    Args:
        folders: of the models' pipelines.
        scorer: the oracle of collaborations.
        prompts: n of them; noise follows from seed and prompt, so it is the same for every level.
        seed: of the noise.
        device: `auto` or a torch device name.
    """

    def __init__(
        self, folders: Mapping[str, Path], scorer: Scorer, prompts: Sequence[str], seed: int, device: str
    ) -> None:
        from matchgraph.graphdb.prompts import prompt_id

        self._folders, self._scorer, self._prompts = folders, scorer, prompts
        self._seed, self._device = seed, device
        self._numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]

    def draw(self, ways: Sequence[Way]) -> tuple[list[Image.Image], list[float], list[bool]]:
        """Images, TFLOP spent, and whether a teacher had a hand in it, of each prompt."""
        images: dict[int, tuple[Image.Image, float, bool]] = {}
        for way in dict.fromkeys(ways):
            rows = [row for row, own in enumerate(ways) if own == way]
            images |= self._together(way, rows) if way.distilled else self._alone(way, rows)
        found = [images[row] for row in range(len(ways))]
        return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]

    def _alone(self, way: Way, rows: Sequence[int]) -> dict[int, tuple[Image.Image, float, bool]]:
        from matchgraph.training.config import SampleConfig
        from matchgraph.training.pipelines.loading import opened
        from matchgraph.training.sampling.generate import stream_images

        variant = way.variant
        config = SampleConfig(len(rows), variant.drawing, self._seed, BATCH)
        with opened(self._folders[variant.model], device=self._device, precision="fp32") as loaded:
            drawn = stream_images(
                loaded,
                way.adapter,
                [self._prompts[row] for row in rows],
                config,
                numbers=[self._numbers[row] for row in rows],
            )
            return {row: (image, variant.tflop, False) for row, image in zip(rows, drawn, strict=True)}

    def _together(self, way: Way, rows: Sequence[int]) -> dict[int, tuple[Image.Image, float, bool]]:
        from matchgraph.collaboration.calibration import check_calibrated
        from matchgraph.collaboration.collaborate import Collaboration
        from matchgraph.collaboration.plan import Correction, Plan
        from matchgraph.training.pipelines.loading import LoadedPipeline

        distilled = way.distilled
        assert distilled is not None
        calibration, tuned = distilled.calibration, distilled.tuned
        assert calibration is not None
        assert tuned is not None
        plan = Plan(calibration.drawing, Correction(tuned.teacher, tuned.rollback), self._seed, BATCH)
        check_calibrated(calibration, self._scorer, plan.student)
        with (
            LoadedPipeline(self._folders[distilled.student], device=self._device) as student,
            LoadedPipeline(self._folders[distilled.teacher], device=self._device) as teacher,
        ):
            both = Collaboration(
                student, teacher, self._scorer, calibration.threshold(tuned.k), plan
            ).generate([self._prompts[row] for row in rows], numbers=[self._numbers[row] for row in rows])
            found = {}
            for outcome in both:
                if outcome.failure is not None:
                    click.echo(f"{self._prompts[rows[outcome.place]]!r}: {outcome.failure}", err=True)
                by_teacher = outcome.decision in ("refined", "regenerated")
                found[rows[outcome.place]] = (outcome.image, outcome.tflop, by_teacher)
            return found


def over(quality: np.ndarray, first: np.ndarray, seed: int) -> tuple[float, float, float]:
    """By how much one level is above the first, on the same prompts."""
    from matchgraph.stats.intervals import bootstrap

    def figures(weights: np.ndarray) -> list[float]:
        return [float(np.average(quality - first, weights=weights))]

    [interval] = bootstrap(figures, len(quality), seed=seed)
    return interval.value, interval.low, interval.high


def distance(extractor: Any, drawn: Sequence[Image.Image], folder: Path) -> float:
    """Frechet distance of images to those of a folder."""
    from matchgraph.training.images import list_captioned_images, load_rgb
    from matchgraph.training.measure.frechet import frechet_distance

    own = extractor.statistics(drawn)
    real = extractor.statistics(load_rgb(image.path) for image in list_captioned_images(folder))
    return frechet_distance(own.mean, own.covariance, real.mean, real.covariance)


def most(ways: Sequence[str]) -> str:
    """The three candidates that drew most of the prompts."""
    from collections import Counter

    common = Counter(ways).most_common(3)
    return ", ".join(f"{100 * count / len(ways):.0f} % {name}" for name, count in common)
