"""Routing candidates as they are drawn: alone, fine-tuned, or with their teacher behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.collaboration.calibration import FEWEST_PROMPTS, calibrate, check_calibrated
from matchgraph.collaboration.collaborate import Collaboration
from matchgraph.collaboration.plan import Correction, Plan
from matchgraph.collaboration.tuning import rejected
from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import prompt_id

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.graphdb.distillation import Distilled
    from matchgraph.graphdb.prompt_models import Variant
    from matchgraph.training.measure.quality import Scorer

# Images drawn at a time.
BATCH = 32


@dataclass(frozen=True)
class Candidate:
    """A routing candidate as it is drawn: alone, with an adapter, or with its teacher behind it.

    Attributes:
        variant: model and drawing.
        tflop: expected cost of an image, the teacher's share included.
        gain: quality that the teacher adds on average.
        distilled: student and teacher, where the teacher steps in.
        adapter: what the model was fine-tuned to, see `training.sampling.generate.sample_images`.
        teacher_adapter: likewise its teacher, behind a student with an adapter.
    """

    variant: Variant
    tflop: float
    gain: float = 0.0
    distilled: Distilled | None = None
    adapter: Path | None = None
    teacher_adapter: Path | None = None

    @property
    def name(self) -> str:
        """The variant's id, with `+ adapter` or `+ teacher`."""
        return (
            self.variant.id
            + (" + adapter" if self.adapter else "")
            + (" + teacher" if self.distilled else "")
        )


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """An image of a prompt.

    Attributes:
        image: mode RGB.
        tflop: spent on it.
        by_teacher: whether a teacher refined or drew it.
    """

    image: Image.Image
    tflop: float
    by_teacher: bool


class PromptDrawer:
    """Draws prompts with the candidates chosen for them.

    Args:
        folders: of the models' pipelines.
        scorer: the oracle of collaborations.
        prompts: n of them; noise follows from seed and prompt, so it is the same for every level.
        seed: of the noise.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU to stay within; None for what is free.
        on_failure: called with a prompt and what failed.
        held_out: prompts that the threshold of a fine-tuned student is taken from where it is asked to draw
            fewer than `FEWEST_PROMPTS`.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        scorer: Scorer,
        prompts: Sequence[str],
        seed: int,
        device: str,
        gpu_memory: float | None,
        on_failure: Callable[[str, str], None],
        held_out: Sequence[str] = (),
    ) -> None:
        self._folders, self._scorer, self._prompts = folders, scorer, prompts
        self._seed, self._device, self._on_failure = seed, device, on_failure
        self._gpu_memory, self._held_out = gpu_memory, held_out
        self._numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]

    def draw(
        self, candidates: Sequence[Candidate], on_drawn: Callable[[int, float], None] = lambda *_: None
    ) -> list[DrawnImage]:
        """Draw each prompt with its candidate; every model is loaded once a candidate.

        Args:
            candidates: of each prompt.
            on_drawn: called with the images of a batch and the TFLOP expected of them.
        """
        found: dict[int, DrawnImage] = {}
        for candidate in dict.fromkeys(candidates):
            rows = [row for row, own in enumerate(candidates) if own == candidate]
            if candidate.distilled is None:
                images = self._alone(candidate, rows)
            else:
                images = self._together(candidate, rows, on_drawn)
            batch = 0
            for row, image in images:
                found[row] = image
                batch += 1
                if batch == BATCH:
                    on_drawn(batch, batch * candidate.tflop)
                    batch = 0
            if batch:
                on_drawn(batch, batch * candidate.tflop)
        return [found[row] for row in range(len(candidates))]

    def _alone(self, candidate: Candidate, rows: Sequence[int]) -> Iterator[tuple[int, DrawnImage]]:
        from matchgraph.training.config import SampleConfig
        from matchgraph.training.memory.drawing import opened_to_draw
        from matchgraph.training.sampling.generate import stream_images

        variant = candidate.variant
        config = SampleConfig(len(rows), variant.require_drawing(), self._seed, BATCH)
        texts, numbers = self._of(rows)
        options = self._options(variant.require_drawing())
        with opened_to_draw(self._folders[variant.model], **options) as loaded:
            images = stream_images(loaded, candidate.adapter, texts, config, numbers=numbers)
            for row, image in zip(rows, images, strict=True):
                yield row, DrawnImage(image, variant.cost, False)

    def _together(
        self, candidate: Candidate, rows: Sequence[int], on_drawn: Callable[[int, float], None]
    ) -> Iterator[tuple[int, DrawnImage]]:
        from matchgraph.training.memory.drawing import opened_pair_to_draw
        from matchgraph.training.pipelines.weights import load_weights

        distilled = candidate.distilled
        assert distilled is not None
        calibration, tuned = distilled.calibration, distilled.tuned
        assert calibration is not None
        assert tuned is not None
        plan = Plan(calibration.drawing, Correction(tuned.teacher, tuned.rollback), self._seed, BATCH)
        check_calibrated(calibration, self._scorer, plan.student)
        texts, numbers = self._of(rows)
        options = self._options(calibration.drawing)
        folders = (self._folders[distilled.student], self._folders[distilled.teacher])
        side = tuned.teacher.resolution_px
        with opened_pair_to_draw(*folders, teacher_px=side, **options) as (student, teacher):
            threshold: float | Callable[[Sequence[float]], float] = calibration.threshold(tuned.k)
            if candidate.adapter is not None and candidate.teacher_adapter is not None:
                load_weights(student.pipe, student.family, candidate.adapter)
                load_weights(teacher.pipe, teacher.family, candidate.teacher_adapter)
                # Fine-tuned, the student scores differently: the tuned percentile is another score. Taken
                # from what it draws here, it rejects the tuned share, whatever it was fine-tuned on.
                if len(texts) >= FEWEST_PROMPTS:
                    threshold = partial(_percentile, k=tuned.k)
                else:
                    others = self._held_out
                    calibration = calibrate(student, self._scorer, others, plan.student, seed=self._seed)
                    threshold = calibration.threshold(tuned.k)
                    on_drawn(len(others), len(others) * candidate.variant.cost)
            both = Collaboration(student, teacher, self._scorer, threshold, plan)
            for outcome in both.generate(texts, numbers=numbers):
                if outcome.failure is not None:
                    self._on_failure(texts[outcome.place], outcome.failure)
                by_teacher = outcome.decision in ("refined", "regenerated")
                yield rows[outcome.place], DrawnImage(outcome.image, outcome.tflop, by_teacher)

    def _options(self, drawing: Drawing) -> dict[str, Any]:
        """How a pipeline is opened."""
        return {
            "device": self._device,
            "gpu_memory": self._gpu_memory,
            "resolution_px": drawing.resolution_px,
            "batch_size": BATCH,
            "precision": drawing.precision,
        }

    def _of(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        """Prompts and numbers of some images."""
        return [self._prompts[row] for row in rows], [self._numbers[row] for row in rows]


def _percentile(scores: Sequence[float], k: float) -> float:
    return rejected(np.array(scores), k)[1]
