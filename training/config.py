"""What training, distilling and sampling are asked for: dataclasses that check their values when built."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field
from typing import Any

from matchgraph.drawing import PRECISIONS, Drawing
from matchgraph.settings import LARGEST_SEED, check_settings, same_setting, setting
from matchgraph.training.errors import InvalidConfig

METHODS = ("lora", "full")
# What frozen weights are kept in: as they are, or in fewer bits, see `training.pipelines.quantisation`.
EXACT = "none"
QUANTISATIONS = (EXACT, "int8", "nf4")
# AdamW, or the same with moments of 8 bits, by bitsandbytes.
OPTIMISERS = ("adamw", "adamw8bit")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class FineTuneConfig:
    """What to train and how; checked when built.

    Steps, batch size, learning rate and optimiser default to those of Match & Choose, section 5.1; it does
    not give the LoRA rank, and has neither warm-up nor a learning-rate schedule, as is the default here.

    Attributes:
        steps: optimiser steps.
        batch_size: images per forward pass; may exceed the dataset, which then comes more than once.
        learning_rate: of AdamW; see `schedule`.
        rank: LoRA rank.
        alpha: LoRA alpha; the update is scaled by alpha / rank.
        resolution_px: images are scaled and cut to a square of this side; see `aspect_buckets`.
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
        quantisation: of the denoiser's frozen weights, in training and in sampling, which take less memory
            so: `none`, `int8` or `nf4`.
        optimiser: `adamw`, or `adamw8bit` with moments of 8 bits.
        schedule: of the learning rate after the warm-up: `constant`, or `linear` or `cosine` down to 0.
        warmup_steps: first steps, over which the learning rate rises from 0.
        snr_gamma: bound of the signal-to-noise ratio by which losses are weighted (min-SNR); None for equal
            weights. For models that predict noise or velocity of a variance-preserving process.
        ema: decay of an average of the trained weights, which is what is kept in the end; 0 for none. After
            step n it is at most n / (9 + n), and 0 after the first.
        aspect_buckets: images are scaled and cut to the shape among `training.buckets.buckets` that is
            nearest to their own instead of to squares, and all images of a step are of one shape, so that it
            stays the same step in several forward passes. No shape has a larger area than the square, so a
            plan for that holds, but for what a U-Net rounds up as it halves sides: less than the plan's
            margin from 256 pixels. With `compile`, each shape is compiled.
    """

    steps: int = setting(10_000, "Optimiser steps.", at_least=1)
    batch_size: int = setting(8, "Images per forward pass.", at_least=1)
    learning_rate: float = setting(1e-5, "Learning rate of AdamW.", above=0)
    rank: int = setting(16, "LoRA rank.", at_least=1)
    alpha: float = setting(16, "LoRA alpha; the update is scaled by alpha / rank.", above=0)
    resolution_px: int = setting(512, "Side of the images, in pixels.", at_least=8, option="--resolution")
    seed: int = setting(0, "Seed of training and sampling.", at_least=0, at_most=LARGEST_SEED)
    caption_dropout: float = setting(0.1, "Share of captions left empty in training.", at_least=0, at_most=1)
    precision: str = setting("fp32", "Precision of frozen weights and arithmetic.", choices=tuple(PRECISIONS))
    weight_decay: float = setting(1e-2, "Weight decay of AdamW.", at_least=0)
    max_gradient_norm: float = setting(1.0, "Gradients are clipped to this norm.", above=0)
    device: str = setting(
        "auto", "auto (a GPU if there is one) or a torch device, such as cuda:1.", identity="never"
    )
    gradient_accumulation: int = setting(1, "Forward passes per step.", at_least=1)
    gradient_checkpointing: bool = setting(False, "Recompute activations to save memory.", identity="never")
    method: str = setting("lora", "Train an adapter, or all weights of the denoiser.", choices=METHODS)
    compile: bool = setting(False, "Run the denoiser through torch.compile.", identity="never")
    quantisation: str = setting(
        EXACT, "Precision of the denoiser's frozen weights.", choices=QUANTISATIONS, identity="changed"
    )
    optimiser: str = setting(
        "adamw", "AdamW, or AdamW with 8-bit moments.", choices=OPTIMISERS, identity="changed"
    )
    schedule: str = setting(
        "constant",
        "Learning rate after the warm-up: constant, or down to 0.",
        choices=SCHEDULES,
        identity="changed",
    )
    warmup_steps: int = setting(
        0, "Steps over which the learning rate rises from 0.", at_least=0, identity="changed"
    )
    snr_gamma: float | None = setting(
        None,
        "Weight losses by min-SNR with this gamma, such as 5; not for flow matching.",
        above=0,
        identity="changed",
    )
    ema: float = setting(
        0.0,
        "Decay of a moving average of the trained weights, which replaces them at the end; after step n at "
        "most n / (9 + n). 0 for none.",
        at_least=0,
        below=1,
        identity="changed",
    )
    aspect_buckets: bool = setting(
        False,
        "Train on images of nearly their own shape, between 1:2 and 2:1, of at most the area of a square of "
        "--resolution. Samples are squares, and scored, as without it.",
        identity="changed",
    )

    def __post_init__(self) -> None:
        check_settings(self, InvalidConfig)
        if self.method == "full" and self.quantisation != EXACT:
            raise InvalidConfig(
                "Quantised weights cannot be trained: give --method lora, or no quantisation."
            )
        if self.warmup_steps > self.steps:
            raise InvalidConfig(
                f"warmup_steps must be at most steps, {self.steps}, got {self.warmup_steps}: raise --steps."
            )

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
        device: `auto` or a torch device name.
        quantisation: of the denoiser's weights, see `FineTuneConfig`.
    """

    n: int = setting(MISSING, "Images to draw.", at_least=1)
    drawing: Drawing = field(default_factory=Drawing)
    seed: int = same_setting(FineTuneConfig, "seed")
    batch_size: int = same_setting(FineTuneConfig, "batch_size", identity="never")
    device: str = same_setting(FineTuneConfig, "device")
    quantisation: str = same_setting(FineTuneConfig, "quantisation")

    def __post_init__(self) -> None:
        check_settings(self, InvalidConfig)

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

    steps: int = same_setting(FineTuneConfig, "steps", default=1000)
    batch_size: int = setting(16, "Images per step.", at_least=1)
    learning_rate: float = setting(1e-4, "Learning rate of AdamW.", above=0)
    decay_share: float = setting(
        0.25,
        "Share of the steps, at the end, over which the learning rate falls to 0.",
        at_least=0,
        at_most=1,
    )
    method: str = setting(
        "lora",
        "Train a low-rank adapter, which is merged into the weights at the end, or all weights.",
        choices=METHODS,
    )
    rank: int = same_setting(FineTuneConfig, "rank", default=64)
    alpha: float = same_setting(FineTuneConfig, "alpha", default=64)
    guidance: float | None = setting(
        None,
        "The teacher's guidance scale, distilled into the student; by default the pipeline's own.",
        at_least=1,
    )
    solver_steps: int = setting(
        50,
        "Timesteps of the teacher's path that the student learns from; its steps cannot exceed this.",
        at_least=1,
    )
    ema: float = setting(0.95, "Decay of the target weights.", at_least=0, below=1)
    huber: float = setting(1e-3, "Distance above which the loss is linear.", above=0)
    teacher_steps: int = setting(
        25, "Denoising steps of the teacher for the images to learn from.", at_least=1
    )
    draws: int = setting(1, "Images drawn per prompt.", at_least=1)
    resolution_px: int = same_setting(FineTuneConfig, "resolution_px")
    seed: int = same_setting(FineTuneConfig, "seed", help="Random seed.")
    precision: str = same_setting(FineTuneConfig, "precision")
    weight_decay: float = same_setting(FineTuneConfig, "weight_decay", default=0.0)
    max_gradient_norm: float = same_setting(FineTuneConfig, "max_gradient_norm")
    device: str = same_setting(FineTuneConfig, "device")
    gradient_accumulation: int = same_setting(FineTuneConfig, "gradient_accumulation")
    gradient_checkpointing: bool = same_setting(FineTuneConfig, "gradient_checkpointing")

    def __post_init__(self) -> None:
        check_settings(self, InvalidConfig)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)
