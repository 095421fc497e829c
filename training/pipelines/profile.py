"""What a pipeline is and costs: stored parameters and operations of a call from its configs alone, and images
per second measured with its weights.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from matchgraph.training.errors import BadPipeline, CannotProfile, InvalidConfig, UnknownFamily, first_line
from matchgraph.training.pipelines.counting import (
    batch_size_of,
    counting,
    keep_scheduler_in_place,
    on_meta,
    shapes_of,
)
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.loading import quiet_libraries, read_model_index
from matchgraph.training.pipelines.meta import MetaBuilder
from matchgraph.training.pipelines.samplers import caching, default_drawing, drawing_with

if TYPE_CHECKING:
    from collections.abc import Iterator


Protocol: TypeAlias = Literal["paper", "full"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Part: TypeAlias = Literal["text", "control", "denoising", "decoding"]
PARTS: tuple[str, ...] = get_args(Part)
# What Match & Choose works at: section 5 crops its images to 512 x 512.
RESOLUTION_PX = 512
# PixArt and Sana know bins of sizes for their published checkpoints only, of which this is the smallest.
SMALLEST_BINNED_PX = 256
PROMPT = "a photograph of a cat"
DENOISERS = ("unet", "transformer")
TERA = 1e12
# Of networks without values: some MB each.
PROFILERS_KEPT = 16


@dataclass(frozen=True)
class PipelineProfile:
    """What one call of a pipeline costs. One multiply-add is two operations; TFLOP are 10^12 of them.

    Attributes:
        pipeline: the pipeline's class.
        denoiser: the denoiser's class.
        params: values in the denoiser's checkpoint: its parameters and its persistent buffers, such as the
            position table of Stable Diffusion 3.5.
        trainable: its parameters alone.
        resolution_px: side of the image asked for; Sana and PixArt may draw at a bin near it.
        steps: inference steps asked for.
        guidance: guidance scale asked for.
        calls: calls of the denoiser, as the scheduler asks for them (PNDM: one more than steps).
        rows: images in each of those calls: 2 with classifier-free guidance, 1 without, or if the U-Net
            embeds the scale.
        protocol: which products `tflop` counts, see `PipelineProfiler`.
        tflop: TFLOP of the whole call under that protocol.
        tflop_with_attention: the same with every product of attention counted.
        parts: TFLOP by part (text, control, denoising, decoding), under the protocol; control is what a
            ControlNet adds.
        forward_tflop: TFLOP of the denoiser for one row, under the protocol.
        notes: what could not be taken into account, one sentence each.
    """

    pipeline: str
    denoiser: str
    params: int
    trainable: int
    resolution_px: int
    steps: int
    guidance: float
    calls: int
    rows: int
    protocol: Protocol
    tflop: float
    tflop_with_attention: float
    parts: Mapping[str, float]
    forward_tflop: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self) | {"parts": dict(self.parts), "notes": list(self.notes)}


@dataclass(frozen=True)
class _Cost:
    part: str
    rows: int
    flop: int
    attention_flop: int


class PipelineProfiler:
    """Prices calls of a pipeline from its config files: no weights are read and nothing is computed.

    Every network is built on torch's meta device, where tensors have shapes and no values, and the diffusers
    pipeline's own `__call__` is run with them, so that step counts, guidance, negative prompts, prompt
    lengths, size bins and zeroed embeddings are the pipeline's own defaults and not a copy of them. Lengths
    stand in for tokenizers. The scheduler says itself how often the denoiser is called; equal calls are
    counted once and multiplied.

    Counted are products of matrices and convolutions (`torch.utils.flop_counter`), one multiply-add as two
    operations; norms, activations and softmax are not. The text encoders, the denoiser and the VAE's decoder
    count; a safety checker does not. Two protocols:

    - `paper`: the products inside fused attention (`scaled_dot_product_attention`) are left out, as by
      profilers that watch modules; attention written out as matrix products counts. One prompt, one image of
      512 x 512 or of the pipeline's own size where that is smaller. With the pipeline's defaults this gives
      the TFLOP column of the paper's Table 2 for its ten models within 1 %, but for Sana-1.6B (2 %).
    - `full`: those products count as well.

    Sana puts an instruction before each prompt whose length only its tokenizer knows; where the folder has
    none, the instruction is left out and a note says so.

    Source:
        Match & Choose, Table 2. The paper does not state its protocol: this one was found as the one under
        which the table's figures come out.
    """

    def __init__(self, folder: str | os.PathLike[str], controlnet: Mapping[str, Any] | None = None) -> None:
        """Build the pipeline of a folder on the meta device.

        Args:
            folder: a folder with model_index.json and its components' configs.
            controlnet: config of a ControlNet that steers it; none by default.

        Raises:
            BadPipeline: the folder is not a pipeline, or a config in it is missing or cannot be read.
            CannotProfile: its classes are not in this diffusers or transformers, or do not go together.
        """
        self.folder = Path(folder)
        self._costs: list[_Cost] = []
        # A call's costs are collected here; a second thread's must not come between.
        self._alone = threading.Lock()
        self._kind_of_pass: Callable[[], bool] | None = None
        index = read_model_index(self.folder)
        with quiet_libraries(), self._explained():
            builder = MetaBuilder(self.folder)
            self._pipe = builder.build(index)
            if controlnet is not None:
                self._pipe = builder.steered(self._pipe, index, controlnet)
        self._notes = tuple(builder.notes)
        # A pipeline that cannot be fine-tuned here can be priced all the same.
        with suppress(UnknownFamily):
            family_of(index).prepare(self._pipe)
        name = next((name for name in DENOISERS if getattr(self._pipe, name, None) is not None), None)
        if name is None:
            raise CannotProfile(
                f"{self.folder} has no {' or '.join(DENOISERS)}, so it is not known what to count."
            )
        self._denoiser = getattr(self._pipe, name)
        self.params = sum(value.numel() for value in self._denoiser.state_dict().values())
        self.trainable = sum(parameter.numel() for parameter in self._denoiser.parameters())
        self._watch(self._denoiser, "forward", "denoising")
        self._watch(self._pipe.vae, "decode", "decoding")
        if controlnet is not None:
            self._watch(self._pipe.controlnet, "forward", "control")
        for name, component in self._pipe.components.items():
            if name.startswith("text_encoder") and component is not None:
                self._watch(component, "forward", "text")
        keep_scheduler_in_place(self._pipe.scheduler)

    @property
    def native_px(self) -> int:
        """Side in pixels of the images that the pipeline was made for."""
        return native_resolution(self._pipe)

    def price(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        resolution_px: int | None = None,
        protocol: Protocol = "paper",
        sampler: str | None = None,
        cache_interval: int = 1,
    ) -> PipelineProfile:
        """Price one call for one image.

        Args:
            steps: inference steps; the pipeline's default by default.
            guidance: guidance scale; 1 or less switches classifier-free guidance off. The pipeline's default
                by default.
            resolution_px: side of the image; 512 or, where that is smaller, the pipeline's own by default.
            protocol: what `tflop` counts, see the class.
            sampler: class of diffusers' scheduler to draw with; the pipeline's own by default.
            cache_interval: see `training.pipelines.samplers.caching`.

        Raises:
            InvalidConfig: an unknown protocol, a sampler or caching that does not fit, or a number out of
                range.
            CannotProfile: the pipeline refuses the call.
        """
        import torch

        if protocol not in PROTOCOLS:
            raise InvalidConfig(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
        call = call_arguments(self._pipe, steps=steps, guidance=guidance, resolution_px=resolution_px)
        own = self._pipe.scheduler
        with (
            self._alone,
            drawing_with(self._pipe, sampler),
            caching(self._pipe, cache_interval) as whole,
            quiet_libraries(),
            self._explained(),
            torch.no_grad(),
        ):
            costs: list[_Cost] = []
            self._costs = costs
            # Passes that reuse layers cost less, and need a whole one before them.
            self._kind_of_pass = None if cache_interval == 1 else whole
            if self._pipe.scheduler is not own:
                keep_scheduler_in_place(self._pipe.scheduler)
            self._pipe.set_progress_bar_config(disable=True)
            if "controlnet" in self._pipe.components:
                call["image"] = torch.zeros(1, 3, call["height"], call["width"])
            self._pipe(prompt=PROMPT, output_type="pt", **call)
        counted: Mapping[Protocol, Callable[[_Cost], float]] = {
            "paper": lambda cost: cost.flop,
            "full": lambda cost: cost.flop + cost.attention_flop,
        }
        flop = counted[protocol]
        parts = {part: sum(flop(cost) for cost in costs if cost.part == part) / TERA for part in PARTS}
        forwards = [cost for cost in costs if cost.part == "denoising"]
        return PipelineProfile(
            pipeline=type(self._pipe).__name__,
            denoiser=type(self._denoiser).__name__,
            params=self.params,
            trainable=self.trainable,
            resolution_px=call["height"],
            steps=call["num_inference_steps"],
            guidance=call[guidance_argument(self._pipe)[0]],
            calls=len(forwards),
            rows=forwards[0].rows,
            protocol=protocol,
            tflop=sum(flop(cost) for cost in costs) / TERA,
            tflop_with_attention=sum(counted["full"](cost) for cost in costs) / TERA,
            parts=parts,
            forward_tflop=flop(forwards[0]) / forwards[0].rows / TERA,
            notes=self._notes,
        )

    def _watch(self, module: Any, method: str, part: Part) -> None:
        """Count what a method costs, once for each shape of its inputs."""
        original = getattr(module, method)
        seen: dict[object, tuple[Any, _Cost]] = {}

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = on_meta(args), on_meta(kwargs)
            # Masked products are computed like all others, and networks would look at a mask's values, of
            # which there are none.
            if part == "text":
                kwargs.pop("attention_mask", None)
            kind = self._kind_of_pass() if part == "denoising" and self._kind_of_pass else None
            key = shapes_of((args, kwargs)), kind
            if key not in seen:
                with counting() as count:
                    output = original(*args, **kwargs)
                seen[key] = output, _Cost(part, batch_size_of((args, kwargs)), *count())
            output, cost = seen[key]
            self._costs.append(cost)
            return output

        setattr(module, method, counted)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell whatever the libraries make of configs that do not fit in one line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (BadPipeline, MemoryError):
            raise
        except Exception as error:
            raise CannotProfile(
                f"{self.folder} cannot be profiled: {type(error).__name__}: {first_line(error)}"
            ) from error


def profiler_of(
    folder: str | os.PathLike[str], controlnet: Mapping[str, Any] | None = None
) -> PipelineProfiler:
    """The profiler of a folder; the one built before while the folder's configs are the same.

    Args:
        folder: see `PipelineProfiler`.
        controlnet: see `PipelineProfiler`.
    """
    # Of a folder that is linked to from several places there is one profiler.
    folder = Path(folder).resolve()
    states = []
    for file in sorted(folder.rglob("*.json")):
        state = file.stat()
        states.append((str(file), state.st_mtime_ns, state.st_size))
    # A config that was loaded also says where from, as a path.
    steering = None if controlnet is None else json.dumps(dict(controlnet), default=str)
    return _built(str(folder), tuple(states), steering)


@functools.lru_cache(maxsize=PROFILERS_KEPT)
def _built(folder: str, states: object, controlnet: str | None) -> PipelineProfiler:  # noqa: ARG001
    return PipelineProfiler(folder, None if controlnet is None else json.loads(controlnet))


def call_arguments(
    pipe: Any, *, steps: int | None = None, guidance: float | None = None, resolution_px: int | None = None
) -> dict[str, Any]:
    """The arguments of a pipeline's default call, with what is not its own default put in.

    Args:
        pipe: a diffusers pipeline.
        steps: inference steps; its default if None.
        guidance: guidance scale; its default if None.
        resolution_px: side of the image; if None 512, or the pipeline's own size where that is smaller.

    Raises:
        InvalidConfig: a number out of range.
        CannotProfile: the pipeline's call has no steps or guidance.
    """
    if steps is not None and steps < 1:
        raise InvalidConfig(f"steps must be at least 1, got {steps}.")
    if guidance is not None and not guidance >= 0:
        raise InvalidConfig(f"guidance must be at least 0, got {guidance}.")
    native = native_resolution(pipe)
    side = resolution_px or min(RESOLUTION_PX, native)
    if side < 1:
        raise InvalidConfig(f"resolution_px must be at least 1, got {side}.")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(type(pipe).__call__).parameters.items()
    }
    scale, negative = guidance_argument(pipe)
    if not {"prompt", "num_inference_steps", scale, "height", "width"} <= set(defaults):
        raise CannotProfile(f"{type(pipe).__name__} is not a text-to-image pipeline with steps and guidance.")
    own_steps, own_guidance = default_drawing(pipe, defaults["num_inference_steps"], defaults[scale])
    arguments: dict[str, Any] = {
        "num_inference_steps": own_steps if steps is None else steps,
        scale: own_guidance if guidance is None else guidance,
        "height": side,
        "width": side,
    }
    if negative is not None:
        arguments["negative_prompt"] = negative
    if "use_resolution_binning" in defaults and native < SMALLEST_BINNED_PX:
        arguments["use_resolution_binning"] = False
    if isinstance(limit := defaults.get("max_sequence_length"), int):
        arguments["max_sequence_length"] = min([limit, *_token_limits(pipe)])
    return arguments


def guidance_argument(pipe: Any) -> tuple[str, str | None]:
    """The argument of a pipeline's call that takes the scale, and the negative prompt it needs to guide."""
    try:
        found = family_of({"_class_name": type(pipe).__name__})
    except UnknownFamily:
        return "guidance_scale", None
    return found.guidance_argument, found.negative_prompt


def native_resolution(pipe: Any) -> int:
    """Side in pixels of the images that a pipeline was made for, from its configs."""
    denoiser = next(getattr(pipe, name) for name in DENOISERS if getattr(pipe, name, None) is not None)
    size = getattr(denoiser.config, "sample_size", None)
    size = max(size) if isinstance(size, list | tuple) else size
    if size:
        return size * pipe.vae_scale_factor
    # Flux's transformer has no size of its own.
    return getattr(pipe.vae.config, "sample_size", None) or RESOLUTION_PX


def _token_limits(pipe: Any) -> list[int]:
    """Lengths that bound a pipeline's `max_sequence_length`: those of the text encoder that it speaks of,
    which is its last; of its first one where the last is left out.
    """
    names = sorted(name for name in pipe.components if name.startswith("tokenizer"))
    present = [name for name in names if getattr(pipe, name) is not None]
    if not present:
        return []
    name = names[-1] if names[-1] in present else names[0]
    encoder = getattr(pipe, name.replace("tokenizer", "text_encoder"))
    tokenizer = getattr(pipe, name)
    # A processor of texts and pictures has a tokenizer inside; Kolors' tokenizer has one of another kind.
    if not hasattr(tokenizer, "model_max_length"):
        tokenizer = tokenizer.tokenizer
    limits = (tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None))
    return [limit for limit in limits if limit]
