"""What a pipeline is and costs: stored parameters and operations of a call from its configs alone, and images
per second measured with its weights.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from matchgraph.training.errors import BadPipeline, CannotProfile, InvalidConfig, UnknownFamily, first_line
from matchgraph.training.pipelines.families import ALIASES, family_of
from matchgraph.training.pipelines.loading import UNUSED_COMPONENTS, quiet_libraries, read_model_index
from matchgraph.training.pipelines.samplers import caching, default_drawing, drawing_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from matchgraph.training.pipelines.loading import LoadedPipeline

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
# Turn text into tokens, pictures into other models' inputs, or filter pictures: none of them is counted.
UNBUILT = ("tokenizer", "image_processor", *UNUSED_COMPONENTS)
TERA = 1e12


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
        rows: images in each of those calls: 2 with classifier-free guidance, 1 without, or where the U-Net is
            told the scale.
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


@dataclass(frozen=True)
class _Cost:
    part: str
    rows: int
    flop: int
    attention_flop: int


def profile_pipeline(
    folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    resolution_px: int | None = None,
    protocol: Protocol = "paper",
) -> PipelineProfile:
    """Price one call of the pipeline in a folder; see `PipelineProfiler`, which prices several for less.

    Raises:
        BadPipeline: the folder is no pipeline, or a config in it is missing or cannot be read.
        CannotProfile: its classes are not in this diffusers or transformers, or do not go together.
    """
    return PipelineProfiler(folder).price(
        steps=steps, guidance=guidance, resolution_px=resolution_px, protocol=protocol
    )


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
            BadPipeline: the folder is no pipeline, or a config in it is missing or cannot be read.
            CannotProfile: its classes are not in this diffusers or transformers, or do not go together.
        """
        self.folder = Path(folder)
        self._notes: list[str] = []
        self._costs: list[_Cost] = []
        self._kind_of_pass: Callable[[], bool] | None = None
        index = read_model_index(self.folder)
        with quiet_libraries(), self._explained():
            self._pipe = self._build(index)
            if controlnet is not None:
                self._pipe = self._steered(index, controlnet)
        # A pipeline that cannot be fine-tuned here can be priced all the same.
        with suppress(UnknownFamily):
            family_of(index).settle(self._pipe)
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
        _keep_scheduler_in_place(self._pipe.scheduler)

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
        self._costs.clear()
        own = self._pipe.scheduler
        with (
            drawing_with(self._pipe, sampler),
            caching(self._pipe, cache_interval) as whole,
            quiet_libraries(),
            self._explained(),
            torch.no_grad(),
        ):
            # Passes that reuse layers cost less, and need a whole one before them.
            self._kind_of_pass = None if cache_interval == 1 else whole
            if self._pipe.scheduler is not own:
                _keep_scheduler_in_place(self._pipe.scheduler)
            self._pipe.set_progress_bar_config(disable=True)
            if "controlnet" in self._pipe.components:
                call["image"] = torch.zeros(1, 3, call["height"], call["width"])
            self._pipe(prompt=PROMPT, output_type="pt", **call)
        counted = {"paper": lambda cost: cost.flop, "full": lambda cost: cost.flop + cost.attention_flop}
        flop = counted[protocol]
        parts = {part: sum(flop(cost) for cost in self._costs if cost.part == part) / TERA for part in PARTS}
        forwards = [cost for cost in self._costs if cost.part == "denoising"]
        return PipelineProfile(
            pipeline=type(self._pipe).__name__,
            denoiser=type(self._denoiser).__name__,
            params=self.params,
            trainable=self.trainable,
            resolution_px=call["height"],
            steps=call["num_inference_steps"],
            guidance=call["guidance_scale"],
            calls=len(forwards),
            rows=forwards[0].rows,
            protocol=protocol,
            tflop=sum(flop(cost) for cost in self._costs) / TERA,
            tflop_with_attention=sum(counted["full"](cost) for cost in self._costs) / TERA,
            parts=parts,
            forward_tflop=flop(forwards[0]) / forwards[0].rows / TERA,
            notes=tuple(self._notes),
        )

    def _build(self, index: Mapping[str, Any]) -> Any:
        import diffusers

        class_name = str(index.get("_class_name"))
        if class_name in ALIASES:
            # As such folders are drawn.
            class_name = family_of(index).pipeline_class
        pipeline_class = getattr(diffusers, class_name, None)
        if not (inspect.isclass(pipeline_class) and issubclass(pipeline_class, diffusers.DiffusionPipeline)):
            raise CannotProfile(
                f"{self.folder}: this diffusers ({diffusers.__version__}) has no pipeline {class_name!r}."
            )
        components: dict[str, Any] = {}
        expected = inspect.signature(pipeline_class.__init__).parameters
        for name, parameter in expected.items():
            entry = index.get(name)
            if name == "self" or (not isinstance(entry, list) and parameter.default is not parameter.empty):
                # A flag of the pipeline: as its index has it, or its default.
                if name in index:
                    components[name] = entry
            elif name == "scheduler":
                components[name] = self._scheduler(entry, parameter.annotation)
            elif name.startswith(UNBUILT) or entry in ([None, None], None):
                components[name] = None
            else:
                components[name] = self._network(name, entry)
        if "requires_safety_checker" in expected:
            components["requires_safety_checker"] = False
        if "add_watermarker" in expected:
            components["add_watermarker"] = False
        for name in expected:
            encoder = components.get(name.replace("tokenizer", "text_encoder"))
            if name.startswith("tokenizer") and encoder is not None:
                components[name] = self._tokenizer(name, index.get(name), encoder)
        pipe = pipeline_class(**components)
        if "complex_human_instruction" in inspect.signature(pipeline_class.__call__).parameters:
            self._count_instruction(index.get("tokenizer"), pipe.tokenizer)
        return pipe

    def _steered(self, index: Mapping[str, Any], controlnet: Mapping[str, Any]) -> Any:
        import diffusers
        import torch

        from matchgraph.training.pipelines.controlnet import steered

        with torch.device("meta"):
            network = diffusers.ControlNetModel.from_config(dict(controlnet))
        return steered(self._pipe, network.eval().requires_grad_(False), family_of(index))

    def _network(self, name: str, entry: object) -> Any:
        import torch
        import transformers

        network_class = self._class(name, entry)
        config = self._config(self.folder / name / "config.json")
        with torch.device("meta"):
            if issubclass(network_class, transformers.PreTrainedModel):
                # Where a network takes a device it would not heed the one around it.
                takes_device = "device" in inspect.signature(network_class.__init__).parameters
                options = {"device": "meta"} if takes_device else {}
                network = network_class(network_class.config_class.from_dict(config), **options)
            elif hasattr(network_class, "from_config"):
                network = network_class.from_config(config)
            else:
                raise CannotProfile(
                    f"{self.folder}: {name} is a {network_class.__name__}, which is no network."
                )
        # Some configs state the precision of their weights, and mixed ones do not multiply.
        return network.to(torch.float32).eval().requires_grad_(False)

    def _scheduler(self, entry: object, annotation: object) -> Any:
        import diffusers

        path = self.folder / "scheduler" / "scheduler_config.json"
        config = self._config(path) if path.is_file() else {}
        if isinstance(entry, list) and entry != [None, None]:
            return self._class("scheduler", entry).from_config(config)
        self._notes.append("the pipeline names no scheduler class, so one call a step is counted")
        stands_in = annotation if hasattr(annotation, "from_config") else diffusers.EulerDiscreteScheduler
        return stands_in.from_config(config)

    def _class(self, name: str, entry: object) -> type:
        """A component's class, from diffusers or transformers themselves and never from a model folder."""
        import diffusers
        import transformers

        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise BadPipeline(f"{self.folder / 'model_index.json'}: {name} is no [library, class] pair.")
        library, class_name = entry
        modules = {"diffusers": diffusers, "transformers": transformers}
        # Classes that diffusers keeps beside a pipeline of its own, such as Kolors' ChatGLM.
        module = modules.get(library) or getattr(diffusers.pipelines, library, None)
        found = getattr(module, class_name, None) if inspect.ismodule(module) else None
        if not inspect.isclass(found):
            raise CannotProfile(
                f"{self.folder}: {name} is {library}.{class_name}, which these diffusers "
                f"({diffusers.__version__}) and transformers ({transformers.__version__}) do not have."
            )
        return found

    def _config(self, path: Path) -> dict[str, Any]:
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadPipeline(
                f"{path} is missing; copy the pipeline's configs, weights are not needed."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise BadPipeline(f"{path} cannot be read as JSON: {error}.") from None
        if not isinstance(config, dict):
            raise BadPipeline(f"{path} is no JSON object.")
        return config

    def _tokenizer(self, name: str, entry: object, encoder: Any) -> _TokenLengths:
        limits = [getattr(encoder.config, "max_position_embeddings", None)]
        path = self.folder / name / "tokenizer_config.json"
        if isinstance(entry, list) and path.is_file():
            limits.append(self._config(path).get("model_max_length"))
        return _TokenLengths(min((limit for limit in limits if isinstance(limit, int)), default=None))

    def _count_instruction(self, entry: object, tokenizer: _TokenLengths) -> None:
        """Let the folder's own tokenizer, if there is one, say how long Sana's instruction is."""
        import transformers

        folder = self.folder / "tokenizer"
        if isinstance(entry, list) and folder.is_dir():
            try:
                real = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                self._notes.append(f"the tokenizer cannot be read ({first_line(error)})")
            else:
                tokenizer.encode = real.encode
                return
        self._notes.append(
            "no tokenizer is there to say how long the instruction before each prompt is: it is not counted"
        )

    def _watch(self, module: Any, method: str, part: Part) -> None:
        """Count what a method costs, once for each shape of its inputs."""
        original = getattr(module, method)
        seen: dict[object, tuple[Any, _Cost]] = {}

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _on_meta(args), _on_meta(kwargs)
            # Masked products are computed like all others, and networks would look at a mask's values, of
            # which there are none.
            if part == "text":
                kwargs.pop("attention_mask", None)
            kind = self._kind_of_pass() if part == "denoising" and self._kind_of_pass else None
            key = _shapes((args, kwargs)), kind
            if key not in seen:
                with _counting() as count:
                    output = original(*args, **kwargs)
                seen[key] = output, _Cost(part, _rows((args, kwargs)), *count())
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
    if not {"prompt", "num_inference_steps", "guidance_scale", "height", "width"} <= set(defaults):
        raise CannotProfile(f"{type(pipe).__name__} is no text-to-image pipeline with steps and guidance.")
    own_steps, own_guidance = default_drawing(
        pipe, defaults["num_inference_steps"], defaults["guidance_scale"]
    )
    arguments: dict[str, Any] = {
        "num_inference_steps": own_steps if steps is None else steps,
        "guidance_scale": own_guidance if guidance is None else guidance,
        "height": side,
        "width": side,
    }
    if "use_resolution_binning" in defaults and native < SMALLEST_BINNED_PX:
        arguments["use_resolution_binning"] = False
    if isinstance(limit := defaults.get("max_sequence_length"), int):
        arguments["max_sequence_length"] = min([limit, *_token_limits(pipe)])
    return arguments


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
    limits = (getattr(pipe, name).model_max_length, getattr(encoder.config, "max_position_embeddings", None))
    return [limit for limit in limits if limit]


class _TokenLengths:
    """Stands for a tokenizer whose text does not matter: gives as many tokens as there is room for."""

    # Read by diffusers where it looks for tokens of textual inversion.
    added_tokens_encoder: Mapping[str, int] = {}

    def __init__(self, limit: int | None) -> None:
        # Longer than any prompt a pipeline reads, as tokenizers without a limit have it.
        self.model_max_length = limit or 10**9

    def __call__(
        self, text: str | list[str], *, padding: object = None, max_length: int | None = None, **_: object
    ) -> Any:
        import torch
        import transformers

        # Asked for unpadded text, a pipeline wants to know whether any was cut off: none was.
        length = 1 if padding == "longest" else max_length or self.model_max_length
        ids = torch.zeros(1 if isinstance(text, str) else len(text), length, dtype=torch.long)
        positions = torch.arange(length).expand_as(ids)
        return transformers.BatchEncoding(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": positions}
        )

    def tokenize(self, _: str) -> list[str]:
        return []

    def encode(self, _: str) -> list[int]:
        # The first and last token, which every text has.
        return [0, 0]


def _keep_scheduler_in_place(scheduler: Any) -> None:
    """Let a scheduler give its timesteps, whose number counts, and leave the latents alone: the arithmetic on
    them needs values and is nothing beside a forward.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step

    @functools.wraps(set_timesteps)
    def on_cpu(*args: Any, device: object = None, **kwargs: Any) -> None:  # noqa: ARG001
        set_timesteps(*args, device="cpu", **kwargs)

    @functools.wraps(step)
    def stay(_output: Any, _timestep: Any, sample: Any, *_args: Any, **_kwargs: Any) -> tuple[Any]:
        return (sample,)

    scheduler.set_timesteps = on_cpu
    scheduler.step = stay
    scheduler.scale_model_input = lambda sample, *_: sample


@contextmanager
def _counting() -> Iterator[Any]:
    """Count the operations inside; what it gives returns (all but fused attention, fused attention)."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    attention = torch.nn.functional.scaled_dot_product_attention

    class FusedAttention(TorchFunctionMode):
        """Skips fused attention, which meta tensors would take apart into products that cannot be told from
        others, and counts it by its two products: of queries with keys, and of their weights with values.
        """

        flop = 0

        def __torch_function__(
            self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if function is not attention:
                return function(*args, **kwargs)
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            query, key, value = named["query"], named["key"], named["value"]
            self.flop += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
            return query.new_empty((*query.shape[:-1], value.shape[-1]))

    fused = FusedAttention()
    with FlopCounterMode(display=False) as counter, fused:
        yield lambda: (counter.get_total_flops(), fused.flop)


def _on_meta(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: _on_meta(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_meta(item) for item in value)
    return value


def _shapes(value: Any) -> object:
    """What of a method's inputs its cost can depend on, as a dictionary key."""
    import torch

    if isinstance(value, torch.Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, dict):
        return tuple((key, _shapes(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_shapes(item) for item in value)
    return repr(value)


def _rows(value: Any) -> int:
    """Batch size of the largest tensor among a method's inputs."""
    import torch

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    return max(
        (tensor for tensor in tensors(value) if tensor.ndim > 1), key=lambda tensor: tensor.numel()
    ).shape[0]


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
        guidance=call["guidance_scale"],
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
