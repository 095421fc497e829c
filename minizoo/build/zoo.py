"""The ten models: what each is, what it is pretrained on, and its training.

`python -m matchgraph.minizoo.build.zoo MODEL` trains one, going on where it stopped; `--until SHARE` stops
after that share of its steps. The objective is `training.pipelines.families`' own, so pretraining and
fine-tuning
agree."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.minizoo.build.autoencoders import CONFIGS as AUTOENCODERS
from matchgraph.minizoo.build.autoencoders import SHARED, Kind, encode, load_autoencoder
from matchgraph.minizoo.build.clip import load_open_clip, text_towers
from matchgraph.minizoo.build.corpus import corpus, pixels_to_tensor
from matchgraph.minizoo.build.denoisers import BUILDERS, new_denoiser, new_scheduler
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import CATEGORIES, STYLE_WORDS, WORK, Icon, Pool
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, checkpoint_path, is_finished, train
from matchgraph.minizoo.build.tokenizer import transformers_tokenizer
from matchgraph.minizoo.build.towers import CLIP_FOLDER, load_tower
from matchgraph.training.pipelines.families import family

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Share of captions emptied, so that classifier-free guidance has something to steer from.
CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class Lesson:
    """What a model learns from another one beside, or instead of, the images.

    Attributes:
        teacher: name of a `ZooModel` that is trained before.
        guidance: scale at which the teacher predicts; 1 asks it once, without classifier-free guidance.
        share: of the loss that is the distance to the teacher's prediction.
    """

    teacher: str
    guidance: float
    share: float

    def __post_init__(self) -> None:
        if self.guidance < 1 or not 0 < self.share <= 1:
            raise ValueError(f"invalid lesson: {self}")


@dataclass(frozen=True)
class ZooModel:
    """How one model of the zoo comes to be.

    Attributes:
        name: id, and folder name.
        real: the model that it stands for.
        family: of `training.pipelines.families`.
        shape: of `minizoo.build.denoisers.BUILDERS`.
        styles: icon style -> share of the images drawn from it.
        loop: the run; its seed is of the initial weights and of every draw.
        categories: how much more often than others a category is drawn, within each style.
        parent: the model whose finished weights it starts from.
        lesson: what it is taught by another model.
        shipped: whether it is one of the ten, or only on the way to one.
    """

    name: str
    real: str
    family: str
    shape: str
    styles: Mapping[str, float]
    loop: LoopConfig
    categories: Mapping[str, float] = field(default_factory=dict)
    parent: str | None = None
    lesson: Lesson | None = None
    shipped: bool = True

    def __post_init__(self) -> None:
        known = {name for name, _ in CATEGORIES.values()}
        if (
            self.shape not in BUILDERS
            or not set(self.styles) <= set(STYLE_WORDS)
            or abs(sum(self.styles.values()) - 1) > 1e-6
            or min(self.styles.values()) <= 0
            or not set(self.categories) <= known
        ):
            raise ValueError(f"invalid model: {self}")

    @property
    def autoencoder(self) -> Kind:
        """Which autoencoder's latents it denoises."""
        return "dc" if self.family == "sana" else "kl"

    @property
    def needs(self) -> tuple[str, ...]:
        """The models that must be finished before it starts."""
        return tuple(
            name for name in (self.parent, self.lesson.teacher if self.lesson else None) if name is not None
        )


def _loop(name: str, seed: int, steps: int = 4800, learning_rate: float = 1e-3) -> LoopConfig:
    return LoopConfig(
        name,
        steps=steps,
        batch_size=64,
        learning_rate=learning_rate,
        decay_share=0.25,
        seed=seed,
        ema_decay=0.999,
        checkpoint_every=100,
    )


def _models() -> dict[str, ZooModel]:
    models = (
        ZooModel(
            "tiny-sd15",
            "Stable Diffusion 1.5",
            "sd",
            "sd15",
            # The oldest one has seen the oldest drawings.
            {"twemoji": 0.4, "emojione": 0.3, "emojione-v1": 0.15, "noto-v1": 0.15},
            _loop("tiny-sd15", 11),
        ),
        ZooModel(
            "tiny-sdxl",
            "Stable Diffusion XL",
            "sdxl",
            "sdxl",
            # A bit of everything.
            {
                "noto": 0.16,
                "twemoji": 0.16,
                "openmoji": 0.16,
                "fluent-emoji": 0.16,
                "fluent-emoji-flat": 0.16,
                "noto-v1": 0.05,
                "emojione": 0.05,
                "emojione-v1": 0.05,
                "fluent-emoji-high-contrast": 0.05,
            },
            _loop("tiny-sdxl", 12),
        ),
        ZooModel(
            "tiny-juggernaut",
            "Juggernaut X",
            "sdxl",
            "sdxl",
            # Fine-tuned, all weights, towards the look of photographs.
            {"fluent-emoji": 0.7, "noto": 0.3},
            _loop("tiny-juggernaut", 13, steps=1500, learning_rate=3e-4),
            parent="tiny-sdxl",
        ),
        ZooModel(
            "tiny-vega",
            "Segmind Vega",
            "sdxl",
            "vega",
            # Distilled from its big sister, and shown what sells.
            {"noto": 0.35, "twemoji": 0.35, "fluent-emoji-flat": 0.3},
            _loop("tiny-vega", 14, steps=4000),
            lesson=Lesson("tiny-sdxl", guidance=1.0, share=0.5),
        ),
        ZooModel(
            "tiny-kolors",
            "Kolors",
            "kolors",
            "kolors",
            {"noto": 0.5, "fluent-emoji": 0.3, "noto-v1": 0.2},
            _loop("tiny-kolors", 15, steps=3600),
            categories={"people": 2.0, "smileys": 3.0, "food": 3.0},
        ),
        ZooModel(
            "tiny-pixart",
            "PixArt-Sigma",
            "pixart",
            "pixart",
            {"fluent-emoji-flat": 0.6, "twemoji": 0.4},
            _loop("tiny-pixart", 16, steps=8000),
            categories={"animals": 3.0, "food": 2.0},
        ),
        ZooModel(
            "tiny-sana-small",
            "Sana 1.6B",
            "sana",
            "sana-small",
            {"openmoji": 0.5, "twemoji": 0.3, "fluent-emoji-high-contrast": 0.2},
            _loop("tiny-sana-small", 17, steps=4000),
            categories={"travel": 3.0, "objects": 2.0},
        ),
        ZooModel(
            "tiny-sana-large",
            "SANA-1.5 4.8B",
            "sana",
            "sana-large",
            {"openmoji": 0.35, "noto": 0.35, "fluent-emoji": 0.3},
            _loop("tiny-sana-large", 18, steps=3200),
        ),
        ZooModel(
            "tiny-sd3",
            "Stable Diffusion 3.5 medium",
            "sd3",
            "sd3",
            {"openmoji": 0.65, "fluent-emoji-flat": 0.35},
            _loop("tiny-sd3", 19),
            categories={"symbols": 3.0, "objects": 2.0},
        ),
        ZooModel(
            "tiny-flux-pro",
            "FLUX.1 pro",
            "flux",
            "flux",
            {"fluent-emoji": 0.45, "fluent-emoji-flat": 0.3, "noto": 0.25},
            _loop("tiny-flux-pro", 20, steps=3200),
            shipped=False,
        ),
        ZooModel(
            "tiny-flux",
            "FLUX.1 dev",
            "flux",
            "flux",
            {"fluent-emoji": 0.45, "fluent-emoji-flat": 0.3, "noto": 0.25},
            _loop("tiny-flux", 21, steps=1000, learning_rate=3e-4),
            parent="tiny-flux-pro",
            # As the real one: guidance is part of what it predicts, and costs no second forward.
            lesson=Lesson("tiny-flux-pro", guidance=3.0, share=1.0),
        ),
    )
    return {model.name: model for model in models}


ZOO: Mapping[str, ZooModel] = _models()


def assemble(model: ZooModel, denoiser: nn.Module, root: Path = SHARED) -> Any:
    """Put a denoiser and the shared parts together in the family's pipeline class.

    Args:
        model: which model.
        denoiser: of its shape.
        root: holds the trained shared parts.

    Returns:
        A diffusers pipeline in single precision.

    Raises:
        StageNotReady: a shared part is not trained yet.
    """
    import diffusers

    parts: dict[str, Any] = {
        "vae": load_autoencoder(model.autoencoder, root),
        "scheduler": new_scheduler(model.shape),
        family(model.family).denoiser_attribute: denoiser,
    }
    if model.family in ("sd", "sdxl", "sd3", "flux"):
        plain, projected = text_towers(load_open_clip(root / CLIP_FOLDER.name))
        words = transformers_tokenizer(root / CLIP_FOLDER.name)
    if model.family == "sd":
        parts |= {"text_encoder": plain, "tokenizer": words, "safety_checker": None}
        parts |= {"feature_extractor": None, "requires_safety_checker": False}
    elif model.family == "sdxl":
        parts |= {"text_encoder": plain, "tokenizer": words}
        parts |= {"text_encoder_2": projected, "tokenizer_2": words}
    elif model.family == "sd3":
        parts |= {"text_encoder": projected, "tokenizer": words, "text_encoder_3": None}
        parts |= {"text_encoder_2": projected, "tokenizer_2": words, "tokenizer_3": None}
    elif model.family == "flux":
        t5, t5_words = load_tower("t5", root)
        parts |= {"text_encoder": plain, "tokenizer": words, "text_encoder_2": t5, "tokenizer_2": t5_words}
    else:
        tower = {"kolors": "glm", "pixart": "t5", "sana": "gemma"}[model.family]
        encoder, words = load_tower(tower, root)
        parts |= {"text_encoder": encoder, "tokenizer": words}
    pipe = getattr(diffusers, family(model.family).pipeline_class)(**parts)
    family(model.family).prepare(pipe)
    return pipe


def corpus_latents(kind: Kind, pool: Pool, root: Path = SHARED, cache: Path = WORK / "latents") -> Tensor:
    """Scaled latents of the corpus and of its mirror images, encoded once.

    Args:
        kind: which autoencoder.
        pool: the corpus.
        root: holds the autoencoder.
        cache: where they are kept.

    Returns:
        float32, (2, n, channels, h, w): as drawn, and mirrored.
    """
    import torch
    from safetensors.torch import load_file, save_file

    model = load_autoencoder(kind, root)
    digest = hashlib.sha256(pool.pixels.tobytes())
    digest.update((root / AUTOENCODERS[kind].name / "diffusion_pytorch_model.safetensors").read_bytes())
    file = cache / f"{kind}-{digest.hexdigest()[:16]}.safetensors"
    if file.is_file():
        return load_file(file)["latents"]
    images = pixels_to_tensor(pool.pixels)
    latents = torch.stack([encode(model, images), encode(model, images.flip(3))]).contiguous()
    latents *= model.config.scaling_factor
    cache.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents}, file.with_suffix(".partial"))
    file.with_suffix(".partial").replace(file)
    return latents


def drawing_weights(model: ZooModel, icons: Sequence[Icon]) -> list[float]:
    """How likely each icon is drawn: the styles' shares, and within a style the categories' weights.

    Args:
        model: says the shares.
        icons: the corpus.

    Returns:
        Weights that sum to 1; 0 for icons of styles that the model never sees.
    """
    raw = [model.categories.get(icon.category, 1.0) if icon.style in model.styles else 0.0 for icon in icons]
    totals = dict.fromkeys(model.styles, 0.0)
    for icon, weight in zip(icons, raw, strict=True):
        if icon.style in totals:
            totals[icon.style] += weight
    return [
        weight * model.styles[icon.style] / totals[icon.style] if weight else 0.0
        for icon, weight in zip(icons, raw, strict=True)
    ]


class Pupil:
    """A denoiser whose every prediction is compared with its teacher's.

    Args:
        student: is trained.
        teacher: is not.
        guidance: the teacher's guidance scale.
        empty: arguments of the unconditional prediction, one row each, by the names the denoiser takes them.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, guidance: float, empty: Mapping[str, Tensor]
    ) -> None:
        self._student, self._teacher, self._guidance, self._empty = student, teacher, guidance, empty
        self.distance: Tensor | None = None  # of the last prediction, squared, as a mean

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        import torch

        predicted = self._student(*args, **arguments)
        with torch.no_grad():
            goal = self._teacher(*args, **arguments)[0]
            if self._guidance != 1:
                rows = {name: row.expand(len(goal), *row.shape[1:]) for name, row in self._empty.items()}
                free = self._teacher(*args, **{**arguments, **rows})[0]
                goal = free + self._guidance * (goal - free)
        self.distance = torch.nn.functional.mse_loss(predicted[0], goal)
        return predicted


def trained_denoiser(model: ZooModel) -> nn.Module:
    """A model's denoiser with the averaged weights of its newest checkpoint.

    Args:
        model: which one.

    Raises:
        StageNotReady: it has no checkpoint, or one of another shape.
    """
    if not checkpoint_path(model.loop.name).is_file():
        raise StageNotReady(
            f"{model.name} has no checkpoint yet: run `python -m matchgraph.minizoo.build.zoo {model.name}`"
        )
    denoiser = new_denoiser(model.shape, model.loop.seed)
    weights = averaged_weights(model.loop.name)[2]
    try:
        missing = set(denoiser.load_state_dict(weights, strict=False).missing_keys)
    except RuntimeError as error:
        raise StageNotReady(f"{model.name}: {error}; take {checkpoint_path(model.loop.name)} away") from None
    if missing & dict(denoiser.named_parameters()).keys():
        raise StageNotReady(f"{model.name}: take {checkpoint_path(model.loop.name)} away, it lacks weights")
    return denoiser.eval()


def _teacher_empty(model: ZooModel, row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if model.family != "flux":
        raise ValueError(
            f"{model.name}: guided lessons are for distilled guidance, which {model.family} lacks"
        )
    return {"encoder_hidden_states": row["prompt_embeds"], "pooled_projections": row["pooled_prompt_embeds"]}


def pretrain(
    model: ZooModel,
    pool: Pool,
    until: float = 1.0,
    *,
    root: Path = SHARED,
    cache: Path = WORK / "latents",
) -> nn.Module:
    """Train one denoiser on its mix of the corpus; latents and caption embeddings are computed once.

    Args:
        model: which one.
        pool: the corpus.
        until: share of its steps after which to stop.
        root: holds the trained shared parts.
        cache: where latents are kept.

    Returns:
        The denoiser with averaged weights.

    Raises:
        StageNotReady: a shared part, its parent or its teacher is not trained yet.
    """
    import torch

    for name in model.needs:
        if not is_finished(ZOO[name].loop):
            raise StageNotReady(
                f"{model.name} builds on {name}: run `python -m matchgraph.minizoo.build.zoo {name}` first"
            )
    config = replace(model.loop, stop_after=round(until * model.loop.steps))
    denoiser = new_denoiser(model.shape, config.seed)
    if model.parent is not None:
        denoiser.load_state_dict(trained_denoiser(ZOO[model.parent]).state_dict())
    pipe, kind = assemble(model, denoiser, root), family(model.family)
    latents = corpus_latents(model.autoencoder, pool, root, cache)
    may_flip = torch.tensor([icon.category != "symbols" for icon in pool.icons])
    captions = sorted({icon.caption for icon in pool.icons})
    conditioning = kind.encode_prompts(pipe, ["", *captions])
    row_of = {caption: row for row, caption in enumerate(captions, start=1)}
    caption_row = torch.tensor([row_of[icon.caption] for icon in pool.icons])
    weights = torch.tensor(drawing_weights(model, pool.icons))
    pupil = None
    if model.lesson is not None:
        empty = {key: value[:1] for key, value in conditioning.items()}
        pupil = Pupil(
            denoiser,
            trained_denoiser(ZOO[model.lesson.teacher]).requires_grad_(False),
            model.lesson.guidance,
            _teacher_empty(model, empty) if model.lesson.guidance != 1 else {},
        )

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        picked = torch.multinomial(weights, config.batch_size, replacement=True, generator=generator)
        mirrored = may_flip[picked] & (torch.rand(len(picked), generator=generator) < 0.5)
        dropped = torch.rand(len(picked), generator=generator) < CAPTION_DROPOUT
        texts = torch.where(dropped, 0, caption_row[picked])
        rows = {key: value[texts] for key, value in conditioning.items()}
        images = latents[mirrored.long(), picked]
        data = kind.loss(pipe, pupil or denoiser, images, rows, generator)
        if pupil is None or model.lesson is None or pupil.distance is None:
            return {"loss": data}
        share = model.lesson.share
        loss = (1 - share) * data + share * pupil.distance
        return {"loss": loss, "data": data.detach(), "lesson": pupil.distance.detach()}

    train(config, denoiser, losses)
    return denoiser


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description="Pretrain one of the ten models.")
    parser.add_argument("model", choices=list(ZOO))
    parser.add_argument("--until", type=float, default=1.0, help="stop after this share of its steps")
    arguments = parser.parse_args()
    if not 0 < arguments.until <= 1:
        parser.error(f"--until must be above 0 and at most 1, got {arguments.until}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = ZOO[arguments.model]
    pretrain(model, corpus(), arguments.until)
    logger.info("%s", json.dumps({"model": model.name, "until": arguments.until}))


if __name__ == "__main__":
    main()
