"""A look at a run while it trains: the loss of fixed images, and pictures drawn with what was learnt so far.

Nothing of it changes the run: its random numbers are its own, and weights are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig, NonFiniteImages, OutOfMemory, memory_of
from matchgraph.training.pipelines.placement import beside, release
from matchgraph.training.pipelines.samplers import default_drawing
from matchgraph.training.sampling.generate import image_generator
from matchgraph.training.tune.loop import purpose_generator

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.images import CaptionedImage
    from matchgraph.training.pipelines.encoding import EncodedDataset
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.tune.loop import Training

# Images that the loss is of, at most.
MOST_VALIDATED = 64
HELD_OUT, TRAINED_ON = "held-out images", "training images"


def nothing_shown(step: int, loss: float, images: Sequence[Image.Image]) -> None:
    """Shown to nobody."""


@dataclass(frozen=True)
class Validation:
    """When to look, and at what.

    Args:
        every_steps: steps between two looks; the last step is looked at as well.
        pictures: how many are drawn each time.
        on_look: called with the step, the loss and the pictures.

    Raises:
        InvalidConfig: a number out of range.
    """

    every_steps: int
    pictures: int = 0
    on_look: Callable[[int, float, Sequence[Image.Image]], None] = nothing_shown

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.pictures < 0:
            raise InvalidConfig("every_steps must be at least 1, and pictures at least 0.")

    def images(self, images: Sequence[CaptionedImage]) -> tuple[list[CaptionedImage], str]:
        """The images whose loss is taken, and what they are: those held out, or some of those trained on.

        Args:
            images: of the dataset.
        """
        held_out = [replace(image, held_out=False) for image in images if image.held_out]
        chosen = held_out or list(images)
        # Evenly spread, as folders are often sorted by what they show.
        every = -(-len(chosen) // MOST_VALIDATED)
        return chosen[::every], HELD_OUT if held_out else TRAINED_ON


@dataclass
class Validator:
    """Looks at one run.

    Args:
        validation: when, and at what.
        loaded: the pipeline.
        training: the run.
        dataset: the images whose loss is taken, encoded.
        config: how the run trains.
    """

    validation: Validation
    loaded: LoadedPipeline
    training: Training
    dataset: EncodedDataset
    config: Any

    def __call__(self, step: int) -> dict[str, float] | None:
        """Look, if it is time.

        Args:
            step: just made.

        Returns:
            The step and its loss; None where it is not time.
        """
        import torch

        if step % self.validation.every_steps and step != self.config.steps:
            return None
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            loss = self._loss()
            pictures = self._pictures()
        self.validation.on_look(step, loss, pictures)
        return {"step": step, "loss": loss}

    def _loss(self) -> float:
        """The mean over the images, at the same noise and noise levels each time."""
        family, pipe = self.loaded.family, self.loaded.pipe
        generator = purpose_generator(self.config.seed, "validation")
        total = 0.0
        for rows in self.dataset.parts(self.config.batch_size):
            latents, conditioning = self.dataset.batch(rows, [True] * len(rows), self.loaded.device)
            with self.training.narrowed():
                loss = family.loss(pipe, family.denoiser(pipe), latents, conditioning, generator)
            total += float(loss) * len(rows)
        return total / len(self.dataset)

    def _pictures(self) -> list[Image.Image]:
        """One at a time, since the run's own tensors stay on the device; fewer where memory runs out."""
        made: list[Image.Image] = []
        if not self.validation.pictures:
            return made
        family, pipe = self.loaded.family, self.loaded.pipe
        steps, guidance = default_drawing(pipe, family.default_steps, family.default_guidance)
        dtype = next(family.denoiser(pipe).parameters()).dtype
        pick = partial(_picked, self.dataset, dtype=dtype, device=self.loaded.device)
        try:
            with memory_of("sampling"), beside(self.loaded, "vae"):
                for number in range(min(self.validation.pictures, len(self.dataset))):
                    made += family.sample(
                        pipe,
                        pick(self.dataset.caption_rows[number]),
                        pick(0),
                        steps=steps,
                        guidance=guidance,
                        generators=[image_generator(self.config.seed, number)],
                        resolution_px=self.config.resolution_px,
                    )
        except (OutOfMemory, NonFiniteImages):
            # A run is worth more than a look at it.
            release(self.loaded.device)
        return made


def _picked(dataset: EncodedDataset, row: int, *, dtype: Any, device: Any) -> dict[str, Any]:
    found = dataset.conditioning.pick([row], device)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in found.items()}
