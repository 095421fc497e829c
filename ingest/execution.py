"""Carrying out one fine-tuning run with the training package; the only module here that loads torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.pages import GRID_BEFORE_FILE, GRID_FILE
from ingest.run import Job, OnStep, Outcome

if TYPE_CHECKING:
    from PIL import Image

    from training.extractors import Extractor
    from training.pipelines import LoadedPipeline
    from training.scoring import Score

GRID_SIDE = 4


@dataclass
class LoraExecutor:
    """Fine-tunes with LoRA and scores by CLIP-FID; keeps one model loaded, as runs come grouped by model.

    Args:
        extractor: the probe model.
        device: "auto" or a torch device name.
    """

    extractor: Extractor
    device: str = "auto"
    _loaded: LoadedPipeline | None = field(default=None, init=False, repr=False)

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score the pretrained model, fine-tune it, and score it again; see `ingest.run.Executor`."""
        from training.images import list_captioned_images
        from training.lora import fine_tune

        pipeline = self._pipeline(job.model_folder, job.config.precision)
        # A dataset without captions is one of images without prompts.
        prompts = [image.caption or "" for image in list_captioned_images(job.dataset_folder)]
        initial: tuple[Score, ...] = ()
        if job.config.initial:
            initial, shown, _ = self._measure(job, pipeline, None, prompts, "sampling before", on_step)
            save_grid(shown, job.out / GRID_BEFORE_FILE)
        record = fine_tune(
            pipeline,
            job.dataset_folder,
            job.config.fine_tuning(self.device),
            job.out,
            on_step=lambda step, _loss: on_step("fine-tuning", step, job.config.steps),
        )
        finetuned, shown, drawing = self._measure(
            job, pipeline, record.adapter, prompts, "sampling after", on_step
        )
        save_grid(shown, job.out / GRID_FILE)
        per_image = drawing / job.config.samples
        details = {**record.to_dict(), "prompts": [prompts[i % len(prompts)] for i in range(len(shown))]}
        return Outcome(finetuned, initial, record.adapter, record.seconds, per_image, details)

    def close(self) -> None:
        """Free the model that is loaded."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _pipeline(self, folder: Path, precision: str) -> LoadedPipeline:
        from training.pipelines import LoadedPipeline

        loaded = self._loaded
        if loaded is None or loaded.folder != folder or loaded.precision != precision:
            self.close()
            loaded = self._loaded = LoadedPipeline(folder, device=self.device, precision=precision)
        return loaded

    def _measure(
        self,
        job: Job,
        pipeline: LoadedPipeline,
        adapter: Path | None,
        prompts: list[str],
        step: str,
        on_step: OnStep,
    ) -> tuple[tuple[Score, ...], list[Image.Image], float]:
        from training.frechet import GaussianStatistics
        from training.generate import stream_images
        from training.scoring import clip_fid

        shown: list[Image.Image] = []
        drawing = 0.0

        def watched(images: Iterable[Image.Image]) -> Iterator[Image.Image]:
            nonlocal drawing
            started = time.perf_counter()
            for number, image in enumerate(images, start=1):
                drawing += time.perf_counter() - started
                if len(shown) < GRID_SIDE**2:
                    shown.append(image)
                on_step(step, number, job.config.samples)
                yield image
                started = time.perf_counter()

        on_step(step, 0, job.config.samples)
        reference = GaussianStatistics(job.reference.n, job.reference.mean, job.reference.covariance)
        # Closed also where a run is given up half-way: the next one must find the model without an adapter.
        with closing(stream_images(pipeline, adapter, prompts, job.config.sampling(self.device))) as images:
            score = clip_fid(watched(images), self.extractor, reference)
        return (score,), shown, drawing


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
