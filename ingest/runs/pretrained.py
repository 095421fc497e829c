"""Scores of pretrained models, measured once for all runs that differ only in how they are trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.pages import GRID_BEFORE_FILE
from matchgraph.settings import identity
from matchgraph.training.files import json_hash, write_json
from matchgraph.training.measure.scoring import DISTANCES, Score, parse_metric

if TYPE_CHECKING:
    from matchgraph.ingest.runs.run import Job

# Raised where the same settings give other images, so that kept scores are of these.
VERSION = 2


def drawing_hash(job: Job) -> str:
    """What decides a pretrained model's samples for a dataset: both contents, and how they are drawn.

    Args:
        job: a run that needs them.
    """
    sampling = job.config.sampling(Execution())
    facts = {
        "version": VERSION,
        "model": job.model_hash,
        "dataset": job.dataset_hash,
        "drawing": asdict(sampling.drawing),
        **identity(sampling),
    }
    return json_hash(facts)[:16]


def pretrained_scores(
    job: Job, folder: Path, measure: Callable[[Path], tuple[Score, ...]]
) -> tuple[Score, ...]:
    """Return a pretrained model's scores, from an earlier run where one measured them.

    Args:
        job: the run that needs them; its folder gets a picture of the samples.
        folder: where they are kept.
        measure: samples, scores by all of the run's metrics, and saves a picture under the path given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{drawing_hash(job)}.json"
    picture = kept.with_suffix(".png")
    known = {(score.metric, score.extractor, score.version): score for score in read_scores(kept)}
    wanted = [
        (metric, job.asked["extractors"][measured.extractor], DISTANCES[measured.distance])
        for metric, measured in ((metric, parse_metric(metric)) for metric in job.config.metrics)
    ]
    if not all(one in known for one in wanted):
        scratch = job.out / GRID_BEFORE_FILE
        known |= {(score.metric, score.extractor, score.version): score for score in measure(scratch)}
        shutil.copyfile(scratch, picture.with_suffix(".partial"))
        picture.with_suffix(".partial").replace(picture)
        write_json(kept, {"scores": [score.to_dict() for score in known.values()]})
    elif picture.exists():
        shutil.copyfile(picture, job.out / GRID_BEFORE_FILE)
    return tuple(known[one] for one in wanted)


def read_scores(file: Path) -> tuple[Score, ...]:
    """Return the scores kept in a file; none where it is not there or cannot be read."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["scores"]
        return tuple(Score(**row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
