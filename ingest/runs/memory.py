"""Memory of runs: a plan for a device, carried out, and followed by a smaller one where it proved wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.ingest.runs.config import AUTO, Execution, RunConfig
from matchgraph.training.config import QUANTISATIONS
from matchgraph.training.errors import CannotProfile, InsufficientMemory

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Model
    from matchgraph.ingest.runs.sources import Sources
    from matchgraph.training.memory.plan import MemoryPlan, Work
    from matchgraph.training.pipelines.placement import Placement

GIB = 2**30
# In the data folder: what models take, which is traced once.
FOOTPRINTS_FOLDER = "footprints"
# Weights of the usual extractors, ViT-L/14 and Inception; on a GPU that has them already they are counted.
INSTRUMENT_BYTES = int(1.5 * GIB)
# What `--offload` decides.
PLACEMENTS: Mapping[str, Mapping[str, bool]] = {
    "auto": {},
    "none": dict.fromkeys(("parked", "encoder_offload", "training_offload", "sampling_offload"), False),
    "parts": {
        "parked": True,
        **dict.fromkeys(("encoder_offload", "training_offload", "sampling_offload"), False),
    },
    "blocks": dict.fromkeys(("parked", "encoder_offload", "training_offload", "sampling_offload"), True),
}
WHAT_HELPS = (
    "Leave --micro-batch, --sampling-batch and --offload to be chosen, give --precision bf16, --quantisation "
    "nf4 or a smaller --resolution (which change the result), or use a GPU with more memory"
)


@dataclass
class MemoryPlans:
    """Plans of a device's runs, by model and settings.

    Args:
        execution: what the user decided.
        kept: where footprints are kept; None for nowhere.
    """

    execution: Execution
    kept: Path | None = None
    _plans: dict[object, MemoryPlan] = field(default_factory=dict, init=False, repr=False)

    def of(self, folder: Path, config: RunConfig, free: Callable[[], None]) -> MemoryPlan | None:
        """The plan of a model's runs.

        Args:
            folder: the model's.
            config: what they do.
            free: frees whatever is not to be counted as taken, before a new plan is made.

        Returns:
            None where memory is not planned: on a CPU, unless the user says how much there is, or for a model
            whose configs say too little.
        """
        key = _key(folder, config)
        if key not in self._plans and device_memory(self.execution)[0] is not None:
            free()
            budget, held = device_memory(self.execution)
            assert budget is not None
            plan = plan_of(folder, config, self.execution, budget, held, self.kept)
            if plan is not None:
                self._plans[key] = plan
        return self._plans.get(key)

    def after(self, folder: Path, config: RunConfig, stage: str) -> MemoryPlan | None:
        """The plan that follows one whose stage ran out of memory; None where none takes less."""
        key = _key(folder, config)
        plan = self._plans[key].smaller(stage) if key in self._plans else None
        if plan is not None:
            self._plans[key] = plan
        return plan


def device_memory(execution: Execution) -> tuple[int | None, int | None]:
    """Bytes that runs may take of the device, None if nobody knows; and what of it is taken by this process's
    tensors already, None where there is no GPU.
    """
    import torch

    from matchgraph.training.pipelines.loading import choose_device

    device = choose_device(execution.device)
    given = None if execution.gpu_memory is None else int(execution.gpu_memory * GIB)
    if device.type != "cuda":
        decided = execution.offload != "auto"
        return (2**62 if given is None and decided else given), None
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    return (free if given is None else min(given, free)), torch.cuda.memory_allocated(device)


def plan_of(
    folder: Path,
    config: RunConfig,
    execution: Execution,
    budget: int,
    held: int | None = None,
    kept: Path | None = None,
) -> MemoryPlan | None:
    """Plan a model's runs.

    Args:
        folder: the model's.
        config: what they do.
        execution: what the user decided of how.
        budget: bytes of the device.
        held: bytes that the extractors take there; the usual ones by default.
        kept: where footprints are kept.

    Returns:
        None where the model's configs say too little.
    """
    from matchgraph.training.memory.kept import kept_footprint
    from matchgraph.training.memory.plan import plan_memory

    try:
        footprint = kept_footprint(
            folder,
            kept,
            precision=config.computed_in,
            resolution_px=config.resolution_px,
            method=config.method,
            rank=config.rank,
            quantisation=config.kept_in,
        )
    except CannotProfile:
        return None
    return plan_memory(
        footprint, budget, _work(config, execution, INSTRUMENT_BYTES if held is None else held)
    )


def narrowed(config: RunConfig, execution: Execution) -> RunConfig:
    """The configuration in bf16 where it leaves its precision to a device that has bf16.

    Args:
        config: what runs do.
        execution: on what device.
    """
    import torch

    from matchgraph.training.pipelines.loading import choose_device

    if config.precision != AUTO or not torch.cuda.is_available():
        return config
    on_gpu = choose_device(execution.device).type == "cuda"
    has_it = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return replace(config, precision="bf16") if has_it else config


def quantised_to_fit(
    folder: Path, config: RunConfig, execution: Execution, kept: Path | None = None
) -> RunConfig:
    """The configuration with the weights of a model's denoiser in fewer bits, where they fit in no other way.

    It is part of what is asked, so it goes by what the GPU has, and not by what is free of it now.

    Args:
        folder: the model's.
        config: what its runs do; returned as it is where it decides itself, or where nothing fits.
        execution: what the user decided of how.
        kept: where footprints are kept.
    """
    if config.quantisation is not None or config.method == "full":
        return config
    budget = whole_memory(execution)
    if budget is None:
        return config
    for quantisation in QUANTISATIONS:
        tried = replace(config, quantisation=quantisation)
        plan = plan_of(folder, tried, execution, budget, kept=kept)
        if plan is None:
            break
        if not plan.too_large:
            return tried
    return config


def whole_memory(execution: Execution) -> int | None:
    """Bytes that the device has, or that runs may take of it; None if nobody knows."""
    import torch

    from matchgraph.training.pipelines.loading import choose_device

    if execution.gpu_memory is not None:
        return int(execution.gpu_memory * GIB)
    if not torch.cuda.is_available():  # as where runs are queued for others
        return None
    device = choose_device(execution.device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


@dataclass(frozen=True)
class ModelMemory:
    """What a model's runs take of a GPU.

    Args:
        peak_gib: at most, in any stage.
        stage: which stage that is.
        fits: whether every stage does.
        choices: what is given up to fit.
    """

    peak_gib: float
    stage: str
    fits: bool
    choices: tuple[str, ...]


def memory_of_models(
    sources: Sources,
    models: Mapping[str, Model],
    configs: Mapping[str, RunConfig],
    execution: Execution,
    home: Path,
) -> dict[str, ModelMemory]:
    """Plan each model's runs; nothing where nobody knows how much memory the device has.

    Args:
        sources: checks the models' folders.
        models: by id.
        configs: by model, what its runs do.
        execution: what the user decided of how.
        home: the data folder.
    """
    budget, _ = device_memory(execution)
    if budget is None:
        return {}
    found = {}
    for name, model in models.items():
        kept = home / FOOTPRINTS_FOLDER
        plan = plan_of(sources.model(model), configs[name], execution, budget, kept=kept)
        if plan is not None:
            stage = plan.heaviest
            found[name] = ModelMemory(
                plan.peaks[stage] / GIB, stage, not plan.too_large, tuple(plan.choices())
            )
    return found


def _work(config: RunConfig, execution: Execution, held: int) -> Work:
    from matchgraph.training.memory.plan import Work, trained_bytes
    from matchgraph.training.pipelines.encoding import PROMPT_BATCH, images_together

    size = config.batch_size
    return Work(
        batch_size=size,
        sampling_batch=execution.sampled_together(config.resolution_px),
        prompt_batch=PROMPT_BATCH,
        image_batch=images_together(config.resolution_px),
        instrument_bytes=held,
        micro_batch=size // execution.passes(size) if execution.micro_batch else None,
        gradient_checkpointing=execution.gradient_checkpointing or None,
        placement=PLACEMENTS[execution.offload],
        bytes_per_trained=trained_bytes(config.optimiser, config.ema),
    )


def carried_out(execution: Execution, plan: MemoryPlan | None) -> tuple[Execution, Placement | None]:
    """The settings of a plan, and where it has a pipeline's parts."""
    if plan is None:
        return execution, None
    settings: dict[str, Any] = {
        "micro_batch": plan.micro_batch,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "sampling_batch": plan.sampling_batch,
    }
    return replace(execution, **settings), plan.placement


def check_fits(model: str, plan: MemoryPlan) -> None:
    """Refuse a plan that is too large for its device.

    Raises:
        InsufficientMemory: a stage does not fit, however it is carried out.
    """
    if plan.too_large:
        stage = plan.heaviest
        raise InsufficientMemory(
            f"{model} needs about {plan.peaks[stage] / GIB:.1f} GiB for {stage}, and there are "
            f"{plan.budget / GIB:.1f}. {WHAT_HELPS}."
        )


def in_words(plan: MemoryPlan) -> str:
    """A plan in one line."""
    choices = ", ".join(plan.choices()) or "nothing given up"
    return (
        f"about {plan.peaks[plan.heaviest] / GIB:.1f} GiB of GPU memory, most in {plan.heaviest}: {choices}"
    )


def _key(folder: Path, config: RunConfig) -> object:
    names = ("computed_in", "resolution_px", "method", "rank", "batch_size", "kept_in", "optimiser", "ema")
    return folder, *(getattr(config, name) for name in names)
