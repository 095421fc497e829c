"""Pretrain the three denoisers of the small zoo, each on the styles that it is to be good at.

`python -m minizoo.pretrain MODEL` trains one (resuming), `python -m minizoo.pretrain --export` writes every
pipeline folder from the newest checkpoints. The objective is `training.families`' own, so pretraining and
fine-tuning agree.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minizoo.clip import load_open_clip, text_towers
from minizoo.errors import StageNotReady
from minizoo.icons import ROOT, TRAINING_RESOLUTION_PX, Pool, pretraining_pool
from minizoo.loop import LoopConfig, averaged_weights, checkpoint_path, train
from minizoo.tokenizer import CONTEXT_LENGTH, TOKENIZER, TOKENIZER_FILES, transformers_tokenizer
from minizoo.vae import encode_all, load_vae, pixels_to_tensor
from training.families import family

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

MODELS = ROOT / "models"
LATENT_SIZE = 8
TEXT_WIDTH, TEXT_PROJECTION = 128, 64
CAPTION_DROPOUT = (
    0.1  # share of captions emptied, so that classifier-free guidance has something to steer from
)


@dataclass(frozen=True)
class Pretraining:
    """How one model of the zoo came to be.

    Attributes:
        model: id and folder name.
        family: of `training.families`.
        styles: icon style -> share of the images drawn from it.
        loop: the run.
        sampling: denoising steps and guidance scale that suit it.
    """

    model: str
    family: str
    styles: Mapping[str, float]
    loop: LoopConfig
    sampling: tuple[int, float]


PRETRAININGS: Mapping[str, Pretraining] = {
    p.model: p
    for p in (
        Pretraining(
            "tiny-unet",
            "sd",
            {"noto": 0.7, "fluent-emoji": 0.3},
            LoopConfig(
                "tiny-unet",
                steps=3500,
                batch_size=32,
                learning_rate=8e-4,
                seed=1,
                decay_share=0.25,
                stop_after=2000,
            ),
            (10, 1.0),
        ),
        Pretraining(
            "tiny-pixart",
            "pixart",
            {"twemoji": 0.7, "fluent-emoji-flat": 0.3},
            LoopConfig(
                "tiny-pixart",
                steps=5000,
                batch_size=32,
                learning_rate=8e-4,
                seed=2,
                decay_share=0.25,
                stop_after=4400,
            ),
            (10, 1.0),
        ),
        Pretraining(
            "tiny-sd3",
            "sd3",
            {"openmoji": 0.7, "fluent-emoji-flat": 0.3},
            LoopConfig(
                "tiny-sd3",
                steps=5000,
                batch_size=32,
                learning_rate=8e-4,
                seed=3,
                decay_share=0.25,
                stop_after=3800,
            ),
            (10, 1.0),
        ),
    )
}


def new_denoiser(family_name: str, seed: int) -> nn.Module:
    """Make an untrained denoiser with the class and the options of the real family, made small.

    Args:
        family_name: a key of `training.families.FAMILIES`.
        seed: of the initial weights.
    """
    import torch
    from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

    torch.manual_seed(seed)
    if family_name == "sd":
        return UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            in_channels=4,
            out_channels=4,
            block_out_channels=(48, 80),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,  # as in the real configuration, this is the number of heads
            norm_num_groups=16,
        )
    if family_name == "pixart":
        return PixArtTransformer2DModel(
            sample_size=LATENT_SIZE,
            num_layers=6,
            num_attention_heads=4,
            attention_head_dim=36,
            cross_attention_dim=144,
            caption_channels=TEXT_WIDTH,
            in_channels=4,
            out_channels=8,
            patch_size=2,
            interpolation_scale=1,
            use_additional_conditions=False,
        )
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=32,
        caption_projection_dim=128,
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_PROJECTION,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def new_scheduler(family_name: str) -> Any:
    """Make the scheduler that the real family's released folder has: SD 1.5, PixArt-Sigma, SD 3.5 medium."""
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

    if family_name == "sd":
        return PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        )
    if family_name == "pixart":
        return DPMSolverMultistepScheduler(
            beta_start=0.0001,
            beta_end=0.02,
            beta_schedule="linear",
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
        )
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def assemble(family_name: str, denoiser: nn.Module) -> Any:
    """Put a denoiser, the shared VAE and the shared text tower together in the family's pipeline class.

    Args:
        family_name: a key of `training.families.FAMILIES`.
        denoiser: as `new_denoiser` makes it.

    Returns:
        A diffusers pipeline in single precision.

    Raises:
        StageNotReady: the VAE or the CLIP is not trained yet.
    """
    from diffusers import PixArtSigmaPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

    plain, projected = text_towers(load_open_clip())
    shared = {
        "vae": load_vae(),
        "tokenizer": transformers_tokenizer(),
        "scheduler": new_scheduler(family_name),
    }
    if family_name == "sd":
        return StableDiffusionPipeline(
            unet=denoiser,
            text_encoder=plain,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **shared,
        )
    if family_name == "pixart":
        return PixArtSigmaPipeline(transformer=denoiser, text_encoder=plain, **shared)
    # This pipeline adds the shift to every latent, so it cannot be absent.
    shared["vae"].register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        transformer=denoiser,
        text_encoder=projected,
        text_encoder_2=projected,
        tokenizer_2=shared["tokenizer"],
        text_encoder_3=None,
        tokenizer_3=None,
        **shared,
    )


def pretrain(which: Pretraining, pool: Pool) -> nn.Module:
    """Train one denoiser on its styles of the pretraining pool.

    Latents (of each image and of its mirror image) and caption embeddings are computed once.

    Args:
        which: the model.
        pool: the drawn pool of all styles.

    Returns:
        The denoiser with averaged weights.
    """
    import torch

    config = which.loop
    denoiser = new_denoiser(which.family, config.seed)
    pipe, kind = assemble(which.family, denoiser), family(which.family)
    rows = [index for index, icon in enumerate(pool.icons) if icon.style in which.styles]
    icons = [pool.icons[index] for index in rows]
    images = pixels_to_tensor(pool.pixels[rows])
    scale = pipe.vae.config.scaling_factor
    latents = torch.stack([encode_all(pipe.vae, images), encode_all(pipe.vae, images.flip(3))]) * scale
    may_flip = torch.tensor([icon.category != "symbols" for icon in icons])
    captions = sorted({icon.caption for icon in icons})
    conditioning = kind.encode_prompts(pipe, ["", *captions])
    caption_row = torch.tensor([captions.index(icon.caption) + 1 for icon in icons])
    counts = {style: sum(icon.style == style for icon in icons) for style in which.styles}
    shares = torch.tensor([which.styles[icon.style] / counts[icon.style] for icon in icons])

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        picked = torch.multinomial(shares, config.batch_size, replacement=True, generator=generator)
        mirrored = may_flip[picked] & (torch.rand(len(picked), generator=generator) < 0.5)
        dropped = torch.rand(len(picked), generator=generator) < CAPTION_DROPOUT
        texts = torch.where(dropped, 0, caption_row[picked])
        rows = {key: value[texts] for key, value in conditioning.items()}
        return {"loss": kind.loss(pipe, denoiser, latents[mirrored.long(), picked], rows, generator)}

    train(config, denoiser, losses)
    return denoiser


def export(which: Pretraining, folder: Path) -> dict[str, object]:
    """Write a model's pipeline folder from its newest checkpoint, finished or not.

    Args:
        which: the model.
        folder: replaced.

    Returns:
        Steps, seconds and parameters.

    Raises:
        StageNotReady: the model has no checkpoint yet.
    """
    import torch

    if not checkpoint_path(which.loop.name).is_file():
        raise StageNotReady(
            f"{which.model} has no checkpoint yet: run `python -m minizoo.pretrain {which.model}` first"
        )
    step, seconds, weights = averaged_weights(which.loop.name)
    denoiser = new_denoiser(which.family, which.loop.seed)
    missing = denoiser.load_state_dict(weights, strict=False).missing_keys
    parameters = {name for name, _ in denoiser.named_parameters()}
    if parameters & set(missing):
        raise StageNotReady(
            f"{which.model}: its checkpoint is of another shape; remove {checkpoint_path(which.loop.name)}"
        )
    pipe = assemble(which.family, denoiser.eval())
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(partial, safe_serialization=True)
    for config in partial.glob("*/config.json"):
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)  # a path of the machine that trained it
        if "dtype" in settings:
            # transformers loads in the recorded precision; single precision is what a CPU wants.
            settings["dtype"] = "float32"
        config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    size = sum(p.numel() for p in denoiser.parameters())
    for tokenizer in partial.glob("tokenizer*"):
        # The plain files, which every release of transformers reads.
        shutil.rmtree(tokenizer)
        tokenizer.mkdir()
        for name in TOKENIZER_FILES:
            shutil.copyfile(TOKENIZER / name, tokenizer / name)
    (partial / "README.md").write_text(_model_card(which, step, size), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return {"steps": step, "of": which.loop.steps, "seconds": seconds, "parameters": size}


def _model_card(which: Pretraining, step: int, size: int) -> str:
    styles = ", ".join(f"{share:.0%} {style}" for style, share in which.styles.items())
    steps, guidance = which.sampling
    loading = "Loads with `DiffusionPipeline.from_pretrained(folder)`"
    if which.family == "sd3":
        loading += ", given `text_encoder_3=None, tokenizer_3=None`: there is no T5"
    loading += "." if which.family == "sd" else "; call it with `max_sequence_length=16`."
    return f"""# {which.model}

A tiny text-to-image pipeline of the `{which.family}` family for images of {TRAINING_RESOLUTION_PX} pixels,
with {size / 1e6:.2f} million denoiser parameters. It is one of three models that `matchgraph` measures
itself on, and of no use beyond that.

- Pretrained on {styles}: icons of the pretraining pool, which holds no concept of any dataset in
  `minizoo/datasets`. Captions are an icon's name and category, such as `red apple, food and drink`.
- {step} steps of batch {which.loop.batch_size}, learning rate {which.loop.learning_rate:g},
  seed {which.loop.seed}.
- Prompts hold at most {CONTEXT_LENGTH} tokens; {steps} steps and guidance {guidance:g} suit it.
- {loading}
- Licences of the icons it learnt from: `minizoo/LICENCES.md`.
"""


def main() -> None:
    """Train models, or export what is trained so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "models", nargs="*", help=f"which to train, of {', '.join(PRETRAININGS)} (default: all)"
    )
    parser.add_argument(
        "--export", action="store_true", help="only write the pipeline folders from the checkpoints"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(PRETRAININGS)
    if unknown:
        parser.error(f"unknown model {sorted(unknown)[0]!r}; known: {', '.join(PRETRAININGS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for model in arguments.models or PRETRAININGS:
        if not arguments.export:
            pretrain(PRETRAININGS[model], pretraining_pool())
        logger.info("%s: %s", model, export(PRETRAININGS[model], MODELS / model))


if __name__ == "__main__":
    main()
