"""What a fine-tuning run does, as the ledger keeps it, and how a machine carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from matchgraph.drawing import PRECISIONS, Drawing
from matchgraph.graphdb.checks import check_metric_name
from matchgraph.ingest.errors import ConfigChanged, IngestError
from matchgraph.ingest.runs.tracking import TRACKERS, check_trackers
from matchgraph.ingest.tables.comparison import METRIC
from matchgraph.ingest.tables.image_folders import MINIMUM_IMAGES
from matchgraph.settings import check_settings, identity, same_setting, setting
from matchgraph.training.config import EXACT, QUANTISATIONS, FineTuneConfig, SampleConfig
from matchgraph.training.pipelines.changed_drawing import identity_of_drawing

# Images of 512 px that are sampled together unless a number is given; of smaller ones as many pixels.
SAMPLING_BATCH, MOST_SAMPLED_TOGETHER = 8, 128
# Of `--samples auto`: the share of its value that a standard error may have, and the most images for it.
AUTO_TOLERANCE, MOST_SAMPLES = 0.05, 10_000

# The precision of a run that leaves it to its device.
AUTO = "auto"

# What the ledger keeps of a run's question beside its settings: see `RunConfig.drawn_by_default` and
# `ingest.runs.plan`.
FURTHER = frozenset({"default_guidance", "default_steps", "extractors", "prompt_tokens"})
NOT_KNOWN = "not known"

# The settings of a run that decide how it is sampled and scored, and not how it is trained.
SAMPLED = (
    "metrics", "resolution_px", "precision", "quantisation", "seed", "samples", "tolerance",
    "sampling_steps", "guidance",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which runs are meant: pairs of model and dataset, and what they are measured with.

    Args:
        models: ids of the models; none for all that have a folder.
        datasets: ids of the datasets; none for all that have a folder.
        pairs: a CSV file of pairs, instead of all models with all datasets.
        probe: the CLIP model that datasets were ingested with: a folder, or MODEL/TAG.
        extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
        replicate: measure again under another seed, to estimate the noise; the edges stay as they are.
        repeats: how many seeds each pair is measured under, `RunConfig.seed` and those after it; the edge has
            the mean over those that are done. The pretrained model is scored under the first seed alone.
        also: run these even if unfinished runs of the same pairs and seed have other settings.

    Raises:
        IngestError: a file of pairs together with models or datasets, or replicates together with repeats.
    """

    models: tuple[str, ...] = setting(
        (), "A model to fine-tune; all with a folder by default. Repeatable.", option="--model", metavar="ID"
    )
    datasets: tuple[str, ...] = setting(
        (),
        "A dataset to fine-tune on; all with a folder by default. Repeatable.",
        option="--dataset",
        metavar="ID",
    )
    pairs: Path | None = setting(None, "Table of pairs to run: columns model, dataset.", metavar="FILE.csv")
    probe: str | None = None
    extractors: tuple[str, ...] = ()
    replicate: bool = setting(
        False,
        "Measure again under another --seed, to estimate the noise; the results are stored on the run, and "
        "the graph's edges do not change.",
    )
    repeats: int = setting(
        1,
        "Seeds per pair: --seed and those after it, each a run of its own; the graph has their mean, with a "
        "standard error that counts their spread. The pretrained model is scored under the first one.",
        at_least=1,
        metavar="N",
    )
    also: bool = setting(
        False, "Run these even if unfinished runs of the same pairs and seed have other settings."
    )

    def __post_init__(self) -> None:
        check_settings(self, IngestError)
        if self.pairs is not None and (self.models or self.datasets):
            raise IngestError("--pairs stands alone: leave --model and --dataset out.")
        if self.replicate and self.repeats > 1:
            raise IngestError(
                "--replicate leaves the graph's edges alone and --repeats averages them: give one."
            )


@dataclass(frozen=True)
class Execution:
    """How a machine carries runs out. It is no part of the question: a run goes on under other settings.

    Args:
        device: "auto" (a GPU where there is one) or a torch device name.
        micro_batch: the most images in a forward pass of training; None for all images of a step. Passes are
            equally large, so it is rounded down to a divisor of the batch.
        gradient_checkpointing: compute activations twice instead of keeping them.
        compile: run the denoiser through torch.compile.
        sampling_batch: images sampled at a time; None for as many as suit their resolution.
        gpu_memory: GiB of the GPU's memory to stay within; None for what is free. What of the settings above
            is not given is chosen so that each stage fits.
        offload: what waits in the computer's memory while it is not needed: `none`, `parts` (text encoders,
            VAE, denoiser), `blocks` of the denoiser and text encoders as well, or `auto`: as much as must.
        validate_steps: training steps between two looks at a run, see `training.tune.validation`; None for
            never.
        validation_pictures: drawn at each look.
        track: what follows runs, see `ingest.runs.tracking`.

    Raises:
        IngestError: a value out of range.
        TrackerUnavailable: what is to follow runs is not installed.
    """

    device: str = same_setting(FineTuneConfig, "device")
    micro_batch: int | None = setting(
        None, "Images per forward pass; by default all of a step.", at_least=1, identity="never"
    )
    gradient_checkpointing: bool = same_setting(FineTuneConfig, "gradient_checkpointing")
    compile: bool = same_setting(FineTuneConfig, "compile")
    sampling_batch: int | None = setting(
        None,
        f"Images sampled at a time; by default {SAMPLING_BATCH} of 512 px, and up to {MOST_SAMPLED_TOGETHER} "
        "smaller ones.",
        at_least=1,
        identity="never",
    )
    gpu_memory: float | None = setting(
        None,
        "GPU memory to stay within, in GiB; by default all that is free. Smaller passes, recomputed "
        "activations and offloading to main memory are chosen as needed.",
        above=0,
        identity="never",
        metavar="GIB",
    )
    offload: str = setting(
        "auto",
        "What is offloaded to main memory while not needed: nothing, whole parts, or single blocks too; auto "
        "offloads only what it must.",
        choices=("auto", "none", "parts", "blocks"),
        identity="never",
    )
    validate_steps: int | None = setting(
        None,
        "Training steps between two validations: the loss on held-out images (or on some training images) "
        "and sample images; by default none.",
        at_least=1,
        identity="never",
    )
    validation_pictures: int = setting(
        4, "Pictures drawn at each look, one at a time.", at_least=0, identity="never"
    )
    track: tuple[str, ...] = setting(
        (),
        "Follow runs with tensorboard or wandb (offline, unless WANDB_MODE says otherwise), in the data "
        "folder's tracking/. Repeatable.",
        choices=tuple(TRACKERS),
        identity="never",
    )

    def __post_init__(self) -> None:
        check_settings(self, IngestError)
        check_trackers(self.track)

    def passes(self, batch_size: int) -> int:
        """Forward passes that make a step of this many images."""
        largest = min(self.micro_batch or batch_size, batch_size)
        return batch_size // next(size for size in range(largest, 0, -1) if batch_size % size == 0)

    def sampled_together(self, resolution_px: int) -> int:
        """Images of this size that are sampled at a time."""
        fitting = SAMPLING_BATCH * 512**2 // resolution_px**2
        return self.sampling_batch or min(max(fitting, 1), MOST_SAMPLED_TOGETHER)


@dataclass(frozen=True)
class RunConfig:
    """What a fine-tuning run does: the question that it answers. How it is carried out is an `Execution`.

    Args:
        metrics: what is measured; the metric of the edge's weight need not be among them.
        steps: optimiser steps.
        batch_size: images in an optimiser step.
        learning_rate: of AdamW.
        method: "lora", or "full" to train all weights of the denoiser.
        rank: LoRA rank.
        resolution_px: side of the images trained on and sampled.
        precision: of the frozen weights, see `training.config.PRECISIONS`; `auto` leaves it to who plans
            runs, which takes bf16 for a GPU that has it, and is fp32 until then.
        quantisation: of the denoiser's frozen weights, see `training.config.QUANTISATIONS`. None leaves it to
            the planner: weights are kept as they are, unless a model fits the GPU in no other way.
        optimiser: see `FineTuneConfig`, as for the settings that follow.
        schedule: of the learning rate.
        warmup_steps: over which it rises.
        alpha: LoRA alpha; None for the rank, so that the update is not scaled.
        caption_dropout: share of captions left empty in training.
        snr_gamma: bound of min-SNR weights.
        ema: decay of the weights' average.
        aspect_buckets: whether images are trained on in shapes near their own. Samples are squares all the
            same, and are compared with the real images in the same way.
        seed: of training and sampling.
        samples: images sampled for the score, or the most of them where `tolerance` is given.
        tolerance: sampling stops once the standard error of every Frechet distance (of every metric where
            there is none) is at most this share of its value; None to sample all.
        sampling_steps: scheduler steps for an image; None for the family's default.
        guidance: classifier-free guidance scale; None for the family's default.
        initial: whether the pretrained model is scored too.

    Raises:
        IngestError: a value out of range, no metric, or one that is named twice.
        InvalidDrawing: likewise, of how samples are drawn.

    Source:
        Match & Choose, section 5.1, "Setup": 10,000 steps, batch 8, learning rate 1e-5 with AdamW, LoRA,
        10,000 samples; rank and resolution are not given there.
    """

    metrics: tuple[str, ...] = setting(
        (METRIC,),
        "Metric to measure: clip_fid, fid, kid, cmmd, or EXTRACTOR_DISTANCE such as dinov2_fid (distances: "
        "fid, kid, cmmd). Repeatable.",
        option="--metric",
        metavar="NAME",
    )
    steps: int = same_setting(FineTuneConfig, "steps")
    batch_size: int = same_setting(FineTuneConfig, "batch_size", help="Images per optimiser step.")
    learning_rate: float = same_setting(FineTuneConfig, "learning_rate")
    method: str = same_setting(FineTuneConfig, "method")
    rank: int = same_setting(FineTuneConfig, "rank")
    resolution_px: int = same_setting(FineTuneConfig, "resolution_px")
    precision: str = setting(
        AUTO,
        "Precision of frozen weights and arithmetic; auto: bf16 on a GPU that has it, otherwise fp32.",
        choices=(AUTO, *PRECISIONS),
    )
    seed: int = same_setting(FineTuneConfig, "seed")
    samples: int = setting(MOST_SAMPLES, "Images sampled per score.", at_least=MINIMUM_IMAGES)
    tolerance: float | None = setting(
        None,
        "Stop sampling once the standard error of every Frechet distance, or else of every metric, is at "
        "most this share of its value; --samples is then the maximum.",
        above=0,
        identity="changed",
    )
    sampling_steps: int | None = setting(
        None, "Denoising steps per image; by default the model family's.", at_least=1
    )
    guidance: float | None = setting(
        None, "Classifier-free guidance scale; by default the model family's.", at_least=0
    )
    initial: bool = setting(True, "Score the pretrained model as well.")
    quantisation: str | None = setting(
        None,
        "Quantise the denoiser's frozen weights, in training and sampling; by default only if the model does "
        "not fit the GPU's memory otherwise.",
        choices=QUANTISATIONS,
        identity="changed",
    )
    optimiser: str = same_setting(FineTuneConfig, "optimiser")
    schedule: str = same_setting(FineTuneConfig, "schedule")
    warmup_steps: int = same_setting(FineTuneConfig, "warmup_steps")
    alpha: float | None = setting(
        None,
        "LoRA alpha; the update is scaled by alpha / rank. By default the rank.",
        above=0,
        identity="changed",
    )
    caption_dropout: float = same_setting(FineTuneConfig, "caption_dropout")
    snr_gamma: float | None = same_setting(FineTuneConfig, "snr_gamma")
    ema: float = same_setting(FineTuneConfig, "ema")
    aspect_buckets: bool = same_setting(FineTuneConfig, "aspect_buckets")

    def __post_init__(self) -> None:
        check_settings(self, IngestError)
        if self.method == "full" and self.kept_in != EXACT:
            raise IngestError(
                "Quantised weights cannot be trained: give --method lora, or --quantisation none."
            )
        if not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise IngestError(f"metrics is {list(self.metrics)}; name at least one, each once.")
        for metric in self.metrics:
            check_metric_name(metric)

    @property
    def kept_in(self) -> str:
        """What the denoiser's frozen weights are kept in."""
        return self.quantisation or EXACT

    @property
    def computed_in(self) -> str:
        """The precision, as `PRECISIONS` names it."""
        return "fp32" if self.precision == AUTO else self.precision

    def fine_tuning(self, execution: Execution) -> FineTuneConfig:
        """Return the part that fine-tunes."""
        given = vars(execution) | vars(self)
        shared = {one.name: given[one.name] for one in fields(FineTuneConfig) if one.name in given}
        passes = execution.passes(self.batch_size)
        split = {"batch_size": self.batch_size // passes, "gradient_accumulation": passes}
        return FineTuneConfig(
            **{
                **shared,
                **split,
                "alpha": self.alpha or self.rank,
                "quantisation": self.kept_in,
                "precision": self.computed_in,
            }
        )

    def sampling(self, execution: Execution, n: int | None = None) -> SampleConfig:
        """Return the part that samples n images; by default as many as are asked for at most."""
        return SampleConfig(
            n=self.samples if n is None else n,
            drawing=Drawing(
                self.sampling_steps,
                self.guidance,
                resolution_px=self.resolution_px,
                precision=self.computed_in,
            ),
            seed=self.seed,
            batch_size=execution.sampled_together(self.resolution_px),
            device=execution.device,
            quantisation=self.kept_in,
        )

    def asked(self) -> dict[str, Any]:
        """Return everything that the answer depends on, defaults of the training package included."""
        # The order in which metrics are named does not make another question.
        whole = identity(self.fine_tuning(Execution())) | identity(self)
        whole |= {"metrics": sorted(self.metrics), "precision": self.computed_in}
        # The default, said as a float.
        if self.alpha == self.rank:
            whole["alpha"] = self.rank
        # Of a step all images count, and not in how many passes they come.
        del whole["gradient_accumulation"]
        # Whether said or found by the planner.
        if whole.get("quantisation") == EXACT:
            del whole["quantisation"]
        return whole

    def drawn_by_default(self, folder: Path) -> dict[str, float]:
        """What a run's identity must say beyond `asked`; see `training.pipelines.changed_drawing`.

        Args:
            folder: the model's.
        """
        given = {"default_steps": self.sampling_steps, "default_guidance": self.guidance}
        return {name: value for name, value in identity_of_drawing(folder).items() if given.get(name) is None}

    @classmethod
    def as_recorded(cls, asked: Mapping[str, Any]) -> RunConfig:
        """Return the settings of a recorded run, as far as this version of the program has them.

        Args:
            asked: what `asked` gave, with or without further entries.
        """
        own = {field.name: asked[field.name] for field in fields(cls) if field.name in asked}
        if own.get("alpha") == own.get("rank", cls.rank):
            own["alpha"] = None
        return cls(**{**own, "metrics": tuple(asked["metrics"])})

    @classmethod
    def from_asked(cls, asked: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that the ledger keeps of a run.

        Args:
            asked: what `asked` gave, with or without the entries of `FURTHER`.

        Raises:
            ConfigChanged: this version of the program would do something else for it.
        """
        config = cls.as_recorded(asked)
        # By way of JSON, as the ledger has it.
        own = json.loads(json.dumps(config.asked()))
        # A later version's setting would be left out in silence.
        unknown = asked.keys() - {field.name for field in fields(cls)} - FURTHER
        for name in (*own, *sorted(unknown)):
            there, here = (said.get(name, NOT_KNOWN) for said in (asked, own))
            if there != here:
                raise ConfigChanged(
                    f"The run was queued by another version of matchgraph: {name} was {there!r} there and is "
                    f"{here!r} here. Use that version, or cancel the run and queue it again."
                )
        return config
