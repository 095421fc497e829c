"""The threshold below which the teacher steps in: a percentile of the student's scores on prompts of its own.

A threshold holds for the scorer and the way of drawing that it was calibrated with, and for no other.

Source:
    Starodubcev et al. (2024), section 3.2: the cut-off is the k-th percentile of the score on a hold-out
    subset of student samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.collaboration.collaborate import scores_of
from matchgraph.collaboration.errors import CalibrationDiffers, NoTrials
from matchgraph.collaboration.plan import Drawing
from matchgraph.graphdb.distillation import PERCENTILES, Calibration

if TYPE_CHECKING:
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.loading import LoadedPipeline

BATCH = 32


def calibrate(
    student: LoadedPipeline,
    scorer: Scorer,
    prompts: Sequence[str],
    drawing: Drawing,
    *,
    resolution_px: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Calibration:
    """Draw and score an image for each prompt.

    Args:
        student: the student's pipeline.
        scorer: the oracle.
        prompts: that stand for those to come.
        drawing: how the student draws.
        resolution_px: side of the images.
        seed: of the noise.
        on_progress: told how many images are scored, of how many.

    Raises:
        NoTrials: there are no prompts, or no image could be scored.
    """
    from matchgraph.graphdb.prompts import prompt_id
    from matchgraph.training.sampling.generate import stream_batches

    if not prompts:
        raise NoTrials("There are no prompts to calibrate on: add some with `matchgraph route prompts`.")
    config = drawing.sampling(
        len(prompts),
        seed=seed,
        resolution_px=resolution_px,
        batch_size=BATCH,
        precision=student.precision,
    )
    values: list[float] = []
    seen = 0
    numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]
    for batch in stream_batches(student, None, prompts, config, numbers=numbers):
        texts = prompts[seen : seen + len(batch.images)]
        seen += len(batch.images)
        values += [score for score, _ in scores_of(scorer, texts, batch.images) if score is not None]
        on_progress(seen, len(prompts))
    if not values:
        raise NoTrials(f"{scorer.metric} could score none of {len(prompts)} images.")
    percentiles = np.percentile(values, np.arange(PERCENTILES))
    return Calibration(
        scorer.metric,
        scorer.hash,
        drawing.steps,
        drawing.guidance,
        drawing.sampler,
        resolution_px,
        len(values),
        tuple(percentiles.tolist()),
    )


def check_calibrated(calibration: Calibration, scorer: Scorer, drawing: Drawing, resolution_px: int) -> None:
    """Refuse a threshold that was calibrated under other settings.

    Raises:
        CalibrationDiffers: a setting is another one; the message names it.
    """
    now = {
        "metric": scorer.metric,
        "scorer": scorer.hash,
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "sampler": drawing.sampler,
        "resolution_px": resolution_px,
    }
    for name, value in now.items():
        before = getattr(calibration, name)
        if before != value:
            raise CalibrationDiffers(
                f"The threshold was calibrated with {name} {before}, not {value}: use that, or run "
                "`matchgraph collaborate calibrate` again."
            )
