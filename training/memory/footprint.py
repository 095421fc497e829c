"""What a model's stages take of a GPU's memory, from its folder's configs: no weights are read.

Counted are the tensors that are alive at once, as torch's allocator would hold them; what a GPU's libraries
take for themselves, and what is lost between tensors, is the planner's margin.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.drawing import PRECISIONS
from matchgraph.training.config import EXACT
from matchgraph.training.errors import BadPipeline, CannotProfile, first_line
from matchgraph.training.memory.blocks import TracedBlocks, standing_in
from matchgraph.training.memory.tracing import TRACED_ROWS, Hull, Tracer, as_on_a_gpu
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.loading import quiet_libraries, read_model_index
from matchgraph.training.pipelines.meta import MetaBuilder
from matchgraph.training.pipelines.placement import blocks_of
from matchgraph.training.pipelines.quantisation import quantise

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """A component's weights, in bytes.

    Args:
        whole: all of them.
        in_blocks: those in its repeated blocks, which can wait in the computer's memory for their turn.
        largest_block: those of the largest block.
    """

    whole: int
    in_blocks: int
    largest_block: int


@dataclass(frozen=True)
class Footprint:
    """What the stages of a model take at one resolution and precision, beside the weights.

    Args:
        resolution_px: side of the images.
        denoiser: name of the denoiser's component.
        frozen: whether the denoiser's own weights are, which can then be moved.
        parts: weights of each component.
        trained: values that are trained.
        text: by prompts encoded together.
        encode: of the VAE, by images encoded together.
        training: forward and backward pass, by images in it.
        checkpointed: the same with gradient checkpointing; None where the denoiser has none.
        sampling: one forward pass, by rows in it.
        guided_rows: rows of a pass for each image drawn.
        decode: of the VAE, by images decoded together.
        decode_tile: the same for one tile of each image.
    """

    resolution_px: int
    denoiser: str
    frozen: bool
    parts: Mapping[str, Part]
    trained: int
    text: Hull
    encode: Hull
    training: Hull
    checkpointed: Hull | None
    sampling: Hull
    guided_rows: int
    decode: Hull
    decode_tile: Hull

    def weights(self, name: str) -> int:
        """Bytes of a component's weights."""
        return self.parts[name].whole

    def waiting(self, name: str) -> int:
        """Bytes of a component's weights that need not be on the GPU all at once."""
        part = self.parts[name]
        return part.in_blocks - part.largest_block

    @property
    def encoders(self) -> list[str]:
        """Names of the text encoders."""
        return [name for name in self.parts if name.startswith("text_encoder")]


def footprint(
    folder: str | os.PathLike[str],
    *,
    precision: str,
    resolution_px: int,
    method: str = "lora",
    rank: int = 16,
    quantisation: str = EXACT,
) -> Footprint:
    """Trace the stages of a model.

    Args:
        folder: with model_index.json and its components' configs.
        precision: of the weights, a key of `PRECISIONS`.
        resolution_px: side of the images.
        method: `lora` or `full`.
        rank: of the adapter.
        quantisation: of the denoiser's weights, one of `QUANTISATIONS`.

    Raises:
        BadPipeline: the folder is not a pipeline, or a config in it is missing or cannot be read.
        UnknownFamily: no family knows its pipeline class.
        CannotProfile: its classes are not in this diffusers or transformers, or do not go together.
    """
    root = Path(folder)
    index = read_model_index(root)
    family_of(index)
    try:
        with warnings.catch_warnings(), quiet_libraries():
            warnings.simplefilter("ignore")
            tracing = _Tracing(root, index, precision, resolution_px, method, rank, quantisation)
            return tracing.footprint()
    except (BadPipeline, MemoryError):
        raise
    except Exception as error:
        raise CannotProfile(
            f"{root}: its memory cannot be estimated: {type(error).__name__}: {first_line(error)}"
        ) from error


def _tile_px(pipe: Any) -> int | None:
    """Side of the tiles that a VAE would decode in; None if it has none."""
    if hasattr(pipe.vae, "tile_latent_min_size"):
        return int(pipe.vae.tile_latent_min_size * pipe.vae_scale_factor)
    return getattr(pipe.vae, "tile_sample_min_height", None)


class _Tracing:
    def __init__(
        self,
        folder: Path,
        index: Mapping[str, Any],
        precision: str,
        side: int,
        method: str,
        rank: int,
        quantisation: str,
    ) -> None:
        import torch

        self._family = family_of(index)
        self._pipe = MetaBuilder(folder).build(index)
        self._family.prepare(self._pipe)
        self._precision, self._side, self._method, self._rank = precision, side, method, rank
        self._dtype = getattr(torch, PRECISIONS[precision])
        self._denoiser: Any = self._family.denoiser(self._pipe)
        for name, module in self._networks().items():
            # The module's own method: diffusers' warns of components that it would rather load otherwise.
            # In half precision many VAEs overflow, so theirs is float32 while they are used.
            torch.nn.Module.to(
                module, torch.float32 if name == "vae" and precision == "fp16" else self._dtype
            )
            module.requires_grad_(False)
        quantise(self._denoiser, quantisation)

    def footprint(self) -> Footprint:
        pipe, family = self._pipe, self._family
        parts = {name: _part(module) for name, module in self._networks().items()}
        conditioning, text = self._text()
        sampling = self._sampling(conditioning)
        tile = _tile_px(pipe)
        decode = self._decode(self._side)
        # What is trained comes last, as it changes the denoiser.
        training, checkpointed, trained = self._training(conditioning)
        return Footprint(
            resolution_px=self._side,
            denoiser=family.denoiser_attribute,
            frozen=self._method != "full",
            parts=parts,
            trained=trained,
            text=text,
            encode=self._encode(),
            training=training,
            checkpointed=checkpointed,
            sampling=sampling,
            guided_rows=2 if family.classifier_free and not family.guided_apart else 1,
            decode=decode,
            decode_tile=decode if tile is None or tile >= self._side else self._decode(tile),
        )

    def _networks(self) -> dict[str, torch.nn.Module]:
        import torch

        components = self._pipe.components.items()
        return {name: part for name, part in components if isinstance(part, torch.nn.Module)}

    def _tracer(self) -> Tracer:
        tracer = Tracer()
        for module in self._networks().values():
            tracer.know([*module.parameters(), *module.buffers()])
        return tracer

    def _text(self) -> tuple[dict[str, torch.Tensor], Hull]:
        import torch

        tracer = self._tracer()
        encoders = [module for name, module in self._networks().items() if name.startswith("text_encoder")]
        for encoder in encoders:
            # Masked products take as much as others, and networks would look at a mask's values.
            encoder.forward = _unmasked(encoder.forward)
        blocks = [block for encoder in encoders for block in blocks_of(encoder)]
        with torch.device("meta"), tracer.watching(), as_on_a_gpu(None), standing_in(tracer, blocks):
            encoded = self._family.encode_prompts(self._pipe, ["a"] * TRACED_ROWS)
        shapes = [(self._side, self._side)]
        sizes = self._family.image_conditioning(self._pipe, shapes, shapes)
        of_images = {
            name: rows.to("meta").expand(TRACED_ROWS, *rows.shape[1:]) for name, rows in sizes.items()
        }
        return {name: rows.to("meta") for name, rows in encoded.items()} | of_images, tracer.hull()

    def _sampling(self, conditioning: dict[str, torch.Tensor]) -> Hull:
        import torch

        tracer = self._tracer()
        tracer.know(conditioning.values())
        blocks = blocks_of(self._denoiser)
        with (
            torch.device("meta"),
            torch.no_grad(),
            tracer.watching(),
            as_on_a_gpu(None),
            standing_in(tracer, blocks),
        ):
            noisy = self._latents(self._dtype)
            self._family.predict(self._pipe, self._denoiser, noisy, torch.empty(TRACED_ROWS), conditioning)
        return tracer.hull()

    def _decode(self, side: int) -> Hull:
        import torch

        tracer, vae = self._tracer(), self._pipe.vae
        with torch.device("meta"), torch.no_grad(), tracer.watching(), as_on_a_gpu(None):
            latents = torch.empty(TRACED_ROWS, *self._family.vae_shape(self._pipe, side), dtype=vae.dtype)
            vae.decode(self._framed(latents), return_dict=False)
        return tracer.hull()

    def _encode(self) -> Hull:
        import torch

        tracer, vae = self._tracer(), self._pipe.vae
        with torch.device("meta"), torch.no_grad(), tracer.watching(), as_on_a_gpu(None):
            pixels = torch.empty(TRACED_ROWS, 3, self._side, self._side, dtype=vae.dtype)
            vae.encode(self._framed(pixels))
        return tracer.hull()

    def _training(self, conditioning: dict[str, torch.Tensor]) -> tuple[Hull, Hull | None, int]:
        trained = self._make_trainable()
        if not self._denoiser._supports_gradient_checkpointing:
            self._adapt(self._denoiser)
            return self._trained(self._tracer(), conditioning), None, trained
        tracer = self._tracer()
        blocks = TracedBlocks(tracer, self._adapt)
        hulls = []
        for checkpointed in (False, True):
            self._denoiser.enable_gradient_checkpointing(blocks.training(checkpointed))
            with tracer.apart() as hull:
                self._trained(tracer, conditioning)
            hulls.append(hull())
        return hulls[0], hulls[1], trained

    def _trained(self, tracer: Tracer, conditioning: dict[str, torch.Tensor]) -> Hull:
        import torch

        narrow = None if self._precision == "fp32" else self._dtype
        tracer.know(conditioning.values())
        # float32, as they are kept on disk.
        rows = {name: _single(value) for name, value in conditioning.items()}
        with torch.device("meta"), tracer.watching(), as_on_a_gpu(narrow):
            noisy, target = self._latents(torch.float32), self._latents(torch.float32)
            levels = torch.empty(TRACED_ROWS)
            predicted = self._family.predict(self._pipe, self._denoiser, noisy, levels, rows)
            loss = torch.nn.functional.mse_loss(predicted.float(), target)
            del predicted
            # The function, as tensors' own method would leave the rules of a GPU behind.
            torch.autograd.backward(loss)
        return tracer.hull()

    def _latents(self, dtype: torch.dtype) -> torch.Tensor:
        import torch

        return torch.empty(TRACED_ROWS, *self._family.latent_shape(self._pipe, self._side), dtype=dtype)

    def _framed(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, None] if self._family.of_video else images

    def _make_trainable(self) -> int:
        """Return the number of values that are trained."""
        if self._method == "full":
            self._denoiser.float().requires_grad_(True)
            return sum(parameter.numel() for parameter in self._denoiser.parameters())
        layers = [module for name, module in self._denoiser.named_modules() if self._is_target(name)]
        return sum(self._rank * sum(_inputs_and_outputs(layer)) for layer in layers)

    def _is_target(self, name: str) -> bool:
        return any(name == target or name.endswith(f".{target}") for target in self._family.lora_targets)

    def _adapt(self, block: torch.nn.Module) -> None:
        """Put an adapter on a block's layers."""
        from peft import LoraConfig, inject_adapter_in_model

        if self._method == "full" or not any(self._is_target(name) for name, _ in block.named_modules()):
            return
        config = LoraConfig(
            r=self._rank, lora_alpha=self._rank, target_modules=list(self._family.lora_targets)
        )
        inject_adapter_in_model(config, block, low_cpu_mem_usage=True)
        for name, parameter in block.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)


def _part(module: torch.nn.Module) -> Part:
    def size(of: torch.nn.Module) -> int:
        return sum(value.numel() * value.element_size() for value in of.state_dict().values())

    blocks = [size(block) for block in blocks_of(module)]
    return Part(size(module), sum(blocks), max(blocks, default=0))


def _inputs_and_outputs(layer: Any) -> tuple[int, int]:
    """Of a linear layer, or of a convolution with its kernel's places."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    return layer.weight.numel() // layer.weight.shape[0], layer.weight.shape[0]


def _unmasked(forward: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("attention_mask", None)
        return forward(*args, **kwargs)

    return call


def _single(rows: torch.Tensor) -> torch.Tensor:
    return rows.float() if rows.is_floating_point() else rows
