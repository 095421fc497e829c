"""Carrying out one fine-tuning run with the training package; the only module here that loads torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.ingest.errors import ExtractorMismatch
from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.estimates import AFTER, BEFORE, TRAINING
from matchgraph.ingest.runs.memory import WHAT_HELPS, MemoryPlans, carried_out, check_fits, in_words
from matchgraph.ingest.runs.pages import GRID_FILE
from matchgraph.ingest.runs.pretrained import pretrained_scores
from matchgraph.ingest.runs.run import Job, OnStep, Outcome
from matchgraph.training.errors import OutOfMemory
from matchgraph.training.measure.extractors import load_extractor, parse_extractors, require_images
from matchgraph.training.measure.frechet import GaussianStatistics
from matchgraph.training.measure.scoring import Score, Scorer
from matchgraph.training.sampling.captions import draw_captions

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.config import SampleConfig
    from matchgraph.training.measure.extractors import Extractor
    from matchgraph.training.memory.plan import MemoryPlan
    from matchgraph.training.pipelines.cache import EncodingCache
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.pipelines.placement import Placement

# Maps images to a score for each metric.
Measuring = Callable[[Iterable["Image.Image"]], tuple[Score, ...]]

GRID_SIDE = 4
CHECKPOINT_STEPS = 500
# Runs of no more steps and samples than this come to every stage soon enough.
SHORT = 100


@dataclass
class LoraExecutor:
    """Fine-tunes and scores by every metric asked for; keeps one model loaded, as runs come grouped by model.

    Args:
        execution: device, batches, and how memory is saved.
        checkpoint_steps: training steps between two checkpoints.
        cache: where encodings of images and captions are kept for other runs; None for nowhere.
        extractors: by hash, those that are loaded already; others are loaded from where the run says.
        features: where features of datasets are kept for other runs; None for nowhere.
        pretrained: where scores of pretrained models are kept for other runs; None for beside the checkpoint.
        footprints: where estimates of models' memory are kept; None for nowhere.
        notice: told of what a user should know, such as how a model is made to fit.
    """

    execution: Execution = field(default_factory=Execution)
    checkpoint_steps: int = CHECKPOINT_STEPS
    cache: EncodingCache | None = None
    extractors: dict[str, Extractor] = field(default_factory=dict)
    features: Path | None = None
    pretrained: Path | None = None
    footprints: Path | None = None
    notice: Callable[[str], None] = lambda _: None
    _loaded: LoadedPipeline | None = field(default=None, init=False, repr=False)
    _plans: MemoryPlans = field(init=False, repr=False)
    _rehearsed: set[object] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self._plans = MemoryPlans(self.execution, self.footprints)

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score the pretrained model, fine-tune it, and score it again; see `ingest.runs.run.Executor`.

        Where a stage runs out of memory, the run goes on by the next smaller plan.

        Raises:
            InsufficientMemory: the model does not fit the device.
            OutOfMemory: it should, and no smaller plan is left.
        """
        # Loaded first, so that what they take is known.
        self._extractors(job)
        plan = self._plans.of(job.model_folder, job.config, self.close)
        lacks: list[str] = []
        while True:
            if plan is not None:
                check_fits(job.model, plan)
                if plan.choices():
                    self.notice(f"{job.model}: {in_words(plan)}.")
            try:
                return self._carried_out(job, plan, lacks, on_step)
            except OutOfMemory as error:
                stage, reason = error.stage, str(error)
            # Here nothing holds the tensors of what failed any more.
            self.close()
            plan = self._plans.after(job.model_folder, job.config, stage)
            if plan is None:
                raise OutOfMemory(stage, f"{reason}. No smaller plan is left. {WHAT_HELPS}.")
            lacks.append(reason)
            self.notice(f"{job.model}: {reason}; going on with a smaller plan.")
            job = replace(job, resume_from=job.checkpoint)

    def _carried_out(self, job: Job, plan: MemoryPlan | None, lacks: list[str], on_step: OnStep) -> Outcome:
        from matchgraph.training.tune.checkpoint import Checkpoints, checkpoint_step
        from matchgraph.training.tune.finetune import fine_tune

        scorer = Scorer(job.config.metrics, self._extractors(job), self.features)
        known = job.reference
        reference = scorer.reference(
            job.dataset_folder,
            job.dataset_hash,
            images=job.images,
            known=known and {known.extractor: GaussianStatistics(known.n, known.mean, known.covariance)},
        )
        execution, placement = carried_out(self.execution, plan)
        pipeline = self._pipeline(job.model_folder, job.config.precision, placement)
        self._rehearse(job, pipeline, execution, on_step)
        # A dataset without captions is one of images without prompts.
        captions = [image.caption or "" for image in job.images]
        places = draw_captions(captions, job.config.samples, job.config.seed)
        prompts = [captions[place] for place in places]
        score = partial(scorer.score, reference=reference, groups=places)

        def measure(adapter: Path | None, step: str, picture: Path) -> tuple[tuple[Score, ...], float]:
            sampling = job.config.sampling(execution)
            scores, shown, drawing = self._measure(
                pipeline, score, adapter, prompts, sampling, partial(on_step, step)
            )
            save_grid(shown, picture)
            return scores, drawing

        initial: tuple[Score, ...] = ()
        if job.config.initial:
            folder = self.pretrained or job.checkpoint
            initial = pretrained_scores(job, folder, lambda picture: measure(None, BEFORE, picture)[0])
        # An estimate of the time left takes what an earlier claim did for done.
        known_steps = checkpoint_step(job.resume_from) if job.resume_from else None
        on_step(TRAINING, known_steps or 0, job.config.steps)
        record = fine_tune(
            pipeline,
            job.dataset_folder,
            job.config.fine_tuning(execution),
            job.out,
            on_step=lambda step, loss: on_step(TRAINING, step, job.config.steps, loss),
            checkpoints=Checkpoints(job.checkpoint, self.checkpoint_steps, job.resume_from),
            cache=self.cache,
            images=job.images,
        )
        finetuned, drawing = measure(record.adapter, AFTER, job.out / GRID_FILE)
        per_image = drawing / job.config.samples
        details = {
            "happened": record.happened,
            "used": record.used,
            "execution": {one.name: getattr(execution, one.name) for one in fields(Execution)},
            "memory": None if plan is None else plan.to_dict() | {"ran_out": lacks},
            "prompts": prompts[: GRID_SIDE**2],
        }
        return Outcome(finetuned, initial, record.adapter, record.seconds, per_image, details)

    def _rehearse(self, job: Job, pipeline: LoadedPipeline, execution: Execution, on_step: OnStep) -> None:
        """Go through all stages once for each model and way to run it; a short run needs no rehearsal."""
        from matchgraph.training.tune.rehearsal import rehearse

        config = job.config
        key = job.model_hash, config, execution, pipeline.placement
        if max(config.steps, config.samples) <= SHORT or key in self._rehearsed:
            return
        on_step("rehearsal", 0, 1)
        rehearse(
            pipeline,
            job.dataset_folder,
            job.images,
            config.fine_tuning(execution),
            config.sampling(execution),
            self._extractors(job).values(),
        )
        self._rehearsed.add(key)

    def close(self) -> None:
        """Free the model that is loaded."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _pipeline(self, folder: Path, precision: str, placement: Placement | None) -> LoadedPipeline:
        from matchgraph.training.pipelines.loading import LoadedPipeline
        from matchgraph.training.pipelines.placement import Placement

        wanted = folder, precision, placement or Placement()
        loaded = self._loaded
        if loaded is None or (loaded.folder, loaded.precision, loaded.placement) != wanted:
            self.close()
            loaded = self._loaded = LoadedPipeline(
                folder, device=self.execution.device, precision=precision, placement=placement
            )
        return loaded

    def _extractors(self, job: Job) -> dict[str, Extractor]:
        """The extractors that a run was planned with, by name."""
        for name, wanted in job.asked["extractors"].items():
            if wanted in self.extractors:
                continue
            weights = job.extractors.get(name)
            if weights is None:
                raise ExtractorMismatch(
                    f"Run {job.run} does not say where its extractor {name!r} ({wanted}) is; queue it again "
                    "with `matchgraph ingest run`."
                )
            spec = parse_extractors([f"{name}={weights}"])[name]
            found = load_extractor(spec, device=self.execution.device)
            if found.hash != wanted:
                raise ExtractorMismatch(
                    f"The extractor at {spec.weights} is {found.hash}, and run {job.run} was planned with "
                    f"{wanted}; restore those weights, or queue the run again."
                )
            self.extractors[wanted] = require_images(found, name)
        return {name: self.extractors[wanted] for name, wanted in job.asked["extractors"].items()}

    def _measure(
        self,
        pipeline: LoadedPipeline,
        score: Measuring,
        adapter: Path | None,
        prompts: list[str],
        sampling: SampleConfig,
        on_image: Callable[[int, int], None],
    ) -> tuple[tuple[Score, ...], list[Image.Image], float]:
        from matchgraph.training.sampling.generate import stream_images

        shown: list[Image.Image] = []
        drawing = 0.0

        def watched(images: Iterable[Image.Image]) -> Iterator[Image.Image]:
            nonlocal drawing
            started = time.perf_counter()
            for number, image in enumerate(images, start=1):
                drawing += time.perf_counter() - started
                if len(shown) < GRID_SIDE**2:
                    shown.append(image)
                on_image(number, sampling.n)
                yield image
                started = time.perf_counter()

        on_image(0, sampling.n)
        # Closed also where a run is given up half-way: the next one must find the model without an adapter.
        with closing(stream_images(pipeline, adapter, prompts, sampling, cache=self.cache)) as images:
            scores = score(watched(images))
        return scores, shown, drawing


def save_grid(images: list[Image.Image], file: Path) -> None:
    """Save images of one size as a square picture, so that a run's samples can be looked at."""
    from PIL import Image

    side = images[0].width
    columns = min(GRID_SIDE, len(images))
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * side, rows * side), "white")
    for position, image in enumerate(images):
        grid.paste(image, (position % columns * side, position // columns * side))
    grid.save(file)
