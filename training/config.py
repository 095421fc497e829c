"""What training, distilling and sampling are asked for: dataclasses that check their values when built."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from matchgraph.drawing import Drawing
from matchgraph.training.errors import InvalidConfig

# Name -> torch's.
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
METHODS = ("lora", "full")


@dataclass(frozen=True)
class FineTuneConfig:
    """What to train and how; checked when built.

    Steps, batch size, learning rate and optimiser default to those of Match & Choose, section 5.1; it does
    not give the LoRA rank, and has neither warm-up nor a learning-rate schedule.

    Attributes:
        steps: optimiser steps.
        batch_size: images per forward pass; may exceed the dataset, which then comes more than once.
        learning_rate: of AdamW, constant.
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        resolution_px: images are scaled and cut to a square of this side.
        seed: decides start values, data order, timesteps, noise and which captions are dropped.
        caption_dropout: share of captions replaced by the empty one, for classifier-free guidance.
        precision: of the frozen weights and of the arithmetic, `fp32`, `bf16` or `fp16`; trained weights and
            their gradients are always float32. In fp16 the loss is scaled, on the CPU as on a GPU, and a step
            whose gradients overflow leaves the weights alone; bf16 needs neither.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are clipped to this norm.
        device: `auto` or a torch device name.
        gradient_accumulation: forward passes per step, so a step sees this many times `batch_size` images.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        method: `lora`, or `full` to train all weights of the denoiser; rank and alpha then mean nothing.
        compile: run the denoiser through torch.compile; a failure to compile is noted, and trained without.
    """

    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-5
    rank: int = 16
    alpha: float = 16
    resolution_px: int = 512
    seed: int = 42
    caption_dropout: float = 0.1
    precision: str = "fp32"
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    device: str = "auto"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    method: str = "lora"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank", "resolution_px", "gradient_accumulation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidConfig(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}.")
        for name in ("learning_rate", "alpha", "max_gradient_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidConfig(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidConfig(f"weight_decay must be at least 0, got {self.weight_decay!r}.")
        if not 0 <= self.caption_dropout <= 1:
            raise InvalidConfig(f"caption_dropout must lie between 0 and 1, got {self.caption_dropout!r}.")
        if self.precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.method not in METHODS:
            raise InvalidConfig(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        for name in ("gradient_checkpointing", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidConfig(f"{name} must be true or false, got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SampleConfig:
    """How to sample; checked when built.

    Attributes:
        n: number of images; image i is drawn for prompt i modulo their number.
        drawing: how each is drawn.
        seed: with an image's number it decides that image's noise, whatever the batch size.
        batch_size: images drawn at a time.
        precision: `fp32`, `bf16` or `fp16`.
        device: `auto` or a torch device name.
    """

    n: int
    drawing: Drawing = field(default_factory=Drawing)
    seed: int = 42
    batch_size: int = 8
    precision: str = "fp32"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("n", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidConfig(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}.")
        if self.precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DistillConfig:
    """How to distil; checked when built.

    Attributes:
        steps: optimiser steps.
        batch_size: latents per step; also how many are drawn at a time.
        learning_rate: of AdamW.
        decay_share: the learning rate falls to 0, on a line, over this last share of the steps.
        method: `lora`, or `full` to train all weights of the denoiser; rank and alpha then mean nothing.
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        guidance: the teacher's scale; None takes the family's default.
        solver_steps: places on the teacher's path that the student is made consistent over; the teacher goes
            one of them in a step (50 of 1,000 timesteps: a skip of 20).
        ema: decay of the target's weights, which follow the student's and are what is kept in the end.
        huber: below this distance the loss is quadratic, above it linear.
        teacher_steps: denoising steps in which the teacher draws the images that are learnt from.
        draws: images drawn for each prompt.
        resolution_px: side of the images.
        seed: decides the images drawn, start values, order, places on the path and noise.
        precision: see `training.tune.finetune.FineTuneConfig`.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are clipped to this norm.
        device: `auto` or a torch device name.
        gradient_accumulation: forward passes per step.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.

    Source:
        Luo et al., "Latent consistency models" (2023), section 5.1 (skip of 20, EMA 0.95 in the released
        code) and 4.4; its pseudo-Huber loss with 0.001 is that of diffusers' distillation scripts.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-4
    decay_share: float = 0.25
    method: str = "lora"
    rank: int = 64
    alpha: float = 64
    guidance: float | None = None
    solver_steps: int = 50
    ema: float = 0.95
    huber: float = 1e-3
    teacher_steps: int = 25
    draws: int = 1
    resolution_px: int = 512
    seed: int = 42
    precision: str = "fp32"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    device: str = "auto"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in (
            *("steps", "batch_size", "rank", "solver_steps", "teacher_steps", "draws", "resolution_px"),
            "gradient_accumulation",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidConfig(f"{name} must be a whole number of at least 1, got {value!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidConfig(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed!r}.")
        for name in ("learning_rate", "alpha", "huber", "max_gradient_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidConfig(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidConfig(f"weight_decay must be at least 0, got {self.weight_decay!r}.")
        if not 0 <= self.decay_share <= 1:
            raise InvalidConfig(f"decay_share must lie between 0 and 1, got {self.decay_share!r}.")
        if not 0 <= self.ema < 1:
            raise InvalidConfig(f"ema must be at least 0 and below 1, got {self.ema!r}.")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise InvalidConfig(f"guidance must be at least 1, which is none, got {self.guidance!r}.")
        if self.precision not in PRECISIONS:
            raise InvalidConfig(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.method not in METHODS:
            raise InvalidConfig(f"method must be one of {', '.join(METHODS)}, got {self.method!r}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)
