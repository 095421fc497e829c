"""ControlNets for Canny edges, trained beside a frozen U-Net."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from matchgraph.drawing import PRECISIONS
from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import BadControlNet, InvalidConfig, first_line
from matchgraph.training.files import file_hash, folder_name, write_json, write_tensors
from matchgraph.training.images import list_captioned_images, load_rgb, square
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.controlnet import CONFIG_FILE, WEIGHTS_FILE, check_controllable
from matchgraph.training.pipelines.encoding import EncodedDataset, dataset_hash, encode_dataset
from matchgraph.training.pipelines.hub import pipeline_folder
from matchgraph.training.pipelines.loading import (
    LoadedPipeline,
    opened,
    quiet_libraries,
)
from matchgraph.training.pipelines.memory import PeakMemory
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.sampling.controls import HIGH, LOW, canny, check_thresholds
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.loop import Training, attached
from matchgraph.training.tune.session import Session, circumstances, identity_of

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from matchgraph.training.pipelines.families.rows import Conditioning

RECORD_FILE = "control.json"
# diffusers' widths of the layers that bring a control image to the latents' size, one halving between two.
WIDTHS = (16, 32, 96, 256)


@dataclass(frozen=True)
class ControlConfig:
    """What a ControlNet is to be steered by, and how it is trained; checked when built.

    Learning rate, optimiser and share of empty captions default to those of Zhang et al.

    Attributes:
        low: Canny's lower threshold, see `training.sampling.controls.canny`.
        high: Canny's upper one.
        steps: optimiser steps.
        batch_size: images per forward pass.
        learning_rate: of AdamW, constant.
        resolution_px: images and control images are scaled and cut to a square of this side.
        seed: decides start values, data order, timesteps, noise and which captions are dropped.
        caption_dropout: share of captions replaced by the empty one, so that the control alone must do.
        precision: of the frozen weights and of the arithmetic; trained weights are always float32.
        saved_precision: of the weights in the file.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are clipped to this norm.
        device: `auto` or a torch device name.
        gradient_accumulation: forward passes per step.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.

    Source:
        Zhang et al., "Adding conditional control to text-to-image diffusion models" (2023), sections 3.3 and
        4 (half of the prompts are empty; AdamW at 1e-5).
    """

    low: float = LOW
    high: float = HIGH
    steps: int = 10_000
    batch_size: int = 8
    learning_rate: float = 1e-5
    resolution_px: int = 512
    seed: int = 42
    caption_dropout: float = 0.5
    precision: str = "fp32"
    saved_precision: str = "fp32"
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    device: str = "auto"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_thresholds(self.low, self.high)
        if self.saved_precision not in PRECISIONS:
            raise InvalidConfig(
                f"saved_precision must be one of {', '.join(PRECISIONS)}, got {self.saved_precision!r}."
            )
        # Checks what the two have in common.
        _ = self.training

    @property
    def training(self) -> FineTuneConfig:
        """The part that the training loop knows."""
        own = {"low", "high", "saved_precision"}
        return FineTuneConfig(
            **{field.name: getattr(self, field.name) for field in fields(self) if field.name not in own},
            method="full",
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ControlRecord:
    """One training of a ControlNet.

    Attributes:
        folder: holds the ControlNet as diffusers saves one, and `control.json`.
        content: what `control.json` says.
        losses: loss of each step, in order.
    """

    folder: Path
    content: dict[str, Any]
    losses: list[float]


class ControlledDenoiser:
    """A U-Net with a ControlNet's residuals, callable as the U-Net itself is.

    Args:
        unet: the U-Net.
        controlnet: the ControlNet.
        scale: what its residuals are multiplied by.

    Attributes:
        controls: the control images of the rows that come next; float, (n, 3, height, width), 0..1.
    """

    def __init__(self, unet: Any, controlnet: Any, scale: float = 1.0) -> None:
        self.controls: torch.Tensor | None = None
        self._unet, self._controlnet, self._scale = unet, controlnet, scale

    def __call__(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, **named: Any
    ) -> Any:
        """See diffusers' `UNet2DConditionModel.forward`."""
        down, middle = self._controlnet(
            noisy,
            timesteps,
            encoder_hidden_states=states,
            controlnet_cond=self.controls,
            conditioning_scale=self._scale,
            added_cond_kwargs=named.get("added_cond_kwargs"),
            return_dict=False,
        )
        return self._unet(
            noisy,
            timesteps,
            states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **named,
        )


def train_controlnet(
    model: str | os.PathLike[str] | LoadedPipeline,
    dataset_folder: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    config: ControlConfig,
    on_step: Callable[[int, float], None] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    cache: EncodingCache | None = None,
) -> ControlRecord:
    """Train a ControlNet on captioned images, the family's own objective over a frozen U-Net.

    Two runs with one configuration on one machine and the CPU give the same bytes, also where one of them was
    interrupted and taken up again from a checkpoint.

    Args:
        model: a pipeline folder of the families sd or sdxl, its name on the hub, or a pipeline kept loaded.
        dataset_folder: captioned images, see `training.images.list_captioned_images`.
        output_folder: gets `config.json` and `diffusion_pytorch_model.safetensors` as diffusers'
            `ControlNetModel.save_pretrained` writes them, and `control.json`; those of an earlier run are
            removed when training starts.
        config: what to train.
        on_step: called after each step with its number, from 1, and its loss; what it raises stops the run,
            and a checkpoint of that step is kept.
        checkpoints: where the run's state is kept and what it goes on from; none by default.
        cache: where encodings of images and captions are kept for other runs; none by default.

    Returns:
        The record of the run.

    Raises:
        BadControlNet: no ControlNet can be made for the pipeline.
        TrainingError: as `training.tune.finetune.fine_tune`.

    Source:
        Zhang et al., "Adding conditional control to text-to-image diffusion models" (2023), section 3, by
        diffusers' `ControlNetModel`, whose last layers are zero, so that training starts from the pipeline's
        own predictions.
    """
    out, loop = Path(output_folder), config.training
    if not isinstance(model, LoadedPipeline):
        model = pipeline_folder(model)
    with opened(model, device=config.device, precision=config.precision) as loaded:
        began, memory = time.perf_counter(), PeakMemory(loaded.device)
        method = ControlMethod(config)
        method.check(loaded)
        images = [image for image in list_captioned_images(dataset_folder) if not image.held_out]
        use = CacheUse(cache)
        dataset = encode_dataset(
            loaded, dataset_folder, resolution_px=config.resolution_px, seed=config.seed, use=use
        )
        # Edges of the picture as it is trained on: those of a larger one are finer.
        pictures = (square(load_rgb(image.path), config.resolution_px) for image in images)
        controls = ControlImages(
            (canny(picture, config.low, config.high) for picture in pictures), config.resolution_px
        )
        identity = {**identity_of(loaded, dataset_hash(images), config), "controls": controls.sha256}
        session = Session(config.steps, checkpoints, identity, began, memory)
        encoding_seconds = time.perf_counter() - began
        out.mkdir(parents=True, exist_ok=True)
        for name in (RECORD_FILE, CONFIG_FILE, WEIGHTS_FILE):
            (out / name).unlink(missing_ok=True)
        with (
            attached(loaded, method, loop) as parameters,
            placed(loaded, "denoiser", training=True),
        ):
            denoiser = ControlledDenoiser(loaded.family.denoiser(loaded.pipe), method.controlnet)
            shown = _ShownDataset(dataset, controls, denoiser)
            session.train(Training(loaded, parameters, shown, loop, denoiser), on_step)
            weights = method.save(loaded, out)
            trainable = sum(parameter.numel() for parameter in parameters.values())
        content = {
            "kind": "canny",
            "parameters": {"low": config.low, "high": config.high},
            "asked": {"model": folder_name(loaded.folder), "config": config.to_dict()},
            "hashes": {name: identity[name] for name in ("model", "dataset", "controls")}
            | {"weights": file_hash(weights)},
            "happened": {
                "seconds": session.seconds,
                "encoding_seconds": encoding_seconds,
                "peak_memory_bytes": session.peak_memory_bytes,
                "images": len(dataset),
                "captions_truncated": dataset.truncated,
                "aspect": dataset.aspect,
                "cache": use.counts(),
                "epochs": config.steps * config.batch_size * config.gradient_accumulation / len(dataset),
                "trainable_parameters": trainable,
                "first_loss": session.losses[0],
                "last_losses": mean(session.losses[-100:]),
                "skipped_steps": session.skipped_steps,
                "resumed_at": session.resumed_at,
                "notes": session.notes,
            },
            "used": circumstances(loaded),
        }
    write_json(out / RECORD_FILE, content)
    return ControlRecord(out, content, list(session.losses))


class ControlMethod:
    """Trains a ControlNet, a copy of the U-Net's first half, and leaves the pipeline alone.

    See `training.tune.methods.Method`; an object serves one run.

    Args:
        config: says how its weights are saved, and whether activations are computed twice.

    Attributes:
        controlnet: the ControlNet, while attached.
    """

    def __init__(self, config: ControlConfig) -> None:
        self.controlnet: Any = None
        self._config = config

    def check(self, loaded: LoadedPipeline) -> None:
        """Refuse a pipeline that no ControlNet can be made for, before hours go into its encodings.

        Raises:
            BadControlNet: its family or its VAE's factor.
        """
        check_controllable(loaded)
        embedding_widths(loaded.pipe.vae_scale_factor)

    def attach(self, loaded: LoadedPipeline, generator: torch.Generator) -> dict[str, torch.nn.Parameter]:
        """See `Method.attach`; the layers that read control images start from the generator's numbers."""
        import torch
        from diffusers import ControlNetModel

        for component in loaded.pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.requires_grad_(False)
        seed = int(torch.randint(0, 2**62, (), generator=generator))
        # diffusers draws start values from the global generator, whose state is given back.
        with torch.random.fork_rng(devices=[]), quiet_libraries():
            torch.default_generator.manual_seed(seed)
            try:
                controlnet = ControlNetModel.from_unet(
                    loaded.family.denoiser(loaded.pipe),
                    conditioning_embedding_out_channels=embedding_widths(loaded.pipe.vae_scale_factor),
                )
            except (ValueError, RuntimeError, AttributeError, TypeError) as error:
                raise BadControlNet(
                    f"No ControlNet can be made for the U-Net of {loaded.folder.name}: {first_line(error)}"
                ) from error
        self.controlnet = controlnet.float().to(loaded.device).eval().requires_grad_(True)
        if self._config.gradient_checkpointing:
            self.controlnet.enable_gradient_checkpointing()
        return dict(self.controlnet.named_parameters())

    def save(self, loaded: LoadedPipeline, folder: Path) -> Path:  # noqa: ARG002
        """Write the ControlNet as diffusers does; without its `config.json`, the last, it is none."""
        import torch

        dtype = getattr(torch, PRECISIONS[self._config.saved_precision])
        weights = {name: tensor.to(dtype) for name, tensor in self.controlnet.state_dict().items()}
        write_tensors(folder / WEIGHTS_FILE, weights, {"format": "pt"})
        write_json(folder / CONFIG_FILE, json.loads(self.controlnet.to_json_string()))
        return folder / WEIGHTS_FILE

    def detach(self, loaded: LoadedPipeline) -> None:  # noqa: ARG002
        """See `Method.detach`."""
        self.controlnet = None


class ControlImages:
    """A dataset's control images, packed in memory: edges shrink to a few per cent.

    Args:
        images: of mode RGB, squares of one size.
        side_px: their side.

    Attributes:
        sha256: of all of them, in order.
    """

    def __init__(self, images: Iterator[Image.Image] | Sequence[Image.Image], side_px: int) -> None:
        digest = hashlib.sha256()
        self._side = side_px
        self._packed: list[bytes] = []
        for image in images:
            pixels = image.tobytes()
            digest.update(pixels)
            self._packed.append(zlib.compress(pixels, 1))
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._packed)

    def pick(self, numbers: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
        """Some of them as a ControlNet takes them: float32, (n, 3, side, side), 0..1."""
        import torch

        unpacked = b"".join(zlib.decompress(self._packed[number]) for number in numbers)
        pixels = torch.frombuffer(bytearray(unpacked), dtype=torch.uint8)
        rows = pixels.view(len(numbers), self._side, self._side, 3).to(device)
        return rows.permute(0, 3, 1, 2).float() / 255


class _ShownDataset(EncodedDataset):
    """A dataset that shows the control images of each batch to the denoiser: no objective knows of them."""

    def __init__(self, plain: EncodedDataset, controls: ControlImages, denoiser: ControlledDenoiser) -> None:
        super().__init__(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        object.__setattr__(self, "_shown", (controls, denoiser))

    def batch(
        self, picked: Sequence[int], kept: Sequence[bool], device: torch.device | None = None
    ) -> tuple[torch.Tensor, Conditioning]:
        """See `EncodedDataset.batch`."""
        controls, denoiser = self._shown
        denoiser.controls = controls.pick(picked, device)
        return super().batch(picked, kept, device)


def embedding_widths(factor: int) -> tuple[int, ...]:
    """Widths of the layers that bring a control image to the size of the latents.

    Args:
        factor: how many pixels of an image's side one latent stands for; each layer but the first halves.

    Raises:
        BadControlNet: the factor is not a power of two.
    """
    halvings = int(math.log2(factor)) if factor > 0 else 0
    if 2**halvings != factor:
        raise BadControlNet(
            f"ControlNets halve an image some times over; the VAE's factor {factor} is not a power of two."
        )
    return (WIDTHS + WIDTHS[-1:] * halvings)[: halvings + 1]
