"""What a fine-tuning run does, as asked for on the command line and kept in the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from matchgraph.drawing import Drawing
from matchgraph.graphdb.models import check_metric_name
from matchgraph.ingest.errors import ConfigChanged, IngestError
from matchgraph.ingest.tables.datasets import METRIC, MINIMUM_IMAGES

if TYPE_CHECKING:
    from matchgraph.training.config import FineTuneConfig, SampleConfig


@dataclass(frozen=True)
class RunConfig:
    """What a fine-tuning run does; every field is part of the question that the run answers.

    Args:
        steps: optimiser steps.
        batch_size: images in a step.
        learning_rate: of AdamW.
        rank: LoRA rank.
        resolution_px: side of the images trained on and sampled.
        precision: of the frozen weights, see `training.pipelines.loading.PRECISIONS`.
        seed: of training and sampling.
        samples: images sampled for the score.
        sampling_steps: scheduler steps for an image; None for the family's default.
        guidance: classifier-free guidance scale; None for the family's default.
        initial: whether the pretrained model is scored too.
        metrics: what is measured, the metric of the edge's weight among them or not.
        gradient_accumulation: forward passes in a step, which then sees as many times `batch_size` images.
        gradient_checkpointing: compute activations twice instead of keeping them.
        method: "lora", or "full" to train all weights of the denoiser.
        compile: run the denoiser through torch.compile.

    Raises:
        IngestError: fewer than two samples, or no metric, or one that is named twice.
        InvalidConfig: another value is out of its range.
        InvalidDrawing: likewise, of how samples are drawn.

    Source:
        Match & Choose, section 5.1, "Setup": 10,000 steps, batch 8, learning rate 1e-5 with AdamW, LoRA,
        10,000 samples; rank and resolution are not given there.
    """

    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-5
    rank: int = 16
    resolution_px: int = 512
    precision: str = "fp32"
    seed: int = 42
    samples: int = 10_000
    sampling_steps: int | None = None
    guidance: float | None = None
    initial: bool = True
    metrics: tuple[str, ...] = (METRIC,)
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    method: str = "lora"
    compile: bool = False

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise IngestError(f"metrics is {list(self.metrics)}; name at least one, each once.")
        for metric in self.metrics:
            check_metric_name(metric)
        if self.samples < MINIMUM_IMAGES:
            raise IngestError(f"samples is {self.samples}; a score takes {MINIMUM_IMAGES} or more.")
        self.fine_tuning()
        self.sampling()

    def fine_tuning(self, device: str = "auto") -> FineTuneConfig:
        """Return the part that fine-tunes; LoRA alpha equals the rank, so the update is not scaled."""
        from matchgraph.training.config import FineTuneConfig

        return FineTuneConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            rank=self.rank,
            alpha=self.rank,
            resolution_px=self.resolution_px,
            seed=self.seed,
            precision=self.precision,
            gradient_accumulation=self.gradient_accumulation,
            gradient_checkpointing=self.gradient_checkpointing,
            method=self.method,
            compile=self.compile,
            device=device,
        )

    def sampling(self, device: str = "auto") -> SampleConfig:
        """Return the part that samples."""
        from matchgraph.training.config import SampleConfig

        return SampleConfig(
            n=self.samples,
            drawing=Drawing(self.sampling_steps, self.guidance, resolution_px=self.resolution_px),
            seed=self.seed,
            batch_size=self.batch_size,
            precision=self.precision,
            device=device,
        )

    def asked(self) -> dict[str, Any]:
        """Return everything that the answer depends on, defaults of the training package included."""
        whole = {**self.fine_tuning().to_dict(), **asdict(self), "metrics": list(self.metrics)}
        del whole["device"]
        return whole

    @classmethod
    def from_asked(cls, asked: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that the ledger keeps of a run.

        Args:
            asked: what `asked` gave, with or without further entries.

        Raises:
            ConfigChanged: this version of the program would do something else for it.
        """
        own = {field.name: asked[field.name] for field in fields(cls) if field.name in asked}
        config = cls(**{**own, "metrics": tuple(asked["metrics"])})
        # By way of JSON, as the ledger has it.
        for name, value in json.loads(json.dumps(config.asked())).items():
            if name not in asked or asked[name] != value:
                raise ConfigChanged(
                    f"The run was queued by another version of matchgraph: {name} was "
                    f"{asked.get(name, 'not known')!r} there and is {value!r} here. Use that version, or "
                    "cancel the run and queue it anew."
                )
        return config
