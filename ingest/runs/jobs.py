"""A run ready to be carried out, what comes of it, and who does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from matchgraph.graphdb.models import Statistics
from matchgraph.ingest.errors import ConfigChanged
from matchgraph.ingest.runs.artefacts import CHECKPOINT_FOLDER, carry_checkpoint
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.ingest.runs.entries import Run

if TYPE_CHECKING:
    from matchgraph.training.images import CaptionedImage, DatasetFolder
    from matchgraph.training.measure.scoring import Score


@dataclass(frozen=True)
class Job:
    """One run, ready to be executed.

    Args:
        run: the run's id.
        model: the model's id.
        model_folder: its pipeline folder.
        model_hash: hash of its files.
        dataset: the dataset's id.
        dataset_folder: its image folder.
        dataset_hash: hash of the dataset's images and captions.
        images: the dataset's images with their captions.
        reference: statistics of the dataset's images by the probe; None where no metric needs it.
        config: what to do.
        asked: the same as the ledger has it, hashes of the extractors included.
        extractors: where each extractor's weights are, by its name: `WEIGHTS` or `KIND:WEIGHTS`.
        out: an empty folder for the artefacts.
        checkpoint: the folder in it for what lets a later claim go on; removed when the run is done.
        resume_from: the same folder where it holds an earlier claim's checkpoint, else None.
        adapter: what was trained elsewhere and is to be scored; None to fine-tune.
    """

    run: str
    model: str
    model_folder: Path
    model_hash: str
    dataset: str
    dataset_folder: Path | DatasetFolder
    dataset_hash: str
    images: Sequence[CaptionedImage]
    reference: Statistics | None
    config: RunConfig
    asked: Mapping[str, Any]
    extractors: Mapping[str, str]
    out: Path
    checkpoint: Path
    resume_from: Path | None
    adapter: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What an executor hands back.

    Args:
        finetuned: the scores after fine-tuning, one for each metric asked for.
        initial: the scores before it; empty where they were not asked for.
        adapter: the trained weights, in the job's folder.
        training_seconds: how long fine-tuning took; None where it was done elsewhere.
        seconds_per_image: how long sampling one image took.
        details: further JSON-ready facts for the record (losses, versions...).
    """

    finetuned: tuple[Score, ...]
    initial: tuple[Score, ...]
    adapter: Path
    training_seconds: float | None
    seconds_per_image: float
    details: Mapping[str, Any]


class OnStep(Protocol):
    """Receives the progress of a run; raises to stop it when another worker took it or the user asks."""

    def __call__(self, stage: str, done: int, of: int, loss: float | None = None) -> None:
        """Take note.

        Args:
            stage: what the run is at, see `ingest.runs.entries.LONG_STAGES` for those that take long.
            done: how much of the stage is done.
            of: of how much.
            loss: the training loss, if there is one.
        """
        ...


class Executor(Protocol):
    """Carries out runs."""

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        """Score, fine-tune, sample and score.

        Args:
            job: the run.
            on_step: to be called often.

        Raises:
            TrainingError: the run cannot be carried out; another attempt would end in the same way.
        """
        ...

    def close(self) -> None:
        """Free what is held from run to run."""
        ...


def make_job(
    run: Run,
    model_folder: Path,
    dataset_folder: Path | DatasetFolder,
    images: Sequence[CaptionedImage],
    reference: Statistics | None,
    out: Path,
) -> Job:
    """Make a run's job and its folder.

    Args:
        run: the run.
        model_folder: where the model is here.
        dataset_folder: where the dataset is here.
        images: its images with their captions.
        reference: statistics of the dataset's images by the probe; None where no metric needs it.
        out: the folder of this claim.

    Raises:
        ConfigChanged: this version of the program would do something else than was asked for.
    """
    config = RunConfig.from_asked(run.config)
    for name, value in config.drawn_by_default(model_folder).items():
        if run.config.get(name) != value:
            raise ConfigChanged(
                f"The run was queued by another version of matchgraph, which sampled {run.model} "
                f"differently: {name} is {value:g} here. Cancel the run and queue it again."
            )
    resume_from = carry_checkpoint(out)
    return Job(
        run=run.id,
        model=run.model,
        model_folder=model_folder,
        model_hash=run.properties["model_fingerprint"],
        dataset=run.dataset,
        dataset_folder=dataset_folder,
        dataset_hash=run.properties["dataset_fingerprint"],
        images=images,
        reference=reference,
        config=config,
        asked=run.config,
        extractors=run.extractors,
        out=out,
        checkpoint=out / CHECKPOINT_FOLDER,
        resume_from=resume_from,
    )
