"""Plans that carry a run out within a GPU's memory: for each stage the fastest way that fits.

A plan leaves precision, effective batch and resolution alone, which decide what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from matchgraph.training.memory.footprint import Footprint
from matchgraph.training.pipelines.placement import Placement

GIB = 2**30
# What the driver, its context and the libraries' workspaces take of a GPU beside torch's tensors.
CONTEXT_BYTES = int(0.75 * GIB)
# What is lost between tensors, and passing workspaces of convolutions, as a share of the tensors.
LOSS_SHARE = 0.08
# What extractors take to look at a batch of images, beside their weights.
SCORING_BYTES = GIB
# Images of a batch that are held between decoding and scoring: float32 with three channels, twice.
BYTES_PER_PIXEL = 2 * 3 * 4
# Of each trained value: itself, its gradient and the two moments of AdamW, in float32 or in 8 bits. All
# weights of a denoiser are in the passes as they are; their float32 copies come on top.
BYTES_PER_TRAINED = {"adamw": 16, "adamw8bit": 10}
# Of its average, where one is kept.
AVERAGE_BYTES = 4
# A plan that proved too large is followed by one that takes this much less.
SMALLER = 0.85

# More than any GPU has.
EVERYTHING = 2**62
STAGES = ("loading", "encoding images", "encoding text", "training", "sampling", "decoding", "scoring")


def trained_bytes(optimiser: str, ema: float) -> int:
    """Bytes on the GPU of each value that is trained.

    Args:
        optimiser: one of `training.config.OPTIMISERS`.
        ema: decay of its average; 0 for none.
    """
    return BYTES_PER_TRAINED[optimiser] + (AVERAGE_BYTES if ema else 0)


@dataclass(frozen=True)
class Work:
    """What a run asks of a GPU, and what the user has decided of how.

    Args:
        batch_size: images in an optimiser step.
        sampling_batch: images drawn at a time, at most.
        prompt_batch: prompts encoded at a time.
        image_batch: images encoded at a time.
        instrument_bytes: weights of the extractors, which stay on the GPU.
        bytes_per_trained: see `trained_bytes`.
        micro_batch: images in a forward pass of training; None to choose.
        gradient_checkpointing: None to choose, as for all that follow.
        placement: fields of `Placement` that are decided.
    """

    batch_size: int
    sampling_batch: int
    prompt_batch: int
    image_batch: int
    instrument_bytes: int = 0
    bytes_per_trained: int = 16
    micro_batch: int | None = None
    gradient_checkpointing: bool | None = None
    placement: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class MemoryPlan:
    """How a run is carried out, and what each stage then takes.

    Args:
        micro_batch: images in a forward pass of training.
        gradient_checkpointing: activations are computed twice instead of kept.
        sampling_batch: images drawn at a time.
        placement: where the pipeline's parts are.
        peaks: estimated bytes of each stage, margins included.
        budget: bytes that each stage may take.
        aims: what each stage was to take, which is less where it proved to take more than estimated.
        footprint: what the peaks were taken from.
        work: what was asked for.
    """

    micro_batch: int
    gradient_checkpointing: bool
    sampling_batch: int
    placement: Placement
    peaks: Mapping[str, int]
    budget: int
    aims: Mapping[str, int]
    footprint: Footprint = field(repr=False)
    work: Work = field(repr=False)

    @property
    def heaviest(self) -> str:
        """The stage that takes most, of those that the run comes to."""
        counted = [stage for stage in STAGES if self.aims[stage] < EVERYTHING] or STAGES
        return max(counted, key=lambda stage: self.peaks[stage])

    @property
    def too_large(self) -> list[str]:
        """Stages that do not fit, however they are carried out."""
        return [
            stage for stage in STAGES if self.peaks[stage] > self.budget and self.aims[stage] < EVERYTHING
        ]

    def smaller(self, stage: str | None = None) -> MemoryPlan | None:
        """The next plan after this one proved too large.

        Args:
            stage: that ran out of memory; None where that is not known, and all stages are made smaller.

        Returns:
            None where nothing takes less.
        """
        # One call draws and decodes.
        stages = STAGES if stage is None else ("sampling", "decoding") if stage == "sampling" else (stage,)
        found = self
        # Clearly less if there is such a way, and else anything less.
        for less in (SMALLER, 1.0):
            aims = {name: int(self.peaks[name] * less) - 1 for name in stages}
            found = _fitted(self.footprint, self.work, self.budget, {**self.aims, **aims})
            if all(found.peaks[name] <= aims[name] for name in stages):
                return found
        return found if any(found.peaks[name] < self.peaks[name] for name in stages) else None

    def choices(self) -> list[str]:
        """What differs from the fastest way, in words."""
        placed = self.placement
        words = {
            f"micro-batch {self.micro_batch} of {self.work.batch_size}": self.micro_batch
            != self.work.batch_size,
            "gradient checkpointing": self.gradient_checkpointing,
            f"{self.sampling_batch} images sampled at a time": self.sampling_batch
            != self.work.sampling_batch,
            "parts are offloaded to main memory while not needed": placed.parked,
            "blocks of the text encoders are loaded in turn": placed.encoder_offload,
            "blocks of the denoiser are loaded in turn in training": placed.training_offload,
            "blocks of the denoiser are loaded in turn in sampling": placed.sampling_offload,
            "the VAE takes one image at a time": placed.vae_slicing,
            "the VAE takes an image in tiles": placed.vae_tiling,
        }
        return [choice for choice, made in words.items() if made]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "micro_batch": self.micro_batch,
            "gradient_checkpointing": self.gradient_checkpointing,
            "sampling_batch": self.sampling_batch,
            **vars(self.placement),
            "peak_bytes": dict(self.peaks),
        }


def plan_memory(
    footprint: Footprint, budget_bytes: int, work: Work, *, stages: Sequence[str] = STAGES
) -> MemoryPlan:
    """Choose, for each stage, the fastest way that fits.

    Args:
        footprint: of the model.
        budget_bytes: memory of the GPU.
        work: what the run asks of it.
        stages: those that it comes to.

    Returns:
        The plan; where nothing fits, the smallest, with `too_large` saying so.
    """
    aims = {stage: budget_bytes if stage in stages else EVERYTHING for stage in STAGES}
    return _fitted(footprint, work, budget_bytes, aims)


def _fitted(footprint: Footprint, work: Work, budget: int, aims: Mapping[str, int]) -> MemoryPlan:
    choices = _options(work.placement.get("parked"), (False, True))
    plans = [_chosen(footprint, work, budget, aims, parked) for parked in choices]
    *_, parked = plans
    # Moving parts takes seconds, and everything else is slower for the whole run.
    given_up = set(parked.choices())
    return next(
        (
            plan
            for plan in plans
            if set(plan.choices()) <= given_up and all(plan.peaks[name] <= aims[name] for name in STAGES)
        ),
        parked,
    )


def _chosen(
    footprint: Footprint, work: Work, budget: int, aims: Mapping[str, int], parked: bool
) -> MemoryPlan:
    plan = MemoryPlan(
        work.micro_batch or work.batch_size,
        bool(work.gradient_checkpointing),
        work.sampling_batch,
        Placement(**{**work.placement, "parked": parked}),
        dict.fromkeys(STAGES, 0),
        budget,
        aims,
        footprint,
        work,
    )
    ways = {
        "encoding images": list(_vae_ways(work)),
        "encoding text": list(_encoder_ways(work)),
        "training": list(_training_ways(footprint, work)),
        "sampling": list(_sampling_ways(work)),
        "decoding": list(_vae_ways(work)),
        "scoring": list(_sampling_ways(work)),
    }
    for stage, options in ways.items():
        candidates = [_with(plan, way) for way in options]
        fitting = (candidate for candidate in candidates if _peak(candidate, stage) <= aims[stage])
        plan = next(fitting, None) or min(candidates, key=lambda candidate: _peak(candidate, stage))
    return replace(plan, peaks={stage: _peak(plan, stage) for stage in STAGES})


def _with(plan: MemoryPlan, way: Mapping[str, Any]) -> MemoryPlan:
    """The plan with a stage's way; what an earlier stage needed stays."""
    own: dict[str, Any] = {}
    placed: dict[str, bool] = {}
    for name, value in way.items():
        if name in ("micro_batch", "sampling_batch"):
            own[name] = min(value, getattr(plan, name))
        elif name == "gradient_checkpointing":
            own[name] = value
        else:
            placed[name] = value or getattr(plan.placement, name)
    return replace(plan, **own, placement=replace(plan.placement, **placed))


def _options(decided: Any, choices: Sequence[Any]) -> Sequence[Any]:
    return choices if decided is None else (decided,)


def _halves(count: int) -> Iterator[int]:
    """The count and, falling, all that divide it and are half of the last or less."""
    last = 2 * count
    for divisor in range(count, 0, -1):
        if count % divisor == 0 and 2 * divisor <= last:
            yield (last := divisor)


def _training_ways(footprint: Footprint, work: Work) -> Iterator[dict[str, Any]]:
    """From the fastest: passes of a quarter of the batch cost less than computing activations twice, and
    that less than moving weights, which in turn takes the larger batch the better.
    """
    can_save = footprint.checkpointed is not None
    # What is trained stays on the GPU.
    can_move = can_save and footprint.frozen
    offloads = _options(work.placement.get("training_offload"), (False, True) if can_move else (False,))
    savings = _options(work.gradient_checkpointing, (False, True) if can_save else (False,))
    for offload in offloads:
        for saving in savings:
            if offload and not saving:
                # Moved weights must be there for the backward pass, which computes the block again.
                continue
            for micro in _options(work.micro_batch, list(_halves(work.batch_size))):
                quick = saving or len(savings) == 1
                if quick or 4 * micro >= work.batch_size:
                    yield {
                        "micro_batch": micro,
                        "gradient_checkpointing": saving,
                        "training_offload": offload,
                    }


def _sampling_ways(work: Work) -> Iterator[dict[str, Any]]:
    for offload in _options(work.placement.get("sampling_offload"), (False, True)):
        for batch in _halves(work.sampling_batch):
            yield {"sampling_batch": batch, "sampling_offload": offload}


def _encoder_ways(work: Work) -> Iterator[dict[str, Any]]:
    for offload in _options(work.placement.get("encoder_offload"), (False, True)):
        yield {"encoder_offload": offload}


def _vae_ways(work: Work) -> Iterator[dict[str, Any]]:
    for tiling in _options(work.placement.get("vae_tiling"), (False, True)):
        for slicing in _options(work.placement.get("vae_slicing"), (False, True)):
            yield {"vae_slicing": slicing, "vae_tiling": tiling}


def _peak(plan: MemoryPlan, stage: str) -> int:
    """Estimated bytes of a stage, with the margins."""
    return int(stage_bytes(plan, stage) * (1 + LOSS_SHARE)) + CONTEXT_BYTES


def stage_bytes(plan: MemoryPlan, stage: str) -> int:
    """Estimated bytes of the tensors that a stage has on the GPU at once.

    Args:
        plan: how the run is carried out.
        stage: one of `STAGES`.
    """
    footprint, work, placed = plan.footprint, plan.work, plan.placement
    denoiser, encoders = footprint.denoiser, footprint.encoders
    pixels = plan.sampling_batch * footprint.resolution_px**2 * BYTES_PER_PIXEL

    def weights(names: Iterable[str]) -> int:
        """Of those that are on the GPU while some are needed."""
        away = {
            denoiser: placed.training_offload if stage == "training" else placed.sampling_offload,
            **dict.fromkeys(encoders, placed.encoder_offload),
        }
        there = names if placed.parked else footprint.parts
        return sum(
            footprint.weights(name) - (footprint.waiting(name) if away.get(name) else 0) for name in there
        )

    if stage == "loading":
        own = weights([max(footprint.parts, key=footprint.weights)])
    elif stage == "encoding text":
        own = weights(encoders) + footprint.text.at(work.prompt_batch)
    elif stage == "encoding images":
        own = weights(["vae"]) + footprint.encode.at(1 if placed.vae_slicing else work.image_batch)
    elif stage == "training":
        passes = footprint.checkpointed if plan.gradient_checkpointing else footprint.training
        # All but the denoiser always waits.
        base = footprint.weights(denoiser) - (footprint.waiting(denoiser) if placed.training_offload else 0)
        trained = footprint.trained * work.bytes_per_trained
        own = base + trained + (passes or footprint.training).at(plan.micro_batch)
    elif stage == "sampling":
        rows = plan.sampling_batch * footprint.guided_rows
        own = weights([denoiser, "vae"]) + footprint.sampling.at(rows)
    elif stage == "decoding":
        decode = footprint.decode_tile if placed.vae_tiling else footprint.decode
        own = (
            weights([denoiser, "vae"]) + pixels + decode.at(1 if placed.vae_slicing else plan.sampling_batch)
        )
    else:
        own = weights([denoiser, "vae"]) + pixels + SCORING_BYTES
    return own + work.instrument_bytes
