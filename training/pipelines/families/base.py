"""What every family answers, and the parts that diffusers pipelines have in common."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from matchgraph.training.buckets import Shape, buckets
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.decoding import checked_decoding, normalised, single_precision
from matchgraph.training.pipelines.families.consistency import as_student
from matchgraph.training.pipelines.families.objectives import (
    Density,
    diffuse,
    min_snr_weights,
    rectified_flow,
)
from matchgraph.training.pipelines.families.rows import Conditioning, repeat_row
from matchgraph.training.pipelines.rollback import noised, rolled_back

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL import Image

    from matchgraph.training.pipelines.rollback import Start


class Family(ABC):
    """How pipelines of one diffusers class are conditioned, trained and sampled.

    Families hold no state: the pipeline is always an argument. Random numbers come only from the generators
    given, which live on the CPU, so that one seed means the same noise on every device.

    Attributes:
        name: a key of `training.pipelines.families.FAMILIES`.
        pipeline_class: the diffusers class that pipelines of this family have.
        denoiser_attribute: the pipeline's attribute that holds the denoiser.
        lora_targets: the layers that get adapters, as peft matches them (by the end of their name).
        default_steps: denoising steps, the default of the pipeline's call.
        default_guidance: guidance scale, likewise.
        classifier_free: guidance takes a second, unconditional forward in each step. Where it was distilled
            into the denoiser the scale is an input of the one forward.
        guided_apart: the pipeline makes that second forward a call of its own, not more rows of the first.
        flow_matching: the denoiser predicts the velocity of a straight line from image to noise.
        density: of a flow's noise levels in training, see `objectives.draw_sigmas`.
        counts_from_noise: the level drawn in training is the share of the image instead of the noise.
        max_prompt_tokens: of a prompt, with specials, shown to the text encoder, if the tokenizer allows.
        guidance_argument: the argument of the pipeline's call that takes the scale.
        negative_prompt: what the call needs to guide at all; None where it guides without being given one.
        call_options: further arguments of the pipeline's call when sampling.
        load_options: further arguments of the pipeline class's loader.
        denormalises: the pipeline's call undoes its VAE's `latents_mean` and `latents_std`.
        of_video: the VAE is one of videos, and an image is a video of one frame.
        own_components: (library, class) pairs that the folder's index may name beside classes of diffusers
            and transformers; diffusers keeps these classes in the module of the pipeline itself.
    """

    name: ClassVar[str]
    pipeline_class: ClassVar[str]
    denoiser_attribute: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]]
    default_steps: ClassVar[int]
    default_guidance: ClassVar[float]
    classifier_free: ClassVar[bool] = True
    guided_apart: ClassVar[bool] = False
    flow_matching: ClassVar[bool] = False
    density: ClassVar[Density] = "uniform"
    counts_from_noise: ClassVar[bool] = False
    max_prompt_tokens: ClassVar[float] = math.inf
    guidance_argument: ClassVar[str] = "guidance_scale"
    negative_prompt: ClassVar[str | None] = None
    call_options: ClassVar[Mapping[str, Any]] = {}
    load_options: ClassVar[Mapping[str, Any]] = {}
    denormalises: ClassVar[bool] = False
    of_video: ClassVar[bool] = False
    own_components: ClassVar[frozenset[tuple[str, str]]] = frozenset()

    def prepare(self, pipe: Any) -> None:  # noqa: B027
        """Adjust, once after loading, what would break the pipeline's own call."""

    def denoiser(self, pipe: Any) -> torch.nn.Module:
        """The part of the pipeline that is trained: its U-Net or transformer."""
        return getattr(pipe, self.denoiser_attribute)

    def encode_prompts(self, pipe: Any, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts with the pipeline's own text encoders.

        Args:
            pipe: the loaded pipeline.
            prompts: n prompts; the empty string gives the unconditional row.

        Returns:
            Tensors whose first dimension is n, row i for prompt i, under the names of the arguments that the
            pipeline's call takes them by; see also `as_arguments`.
        """
        import torch

        with torch.no_grad():
            return self._encoded(pipe, list(prompts))

    @abstractmethod
    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        """What `encode_prompts` gives."""

    def _prompt_tokens(self, pipe: Any) -> int:
        return int(min(self.max_prompt_tokens, pipe.tokenizer.model_max_length))

    def token_limits(self, pipe: Any) -> list[tuple[Any, int]]:
        """The tokenizers in use, each with the number of tokens (with specials) its text encoder is shown."""
        return [(pipe.tokenizer, self._prompt_tokens(pipe))]

    def prompt_limit(self, folder: Path) -> float:  # noqa: ARG002
        """Tokens of a prompt that the model in a folder is shown at most, where no tokenizer says so."""
        return math.inf

    def has_min_snr(self, folder: Path) -> bool:  # noqa: ARG002
        """Whether the objective of the model in a folder has min-SNR weights; see `loss`."""
        return not self.flow_matching

    def shown_prompts(self, pipe: Any, prompts: Sequence[str]) -> list[str]:  # noqa: ARG002
        """The prompts as the pipeline hands them to its tokenizers."""
        return list(prompts)

    def count_truncated(self, pipe: Any, prompts: Sequence[str]) -> int:
        """How many prompts lose words because at least one text encoder is not shown all of their tokens."""
        shown = self.shown_prompts(pipe, prompts)
        cut: set[int] = set()
        for tokenizer, limit in self.token_limits(pipe):
            tokens = tokenizer(shown, truncation=False, verbose=False).input_ids
            cut.update(row for row, ids in enumerate(tokens) if len(ids) > limit)
        return len(cut)

    def image_tokens(self, pipe: Any, latent_side: int) -> int:
        """How many tokens the denoiser makes of a square image's latents, for shifts that depend on it."""
        patch = getattr(self.denoiser(pipe).config, "patch_size", None) or 1
        return (latent_side // patch) ** 2

    def size_unit_px(self, pipe: Any) -> int:
        """Sides of images must be a multiple of this, so that latents and patches come out whole."""
        patch = getattr(self.denoiser(pipe).config, "patch_size", None) or 1
        # Pipelines themselves insist on multiples of 8.
        return math.lcm(8, pipe.vae_scale_factor * patch)

    def position_table(self, folder: Path) -> tuple[int, int] | None:  # noqa: ARG002
        """How many positions a side of an image has in the model in a folder, and of how many pixels each.

        None where positions are computed for images of any shape.
        """
        return None

    def check_buckets(self, folder: Path, resolution_px: int) -> None:
        """Refuse aspect buckets longer than the model in a folder has positions for.

        Raises:
            InvalidConfig: its table of positions is too small.
        """
        table = self.position_table(folder)
        if table is None:
            return
        count, each_px = table
        longest = max(max(shape) for shape in buckets(resolution_px, math.lcm(8, each_px)))
        if longest > count * each_px:
            raise InvalidConfig(
                f"{folder.name} has positions for sides of at most {count * each_px} pixels, and aspect "
                f"buckets of {resolution_px} have sides of {longest}: leave --aspect-buckets out (a "
                "--run-file can do so for one family), or give a smaller --resolution."
            )

    def encode_images(
        self,
        pipe: Any,
        pixels: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> torch.Tensor:
        """Encode images into latents, shifted and scaled as the denoiser expects them.

        Args:
            pipe: the loaded pipeline.
            pixels: float32, (n, 3, height, width), values in -1..1.
            generator: draws from the VAE's posterior, one for all images or one each; None takes its mean.

        Returns:
            float32, (n, channels, height / factor, width / factor).
        """
        import torch

        vae = pipe.vae
        with single_precision(vae), torch.no_grad():
            pixels = pixels.to(vae.device, vae.dtype)
            encoded = vae.encode(pixels[:, :, None] if self.of_video else pixels)
        if "latent" in encoded:  # an autoencoder without a posterior, such as Sana's
            latents = encoded.latent
        else:
            posterior = encoded.latent_dist
            latents = posterior.mode() if generator is None else posterior.sample(generator)
        latents = normalised(vae, latents.float())
        return latents.squeeze(2) if self.of_video else latents

    def image_conditioning(
        self,
        pipe: Any,  # noqa: ARG002
        sizes: Sequence[Shape],  # noqa: ARG002
        shapes: Sequence[Shape],  # noqa: ARG002
    ) -> Conditioning:
        """Inputs of the denoiser that depend on the training image, apart from its caption; mostly none.

        Args:
            pipe: the loaded pipeline.
            sizes: width and height of n images before `training.images.covering` scaled and cut them.
            shapes: width and height of each after it.

        Returns:
            Tensors of n rows, to be handed to `loss` together with the prompts' rows.
        """
        return {}

    @abstractmethod
    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """What the denoiser says of noised latents, as it stands: noise or velocity, unguided.

        Args:
            pipe: the loaded pipeline; only configurations are read.
            denoiser: what predicts; usually `self.denoiser(pipe)`.
            noisy: float32, (n, channels, h, w).
            levels: how noisy, (n,): timesteps of a variance-preserving process, or sigmas in (0, 1] of a
                flow (`flow_matching`).
            conditioning: n rows as `encode_prompts` gives them, and those of `image_conditioning` if any.
            guidance: the scale as an input of a guidance-distilled denoiser; None for the family's
                default. Others ignore it.

        Returns:
            (n, channels, h, w), in the precision that the denoiser computed in.
        """

    def loss(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        conditioning: Conditioning,
        generator: torch.Generator,
        rows: slice = slice(None),
        snr_gamma: float | None = None,
    ) -> torch.Tensor:
        """The family's training objective: the mean squared error of `predict`.

        A flow predicts the velocity noise - x at (1 - sigma) x + sigma noise. Other families predict noise or
        velocity at uniform timesteps, as the scheduler says.

        Args:
            pipe: the loaded pipeline; only its scheduler's configuration is read.
            denoiser: what predicts; usually `self.denoiser(pipe)`.
            latents: clean latents as `encode_images` gives them, float32, (n, channels, h, w).
            conditioning: n rows as `encode_prompts` gives them, and those of `image_conditioning` if any.
            generator: CPU generator; timesteps are drawn before noise, both for all n rows.
            rows: of which the loss is taken, all by default: a batch too large for one pass comes in several.
            snr_gamma: see `objectives.min_snr_weights`; None for equal weights.

        Returns:
            A float32 scalar that gradients flow from.

        Raises:
            InvalidConfig: the objective has no min-SNR weights.
        """
        import torch

        if snr_gamma is not None and self.flow_matching:
            raise InvalidConfig(f"min-SNR is not for flow matching: leave --snr-gamma out for {self.name}.")
        if self.flow_matching:
            noisy, levels, target = rectified_flow(
                pipe.scheduler, latents, generator, self.density, from_noise=self.counts_from_noise
            )
        else:
            noisy, levels, target = diffuse(pipe.scheduler, latents, generator)
        shown = {name: values[rows] for name, values in conditioning.items()}
        predicted = self.predict(pipe, denoiser, noisy[rows], levels[rows], shown)
        if snr_gamma is None:
            return torch.nn.functional.mse_loss(predicted.float(), target[rows])
        errors = torch.nn.functional.mse_loss(predicted.float(), target[rows], reduction="none")
        weights = min_snr_weights(pipe.scheduler, levels[rows], snr_gamma)
        return (errors.flatten(1).mean(dim=1) * weights).mean()

    def sample(
        self,
        pipe: Any,
        conditioning: Conditioning,
        negative: Conditioning,
        *,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
        resolution_px: int,
        start: Start | None = None,
        start_generators: Sequence[torch.Generator] = (),
        further: Mapping[str, Any] | None = None,
    ) -> list[Image.Image]:
        """Draw one image per row of `conditioning` through the pipeline's own `__call__`.

        Args:
            pipe: the loaded pipeline.
            conditioning: n rows of what to draw.
            negative: one row, the unconditional one; families without classifier-free guidance ignore it.
            steps: denoising steps.
            guidance: guidance scale; classifier-free guidance is off at 1 or less.
            generators: n CPU generators, one an image, so that the batch size does not change any image.
            resolution_px: width and height.
            start: n pictures to begin with, noised; noise alone by default.
            start_generators: n CPU generators of the noise put on them.
            further: arguments that the call takes beside these, such as a ControlNet's images.

        Raises:
            InvalidConfig: the sampler cannot begin in the middle, see
                `training.pipelines.rollback.rolled_back`.
        """
        images: list[Image.Image] = self._draw(
            pipe,
            conditioning,
            negative,
            steps,
            guidance,
            generators,
            resolution_px,
            "pil",
            start=start,
            start_generators=start_generators,
            further=further,
        )
        return images

    def sample_latents(
        self,
        pipe: Any,
        conditioning: Conditioning,
        negative: Conditioning,
        *,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
        resolution_px: int,
    ) -> torch.Tensor:
        """Draw as `sample` does, and stop before the VAE: latents as `encode_images` gives them.

        Args:
            pipe: see `sample`, as for all others.
            conditioning: n rows.
            negative: one row.
            steps: denoising steps.
            guidance: guidance scale.
            generators: n CPU generators.
            resolution_px: width and height.

        Returns:
            float32, (n, channels, h, w).
        """
        drawn = self._draw(pipe, conditioning, negative, steps, guidance, generators, resolution_px, "latent")
        return drawn.float()

    def _draw(
        self,
        pipe: Any,
        conditioning: Conditioning,
        negative: Conditioning,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
        resolution_px: int,
        output_type: str,
        *,
        start: Start | None = None,
        start_generators: Sequence[torch.Generator] = (),
        further: Mapping[str, Any] | None = None,
    ) -> Any:
        unconditional = repeat_row(negative, len(generators)) if self.classifier_free else {}
        with ExitStack() as around:
            around.enter_context(checked_decoding(pipe, denormalises=self.denormalises))
            asked = steps
            if start is not None:
                asked = around.enter_context(rolled_back(pipe.scheduler, steps, start.strength))
            arguments = {
                **self.as_arguments(conditioning),
                **{f"negative_{name}": rows for name, rows in self.as_arguments(unconditional).items()},
                **self.call_options,
                **around.enter_context(as_student(pipe.scheduler, asked, generators)),
                "num_inference_steps": asked,
                self.guidance_argument: guidance,
                "generator": list(generators),
                "height": resolution_px,
                "width": resolution_px,
                "output_type": output_type,
                **(further or {}),
            }
            if start is not None:
                begun = start.latents.to(pipe.device, self.denoiser(pipe).dtype)
                arguments["latents"] = noised(
                    pipe.scheduler, begun, start_generators, lambda: pipe(**arguments, latents=begun)
                )
            drawn = pipe(**arguments).images
        return self.from_call(pipe, drawn, resolution_px) if output_type == "latent" else drawn

    def as_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        """Conditioning as the pipeline's call takes it: as it is, unless prompts are ragged there."""
        return dict(conditioning)

    def as_called(self, pipe: Any, latents: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Latents as `encode_images` gives them, in the form that the pipeline's call takes."""
        return latents

    def from_call(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:  # noqa: ARG002
        """Latents that the pipeline's call ends with, in the form that `encode_images` gives."""
        return latents

    def from_steps(self, pipe: Any, latents: torch.Tensor, side_px: int) -> torch.Tensor:  # noqa: ARG002
        """Latents that the scheduler's last step leaves, in the form that the pipeline's call takes."""
        return latents

    def latent_shape(self, pipe: Any, side_px: int) -> tuple[int, ...]:
        """Shape of a square's latents as `encode_images` gives them: (channels, h, w)."""
        return self.vae_shape(pipe, side_px)

    def vae_shape(self, pipe: Any, side_px: int) -> tuple[int, ...]:
        """Shape of a square's latents as the VAE has them, without frames."""
        side = side_px // pipe.vae_scale_factor
        config = pipe.vae.config
        return (config.get("latent_channels") or config["z_dim"], side, side)


def trained_positions(folder: Path, of_side: Callable[[int], int], default: int) -> tuple[int, int] | None:
    """See `Family.position_table`; of transformers whose configuration says how many they have.

    Args:
        folder: the model's.
        of_side: makes positions of a side of `pos_embed_max_size`.
        default: where the configuration leaves it out.
    """
    try:
        transformer, vae = (
            json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
            for part in ("transformer", "vae")
        )
    except OSError:  # the folder is on another machine
        return None
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return of_side(transformer.get("pos_embed_max_size", default)), factor * transformer.get("patch_size", 2)


def number_shift(pipe: Any) -> None:
    """Give a VAE that states no shift the number 0, which some pipelines add to every latent."""
    if pipe.vae.config.shift_factor is None:
        pipe.vae.register_to_config(shift_factor=0.0)
