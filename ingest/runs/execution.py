"""Carrying out one fine-tuning run with the training package; the only module here that loads torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.errors import ExtractorMismatch
from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.entries import AFTER, BEFORE, TRAINING
from matchgraph.ingest.runs.jobs import Job, OnStep, Outcome
from matchgraph.ingest.runs.memory import WHAT_HELPS, MemoryPlans, carried_out, check_fits, in_words
from matchgraph.ingest.runs.pages import GRID_BEFORE_FILE, GRID_FILE, GRID_REAL_FILE
from matchgraph.ingest.runs.sampling import GRID_SIDE, Sampling, drawing_hash, save_grid
from matchgraph.ingest.runs.tracking import Tracked, tracked
from matchgraph.training.errors import OutOfMemory
from matchgraph.training.files import file_hash
from matchgraph.training.measure.drawn import DrawnRows
from matchgraph.training.measure.extractors import load_extractor, parse_extractors, require_images
from matchgraph.training.measure.frechet import GaussianStatistics
from matchgraph.training.measure.scoring import Scorer

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.extractors import Extractor
    from matchgraph.training.memory.plan import MemoryPlan
    from matchgraph.training.pipelines.cache import EncodingCache
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.pipelines.placement import Placement
    from matchgraph.training.tune.finetune import FineTuneRecord

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
        pretrained: where samples of pretrained models are kept for other runs; None for nowhere else.
        footprints: where estimates of models' memory are kept; None for nowhere.
        tracking: where trackers of runs write; None for the run's own folder.
        notice: told of what a user should know, such as how a model is made to fit.
    """

    execution: Execution = field(default_factory=Execution)
    checkpoint_steps: int = CHECKPOINT_STEPS
    cache: EncodingCache | None = None
    extractors: dict[str, Extractor] = field(default_factory=dict)
    features: Path | None = None
    pretrained: Path | None = None
    footprints: Path | None = None
    tracking: Path | None = None
    notice: Callable[[str], None] = lambda _: None
    _loaded: LoadedPipeline | None = field(default=None, init=False, repr=False)
    _plans: MemoryPlans = field(init=False, repr=False)
    _rehearsed: set[object] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self._plans = MemoryPlans(self.execution, self.footprints)

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score the pretrained model, fine-tune it, and score it again; see `ingest.runs.jobs.Executor`.

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
        import torch

        scorer = Scorer(job.config.metrics, self._extractors(job), self.features)
        known = job.reference
        reference = scorer.reference(
            job.dataset_folder,
            job.dataset_hash,
            images=job.images,
            known={known.extractor: GaussianStatistics(known.n, known.mean, known.covariance)}
            if known
            else None,
        )
        execution, placement = carried_out(self.execution, plan)
        pipeline = self._pipeline(job, placement)
        if job.adapter is None:
            self._rehearse(job, pipeline, execution, on_step)
        sampling = Sampling(job, pipeline, scorer, reference, execution, self.cache, on_step)
        before = None
        if job.config.initial:
            of = drawing_hash(job, None)
            folder = job.checkpoint if self.pretrained is None else self.pretrained / of
            rows = DrawnRows(folder, {"of": of}, "before")
            before = sampling.measure(rows, None, BEFORE, job.out / GRID_BEFORE_FILE)
        if job.adapter is None:
            record = self._fine_tuned(job, pipeline, execution, on_step)
            adapter, digest, seconds = record.adapter, record.sha256, record.seconds
            trained = {"happened": record.happened, "used": record.used}
        else:
            adapter, digest, seconds, trained = job.adapter, file_hash(job.adapter), None, {}
        rows = DrawnRows(job.checkpoint, {"of": drawing_hash(job, digest)}, "after")
        after = sampling.measure(rows, adapter, AFTER, job.out / GRID_FILE)
        sampling.save_real(job.out / GRID_REAL_FILE, self.notice)
        on_gpu = pipeline.device.type == "cuda"
        details = {
            **trained,
            "device": torch.cuda.get_device_name(pipeline.device) if on_gpu else pipeline.device.type,
            "execution": {one.name: getattr(execution, one.name) for one in fields(Execution)},
            "memory": None if plan is None else plan.to_dict() | {"ran_out": lacks},
            "images_of_one_colour": [one.plain for one in (before, after) if one is not None],
            "prompts": sampling.prompts[: GRID_SIDE**2],
        }
        return Outcome(
            after.scores,
            () if before is None else before.scores,
            adapter,
            seconds,
            after.seconds_per_image,
            details,
        )

    def _fine_tuned(
        self, job: Job, pipeline: LoadedPipeline, execution: Execution, on_step: OnStep
    ) -> FineTuneRecord:
        from matchgraph.training.tune.checkpoint import Checkpoints, checkpoint_step
        from matchgraph.training.tune.finetune import fine_tune
        from matchgraph.training.tune.validation import Validation

        # An estimate of the time left takes what an earlier claim did for done.
        known_steps = checkpoint_step(job.resume_from) if job.resume_from else None
        on_step(TRAINING, known_steps or 0, job.config.steps)
        of = Tracked(
            job.run,
            f"{job.model} on {job.dataset}",
            job.asked,
            self.tracking or job.out,
            known_steps or 0,
        )
        with tracked(self.execution.track, of, self.notice) as trackers:

            def stepped(step: int, loss: float) -> None:
                trackers.values(step, {"loss": loss})
                on_step(TRAINING, step, job.config.steps, loss)

            def looked(step: int, loss: float, pictures: Sequence[Image.Image]) -> None:
                trackers.values(step, {"validation loss": loss})
                if pictures:
                    save_grid(list(pictures), job.out / f"step-{step:06d}.png")
                    trackers.pictures(step, pictures)

            every = execution.validate_steps
            return fine_tune(
                pipeline,
                job.dataset_folder,
                job.config.fine_tuning(execution),
                job.out,
                on_step=stepped,
                checkpoints=Checkpoints(job.checkpoint, self.checkpoint_steps, job.resume_from),
                cache=self.cache,
                images=job.images,
                validation=None
                if every is None
                else Validation(every, execution.validation_pictures, looked),
            )

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

    def _pipeline(self, job: Job, placement: Placement | None) -> LoadedPipeline:
        from matchgraph.training.pipelines.loading import LoadedPipeline
        from matchgraph.training.pipelines.placement import Placement

        options: dict[str, Any] = {
            "precision": job.config.computed_in,
            "placement": placement or Placement(),
            "quantisation": job.config.kept_in,
        }
        loaded = self._loaded
        if loaded is None or (loaded.folder, *(getattr(loaded, name) for name in options)) != (
            job.model_folder,
            *options.values(),
        ):
            self.close()
            loaded = self._loaded = LoadedPipeline(job.model_folder, device=self.execution.device, **options)
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
                    f"The extractor at {spec.weights} is {found.hash}, but run {job.run} was planned with "
                    f"{wanted}; restore those weights, or queue the run again."
                )
            self.extractors[wanted] = require_images(found, name)
        return {name: self.extractors[wanted] for name, wanted in job.asked["extractors"].items()}
