"""The threshold below which the teacher corrects: a percentile of the student's scores on separate prompts.

A threshold is valid only for the scorer and the drawing that it was calibrated with.

Source:
    Starodubcev et al. (2024), section 3.2: the cut-off is the k-th percentile of the score on a hold-out
    subset of student samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.collaboration.collaborate import scores_of
from matchgraph.collaboration.errors import CalibrationDiffers, NoTrials
from matchgraph.drawing import Drawing
from matchgraph.graphdb.distillation import PERCENTILES, Calibration

if TYPE_CHECKING:
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.loading import LoadedPipeline

BATCH = 32
# A percentile of fewer scores is no threshold.
FEWEST_PROMPTS = 20


def check_enough(prompts: Sized, purpose: str = "take a threshold from") -> None:
    """Refuse to take a threshold from a handful of prompts, or to judge one by them.

    Args:
        prompts: what there is one of for each prompt.
        purpose: what they are for, for the message.

    Raises:
        NoTrials: there are fewer than `FEWEST_PROMPTS`.
    """
    if not len(prompts):
        raise NoTrials("There are no prompts: add some with `matchgraph route prompts`.")
    if len(prompts) < FEWEST_PROMPTS:
        raise NoTrials(f"{len(prompts)} prompts are too few to {purpose}: give at least {FEWEST_PROMPTS}.")


def calibrate(
    student: LoadedPipeline,
    scorer: Scorer,
    prompts: Sequence[str],
    drawing: Drawing,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Calibration:
    """Draw and score an image for each prompt.

    Args:
        student: the student's pipeline.
        scorer: the oracle.
        prompts: that stand for those to come.
        drawing: how the student draws; its steps are given.
        seed: of the noise.
        on_progress: called with the number of scored images, of how many.

    Raises:
        NoTrials: there are no prompts, or no image could be scored.
    """
    from matchgraph.graphdb.prompt_models import prompt_id
    from matchgraph.training.config import SampleConfig
    from matchgraph.training.sampling.generate import stream_batches

    if not prompts:
        raise NoTrials("There are no prompts to calibrate on: add some with `matchgraph route prompts`.")
    config = SampleConfig(len(prompts), drawing, seed, BATCH)
    values: list[float] = []
    seen = 0
    numbers = [f"{prompt_id(prompt)}-0" for prompt in prompts]
    for batch in stream_batches(student, None, prompts, config, numbers=numbers):
        texts = prompts[seen : seen + len(batch.images)]
        seen += len(batch.images)
        values += [score for score, _ in scores_of(scorer, texts, batch.images) if score is not None]
        on_progress(seen, len(prompts))
    if not values:
        raise NoTrials(f"{scorer.metric} could not score any of {len(prompts)} images.")
    percentiles = np.percentile(values, np.arange(PERCENTILES))
    return Calibration(
        scorer.metric,
        scorer.hash,
        drawing,
        len(values),
        tuple(percentiles.tolist()),
    )


def check_calibrated(calibration: Calibration, scorer: Scorer, drawing: Drawing) -> None:
    """Refuse a threshold that was calibrated under other settings.

    Raises:
        CalibrationDiffers: a setting is another one; the message names it.
    """
    before = {"metric": calibration.metric, "scorer": calibration.scorer, **asdict(calibration.drawing)}
    now = {"metric": scorer.metric, "scorer": scorer.hash, **asdict(drawing)}
    for name, value in now.items():
        if before[name] != value:
            raise CalibrationDiffers(
                f"The threshold was calibrated with {name} {before[name]}, not {value}: use that, or run "
                "`matchgraph collaborate calibrate` again."
            )
