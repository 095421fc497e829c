"""Sampling and scoring of one model for one dataset: kept batch by batch, so that a new process goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.ingest.runs.config import Execution
from matchgraph.settings import identity
from matchgraph.training.errors import BadImage, first_line
from matchgraph.training.files import json_hash
from matchgraph.training.measure.drawn import DrawnRows
from matchgraph.training.measure.features import writing
from matchgraph.training.measure.scoring import Reference, Sample, Score, Scorer
from matchgraph.training.sampling.captions import draw_captions
from matchgraph.training.sampling.plain import check_looks, looks

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.ingest.runs.jobs import Job, OnStep
    from matchgraph.training.pipelines.cache import EncodingCache
    from matchgraph.training.pipelines.loading import LoadedPipeline

GRID_SIDE = 4
# Raised where the same settings give other images or features.
VERSION = 1
# The first look at the standard error; the next ones follow from it.
FIRST_LOOK = 256
LARGEST_STEP = 4


@dataclass(frozen=True)
class Measured:
    """What a sample came to.

    Attributes:
        scores: one for each metric.
        seconds_per_image: how long drawing one took.
        plain: how many images are of one colour.
    """

    scores: tuple[Score, ...]
    seconds_per_image: float
    plain: int


def drawing_hash(job: Job, weights: str | None) -> str:
    """What decides the images of a sample, however many are drawn.

    Args:
        job: the run that needs it.
        weights: hash of the adapter; None for the pretrained model.
    """
    sampling = job.config.sampling(Execution())
    drawing = asdict(sampling.drawing)
    facts = {
        "version": VERSION,
        "model": job.model_hash,
        "dataset": job.dataset_hash,
        "weights": weights,
        "precision": drawing.pop("precision"),
        "drawing": drawing,
        **identity(sampling),
        **job.config.drawn_by_default(job.model_folder),
    }
    # The first images of a larger sample are those of a smaller one.
    del facts["n"]
    return json_hash(facts)[:16]


@dataclass
class Sampling:
    """Draws a run's samples, and scores them by all of its metrics.

    Args:
        job: the run.
        pipeline: the model.
        scorer: for the run's metrics.
        reference: the dataset.
        execution: device and batches.
        cache: where encodings of captions are kept.
        on_step: hears of every image.
    """

    job: Job
    pipeline: LoadedPipeline
    scorer: Scorer
    reference: Reference
    execution: Execution
    cache: EncodingCache | None
    on_step: OnStep

    def __post_init__(self) -> None:
        # A dataset without captions is one of images without prompts.
        captions = [image.caption or "" for image in self.job.images]
        self.places = draw_captions(captions, self.job.config.samples, self.job.config.seed)
        self.prompts = [captions[place] for place in self.places]

    def measure(self, rows: DrawnRows, adapter: Path | None, stage: str, picture: Path) -> Measured:
        """Draw what is not drawn yet, and score.

        Args:
            rows: where the sample is kept.
            adapter: what was trained; None for the pretrained model.
            stage: for `on_step`.
            picture: gets the first images, side by side.

        Raises:
            NonFiniteImages: latents or pixels hold NaN.
            EmptyImages: all images are of one colour, or the same.
            DistanceError: a distance is not finite.
        """
        config = self.job.config
        n = config.samples if config.tolerance is None else min(FIRST_LOOK, config.samples)
        while True:
            self._draw(rows, adapter, stage, n)
            plain = check_looks(rows.rows("colour", n), rows.rows("content", n))
            scores = self._scores(rows, n)
            further = next_look(scores, n, config.samples, config.tolerance)
            if further == n:
                break
            n = further
        save_grid([_image(row) for row in rows.rows("picture", GRID_SIDE**2)], picture)
        return Measured(scores, float(rows.rows("seconds", n).mean()), plain)

    def save_real(self, picture: Path, notice: Callable[[str], None]) -> None:
        """Save the real images whose captions the first samples have, side by side as these are.

        Args:
            picture: gets them.
            notice: told of a file that cannot be read any more: a run is worth more than this picture.
        """
        from matchgraph.training.images import load_rgb, square

        side = self.job.config.resolution_px
        shown = [self.job.images[place].path for place in self.places[: GRID_SIDE**2]]
        try:
            save_grid([square(load_rgb(path), side) for path in shown], picture)
        except (OSError, BadImage) as error:
            notice(f"{self.job.dataset}: no picture of real images: {first_line(error)}")

    def _draw(self, rows: DrawnRows, adapter: Path | None, stage: str, n: int) -> None:
        """Draw up to n images and keep their rows."""
        from matchgraph.training.sampling.generate import stream_batches

        done = rows.count([*self._names.values(), "colour", "content", "seconds"])
        self.on_step(stage, min(done, n), n)
        if done >= n:
            return
        sampling = self.job.config.sampling(self.execution, n - done)
        drawn = stream_batches(
            self.pipeline,
            adapter,
            self.prompts[done:n],
            sampling,
            cache=self.cache,
            numbers=range(done, n),
        )
        # Closed also where a run is given up half-way: the next one must find the model without an adapter.
        with closing(drawn) as batches:
            started = time.perf_counter()
            for batch in batches:
                images = list(batch.images)
                seconds = (time.perf_counter() - started) / len(images)
                found = {self._names[name]: value for name, value in self.scorer.see(images).items()}
                found |= {**looks(images), "seconds": np.full(len(images), seconds)}
                if done < GRID_SIDE**2:
                    shown = images[: GRID_SIDE**2 - done]
                    found["picture"] = np.stack([np.asarray(image) for image in shown])
                rows.add(done, found)
                done += len(images)
                self.on_step(stage, done, n)
                started = time.perf_counter()

    @property
    def _names(self) -> Mapping[str, str]:
        """Names of rows by the extractors'."""
        return {name: f"features/{extractor.hash}" for name, extractor in self.scorer.extractors.items()}

    def _scores(self, rows: DrawnRows, n: int) -> tuple[Score, ...]:
        samples = {}
        for name, kept in self._names.items():
            with writing(self.scorer.cache_dir) as writer:
                for batch in rows.batches(kept, n):
                    writer.add(batch)
                samples[name] = Sample(features=writer.finish())
        return self.scorer.scores(samples, self.reference, self.places[:n])


def next_look(scores: tuple[Score, ...], n: int, most: int, tolerance: float | None) -> int:
    """How many images to draw in all: n where they are enough.

    A standard error falls with the root of the number of images, so the number that is enough follows from
    it. It depends on what was measured at n alone, and so is the same after an interruption. Frechet
    distances decide where there are any: kernel distances may be close to 0, of which no error is a small
    share.

    Args:
        scores: of n images.
        n: how many were drawn.
        most: how many may be drawn.
        tolerance: share of its value that a standard error may have; None to draw all.
    """
    if tolerance is None:
        return n
    deciding = [score for score in scores if score.bias is not None] or scores
    shares = [
        score.standard_error / (tolerance * abs(score.value))
        for score in deciding
        if score.standard_error is not None and score.value
    ]
    largest = max(shares, default=0.0)
    if largest <= 1:
        return n
    needed = int(np.ceil(n * min(largest**2, LARGEST_STEP)))
    # Not again for a handful of images.
    return min(max(needed, n + FIRST_LOOK // 2), most)


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


def _image(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)
