"""Memory of a pipeline's stages on a device, measured beside the estimates that plans are made from."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench.shapes import tiny
from matchgraph.training.config import EXACT, FineTuneConfig
from matchgraph.training.memory.footprint import Footprint, footprint
from matchgraph.training.memory.plan import (
    EVERYTHING,
    SCORING_BYTES,
    MemoryPlan,
    Work,
    plan_memory,
    stage_bytes,
)
from matchgraph.training.memory.tracing import TRACED_ROWS, Tracer
from matchgraph.training.pipelines.encoding import PROMPT_BATCH, encode_dataset, images_together
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.placement import Placement, placed
from matchgraph.training.pipelines.quantisation import quantise
from matchgraph.training.sampling.generate import image_generator
from matchgraph.training.tune.finetune import method_of
from matchgraph.training.tune.loop import Training, attached

STEPS, SAMPLING_STEPS = 4, 4
# Nothing waits elsewhere, and activations are kept.
PLAIN = dict.fromkeys(("parked", "encoder_offload", "training_offload", "sampling_offload"), False)


@dataclass(frozen=True)
class Setting:
    """How the pipelines are run.

    Args:
        device: a torch device.
        precision: of the weights.
        side: of the images, in pixels.
        batch: images in a step, and drawn together.
    """

    device: torch.device
    precision: str
    side: int
    batch: int

    def training(self, **changes: Any) -> FineTuneConfig:
        """A run's configuration."""
        return FineTuneConfig(
            **{
                "steps": STEPS,
                "batch_size": self.batch,
                "resolution_px": self.side,
                "precision": self.precision,
                "device": str(self.device),
                **changes,
            }
        )


def measured(loaded: LoadedPipeline, device: torch.device, work: Callable[[], Any]) -> int:
    """Peak bytes on the device while some work is done; on a CPU, of its tensors and the weights."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    networks = [part for part in loaded.pipe.components.values() if isinstance(part, torch.nn.Module)]
    weights = [value for part in networks for value in (*part.parameters(), *part.buffers())]
    tracer = Tracer()
    tracer.know(weights)
    with tracer.watching():
        work()
    return tracer.hull().at(TRACED_ROWS) + sum(value.numel() * value.element_size() for value in weights)


def memory_rows(
    loaded: LoadedPipeline, dataset: Path, plan: MemoryPlan, setting: Setting
) -> list[dict[str, Any]]:
    """Estimated and measured peak of each stage."""
    family, pipe, device = loaded.family, loaded.pipe, setting.device
    data = encode_dataset(loaded, dataset, resolution_px=setting.side, seed=0)
    config = setting.training(gradient_checkpointing=plan.gradient_checkpointing)
    rows: list[dict[str, Any]] = []

    def row(stage: str, work: Callable[[], Any], estimated: int | None = None) -> None:
        peak = measured(loaded, device, work)
        rows.append(compared(stage, stage_bytes(plan, stage) if estimated is None else estimated, peak))

    row("loading", lambda: None)
    row("encoding text", lambda: family.encode_prompts(pipe, ["a cat"] * PROMPT_BATCH))
    pixels = torch.zeros(images_together(setting.side), 3, setting.side, setting.side)
    row("encoding images", lambda: family.encode_images(pipe, pixels))
    with attached(loaded, method_of(config), config) as parameters, placed(loaded, "denoiser", training=True):
        training = Training(loaded, parameters, data, config)
        # The optimiser's state is made by the first step.
        training.step(1)
        row("training", lambda: training.step(2))
    prompts = data.conditioning.pick([0] * setting.batch, device)
    negative = data.conditioning.pick([0], device)
    drawn: list[torch.Tensor] = []

    def sample() -> None:
        drawn.append(
            family.sample_latents(
                pipe,
                prompts,
                negative,
                steps=SAMPLING_STEPS,
                guidance=family.default_guidance,
                generators=[image_generator(0, number) for number in range(setting.batch)],
                resolution_px=setting.side,
            )
        )

    row("sampling", sample)

    def decode() -> None:
        with torch.no_grad():
            pipe.vae.decode(drawn[0].to(device, pipe.vae.dtype), return_dict=False)

    row("decoding", decode)
    drawn.clear()
    rows.append(scoring_row(loaded, setting))
    return rows


def compared(stage: str, estimated: int, peak: int) -> dict[str, Any]:
    """An estimate beside what was measured, in bytes."""
    return {"stage": stage, "estimated": estimated, "measured": peak, "ratio": estimated / peak}


def scoring_row(loaded: LoadedPipeline, setting: Setting) -> dict[str, Any]:
    """What the usual extractor, ViT-L/14, takes to look at a batch, beside its weights and the pipeline's."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    if setting.side == tiny.RESOLUTION_PX:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 32}
    config = CLIPVisionConfig(**sizes, num_attention_heads=sizes["hidden_size"] // 64 or 1)
    with torch.device(setting.device):
        extractor = CLIPVisionModel(config).eval()
        pixels = torch.zeros(setting.batch, 3, extractor.config.image_size, extractor.config.image_size)
    before = measured(loaded, setting.device, lambda: None)

    def look() -> None:
        with torch.no_grad():
            extractor(pixels)

    peak = measured(loaded, setting.device, look) - before
    return compared("scoring", SCORING_BYTES, peak)


@cache
def traced(folder: Path, precision: str, side: int, quantisation: str) -> Footprint:
    """A model's footprint; tracing takes seconds."""
    return footprint(folder, precision=precision, resolution_px=side, quantisation=quantisation)


def plain_plan(folder: Path, setting: Setting, quantisation: str = EXACT, **decided: Any) -> MemoryPlan:
    """The plan of a device's memory in which nothing waits elsewhere and activations are kept.

    Args:
        folder: the model's configs.
        setting: how it is run.
        quantisation: of its weights.
        decided: what differs, see `Work`.
    """
    device = setting.device
    found = traced(folder, setting.precision, setting.side, quantisation)
    work = Work(
        setting.batch,
        setting.batch,
        PROMPT_BATCH,
        images_together(setting.side),
        **{"gradient_checkpointing": False, "placement": PLAIN, **decided},
    )
    budget = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else EVERYTHING - 1
    return plan_memory(found, budget, work)


def way_rows(loaded: LoadedPipeline, folder: Path, dataset: Path, setting: Setting) -> list[dict[str, Any]]:
    """Estimated and measured peak of training in ways that save memory, with the whole batch in one pass."""
    data = encode_dataset(loaded, dataset, resolution_px=setting.side, seed=0)
    denoiser = loaded.family.denoiser(loaded.pipe)
    kind = "int8" if find_spec("bitsandbytes") is None else "nf4"
    moved = {"gradient_checkpointing": True, "placement": {**PLAIN, "training_offload": True}}
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "checkpointing": (EXACT, {"gradient_checkpointing": True}),
        "blocks in turn": (EXACT, moved),
        # Last, as there is no way back.
        kind: (kind, {}),
    }
    rows = []
    for name, (quantisation, decided) in ways.items():
        plan = plain_plan(folder, setting, quantisation, micro_batch=setting.batch, **decided)
        config = setting.training(gradient_checkpointing=plan.gradient_checkpointing)
        quantise(denoiser, quantisation)
        loaded.placement = plan.placement
        with (
            attached(loaded, method_of(config), config) as parameters,
            placed(loaded, "denoiser", training=True),
        ):
            training = Training(loaded, parameters, data, config)
            training.step(1)
            peak = measured(loaded, setting.device, partial(training.step, 2))
        loaded.placement = Placement()
        torch.nn.Module.to(denoiser, setting.device)
        rows.append(compared(name, stage_bytes(plan, "training"), peak))
    return rows
