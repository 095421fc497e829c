"""Images per second of a pipeline, measured with its weights."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import CannotProfile, InvalidConfig, first_line
from matchgraph.training.pipelines.loading import quiet_libraries
from matchgraph.training.pipelines.profile import PROMPT, call_arguments, guidance_argument

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.loading import LoadedPipeline


@dataclass(frozen=True)
class Throughput:
    """How fast a pipeline draws, and where and how that was measured.

    Attributes:
        images_per_second: images of a call by its median time.
        device: the accelerator's or the processor's name.
        precision: of the weights.
        batch_size: images in a call.
        resolution_px: their side.
        steps: inference steps.
        guidance: guidance scale.
        repeats: timed calls; one more went before them and was not timed.
    """

    images_per_second: float
    device: str
    precision: str
    batch_size: int
    resolution_px: int
    steps: int
    guidance: float
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def measure_throughput(
    loaded: LoadedPipeline,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    resolution_px: int | None = None,
    batch_size: int = 1,
    repeats: int = 3,
) -> Throughput:
    """Time whole calls of a loaded pipeline, text encoding and decoding included.

    One call goes before, so that loading kernels is not timed; then the median of `repeats` calls counts.

    Args:
        loaded: the pipeline, on its device and in its precision.
        steps: inference steps; the pipeline's default by default.
        guidance: guidance scale; the pipeline's default by default.
        resolution_px: side of the images; 512 or, where that is smaller, the pipeline's own by default.
        batch_size: images in a call.
        repeats: timed calls.

    Raises:
        InvalidConfig: a number out of range.
        CannotProfile: the pipeline refuses the call.

    Source:
        Match & Choose, Table 2, gives the inverse: the seconds of one image.
    """
    import torch

    if batch_size < 1 or repeats < 1:
        raise InvalidConfig(f"batch_size and repeats must be at least 1, got {batch_size} and {repeats}.")
    call = call_arguments(loaded.pipe, steps=steps, guidance=guidance, resolution_px=resolution_px)
    scale, negative = guidance_argument(loaded.pipe)
    if negative is not None:
        call["negative_prompt"] = [negative] * batch_size
    seconds: list[float] = []
    for _ in range(repeats + 1):
        generators = [torch.Generator().manual_seed(row) for row in range(batch_size)]
        began = time.perf_counter()
        try:
            with quiet_libraries():
                loaded.pipe(prompt=[PROMPT] * batch_size, generator=generators, **call)
        except (ValueError, TypeError, RuntimeError) as error:
            raise CannotProfile(
                f"{loaded.folder} cannot be sampled at {call['height']} pixels: {first_line(error)}"
            ) from error
        # The images are back in the CPU's memory by now, so no work of an accelerator is left out.
        seconds.append(time.perf_counter() - began)
    return Throughput(
        images_per_second=batch_size / statistics.median(seconds[1:]),
        device=device_name(loaded.device),
        precision=loaded.precision,
        batch_size=batch_size,
        resolution_px=call["height"],
        steps=call["num_inference_steps"],
        guidance=call[scale],
        repeats=repeats,
    )


def device_name(device: torch.device) -> str:
    """What figures measured on a device belong to: its product name, and a processor's threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"
