"""Facts about a model that no config states: parameters, operations of a call, and images per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.graphdb.models import Model
from matchgraph.ingest.errors import IngestError
from matchgraph.settings import check_settings, same_setting, setting
from matchgraph.training.config import FineTuneConfig

if TYPE_CHECKING:
    import torch

# What `tflop` counts; see `training.pipelines.profile.PipelineProfiler`.
PROTOCOL: Literal["paper"] = "paper"
# Whatever begins like this came from here, and goes when the folder's content changes.
MEASURED = ("params", "tflop", "throughput")
# A call on a CPU may take hours, too long for adding a model. Below this limit it is measured; the
# speed is what small convolutions reach on two cores, so a faster machine only waits less.
CPU_LIMIT_SECONDS = 60
CPU_TFLOP_PER_SECOND = 0.02
REPEATS = 3


@dataclass(frozen=True)
class FactsConfig:
    """Which facts are measured, and how.

    Args:
        throughput: measure images per second: True, False, or None for where it takes a minute at most.
        device: where; `auto` is a GPU where there is one.
        precision: of the weights.
        batch_size: images in a call.
        resolution_px: their side; 512, or the pipeline's own where that is smaller, if None.
        steps: inference steps; the pipeline's default if None.
        guidance: guidance scale; the pipeline's default if None.
    """

    throughput: bool | None = setting(
        None,
        "Whether to measure images per second; by default on a GPU, and on a CPU if it takes at most a "
        "minute.",
    )
    device: str = same_setting(FineTuneConfig, "device")
    precision: str = same_setting(
        FineTuneConfig, "precision", help="Precision of the weights when throughput is measured."
    )
    batch_size: int = setting(1, "Images per measured call.", at_least=1)
    resolution_px: int | None = setting(
        None,
        "Side of the measured images, in pixels; by default 512 or the pipeline's own, if smaller.",
        at_least=8,
        option="--resolution",
    )
    steps: int | None = setting(
        None,
        "Inference steps of a measured call; by default the pipeline's.",
        at_least=1,
        option="--sampling-steps",
    )
    guidance: float | None = setting(
        None, "Guidance scale of a measured call; by default the pipeline's.", at_least=0
    )

    def __post_init__(self) -> None:
        check_settings(self, IngestError)


def check_device(config: FactsConfig) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        training.errors.InvalidConfig: naming it.
    """
    if config.throughput is False or config.device in ("auto", "cpu"):
        return
    from matchgraph.training.pipelines.loading import choose_device

    choose_device(config.device)


def known_facts(model: Model, stored: Model | None) -> dict[str, Any]:
    """The facts that the graph has of the very folder that a model was read from.

    Args:
        model: the model as read from its folder.
        stored: the same model as the graph has it, if it does.

    Returns:
        Attributes; none where the folder's configs or weights are no longer those that were measured.
    """
    if stored is None or stored.properties.get("content_hash") != model.properties["content_hash"]:
        return {}
    return {name: value for name, value in stored.properties.items() if is_measured(name)}


def is_measured(name: str) -> bool:
    """Whether an attribute is a measured fact or says how one was measured."""
    return name in MEASURED or name.startswith(tuple(f"{fact}_" for fact in MEASURED))


def profile_facts(model: Model, known: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Count a pipeline's parameters and operations from its configs, unless that is known.

    Args:
        model: a model read from a pipeline folder.
        known: what `known_facts` gave.

    Returns:
        Attributes: `params` (values stored for the denoiser; kept where its weights' headers gave it),
        `tflop` of the default call, and `tflop_...`, by which other calls can be priced: `tflop_text +
        tflop_decoding + tflop_calls * tflop_rows * tflop_forward`. And notes.
    """
    if known.get("tflop_protocol") == PROTOCOL and {"params", "tflop"} <= set(known):
        return {}, []
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.pipelines.profile import profiler_of

    try:
        profile = profiler_of(str(model.properties["source"])).price(protocol=PROTOCOL)
    except TrainingError as error:
        return {}, [f"{model.id}: tflop is left out: {error}"]
    return {
        "params": model.properties.get("params", profile.params),
        "tflop": profile.tflop,
        "tflop_with_attention": profile.tflop_with_attention,
        "tflop_forward": profile.forward_tflop,
        "tflop_text": profile.parts["text"],
        "tflop_decoding": profile.parts["decoding"],
        "tflop_calls": profile.calls,
        "tflop_rows": profile.rows,
        "tflop_steps": profile.steps,
        "tflop_guidance": profile.guidance,
        "tflop_resolution_px": profile.resolution_px,
        "tflop_protocol": profile.protocol,
    }, [f"{model.id}: {note}" for note in profile.notes]


def throughput_facts(
    model: Model, known: Mapping[str, Any], config: FactsConfig
) -> tuple[dict[str, Any], list[str]]:
    """Measure how fast a pipeline draws, where its weights are there and that is not known.

    Args:
        model: a model read from a pipeline folder, with the attributes of `profile_facts`.
        known: what `known_facts` gave.
        config: how to measure.

    Returns:
        Attributes: `throughput` in images per second, and `throughput_...`, which say where and how it was
        measured; none where it was not. And notes, which say why.
    """
    folder = Path(str(model.properties["source"]))
    if config.throughput is False:
        return {}, []
    if bare := _without_weights(folder):
        note = [f"{model.id}: throughput is left out: {', '.join(bare)} has no weights here"]
        return {}, note if config.throughput else []
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.pipelines.loading import LoadedPipeline, choose_device
    from matchgraph.training.pipelines.throughput import device_name, measure_throughput

    device = choose_device(config.device)
    if _is_known(known, config, device_name(device)):
        return {}, []
    if config.throughput is None and (reason := _too_slow(model, config, device)):
        return {}, [f"{model.id}: throughput is left out: {reason}"]
    try:
        with LoadedPipeline(folder, device=str(device), precision=config.precision) as loaded:
            found = measure_throughput(
                loaded,
                steps=config.steps,
                guidance=config.guidance,
                resolution_px=config.resolution_px,
                batch_size=config.batch_size,
                repeats=REPEATS,
            ).to_dict()
    except TrainingError as error:
        return {}, [f"{model.id}: throughput is left out: {error}"]
    images_per_second = found.pop("images_per_second")
    return {"throughput": images_per_second} | {
        f"throughput_{name}": value for name, value in found.items()
    }, []


def _without_weights(folder: Path) -> list[str]:
    """The components that have a network's config and no safetensors weights."""
    return [
        path.parent.name
        for path in sorted(folder.glob("*/config.json"))
        if path.parent.name != "safety_checker" and not any(path.parent.glob("*.safetensors"))
    ]


def _is_known(known: Mapping[str, Any], config: FactsConfig, device: str) -> bool:
    """Whether what is asked for was measured on this device already."""
    asked: dict[str, Any] = {
        "device": device,
        "precision": config.precision,
        "batch_size": config.batch_size,
    }
    for name in ("resolution_px", "steps", "guidance"):
        # The default call is the one that was profiled.
        given = getattr(config, name)
        asked[name] = known.get(f"tflop_{name}") if given is None else given
    return "throughput" in known and all(
        known.get(f"throughput_{name}") == value for name, value in asked.items() if value is not None
    )


def _too_slow(model: Model, config: FactsConfig, device: torch.device) -> str | None:
    """Why a call on this device is not waited for, or None."""
    if device.type != "cpu":
        return None
    facts: Mapping[str, Any] = model.properties
    cost = facts.get("tflop_with_attention")
    if cost is None:
        return "it is not known how long a call takes on a CPU; --throughput measures it anyway"
    # Read from what was counted for the default call: a fair guess for others too.
    if config.steps is not None:
        cost *= config.steps / facts["tflop_steps"]
    if config.resolution_px is not None:
        cost *= (config.resolution_px / facts["tflop_resolution_px"]) ** 2
    seconds = cost * config.batch_size * (1 + REPEATS) / CPU_TFLOP_PER_SECOND
    if seconds <= CPU_LIMIT_SECONDS:
        return None
    return (
        f"{1 + REPEATS} calls of {cost:.3g} TFLOP would keep a CPU busy for some {_duration(seconds)}; "
        "--throughput measures it anyway, --device names a GPU"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
