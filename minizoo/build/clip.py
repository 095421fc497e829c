"""The small zoo's CLIP: open_clip's model class at 32 pixels, trained on icons and their captions.

It is the text encoder of the pipelines, the probe that embeds datasets, and the feature extractor of the
Frechet distance. `python -m matchgraph.minizoo.build.towers clip` trains it on the corpus of all styles and
writes it in open_clip's own folder layout, so
`open_clip.create_model_from_pretrained("local-dir:minizoo/probes/clip")` loads it. The text tower converts
exactly to transformers' CLIPTextModel and CLIPTextModelWithProjection."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.minizoo.build.corpus import HELD_OUT_EVERY, pixels_to_tensor
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import TRAINING_RESOLUTION_PX, WORK, Pool
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, train
from matchgraph.minizoo.build.tokenizer import CONTEXT_LENGTH, open_clip_tokenizer

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP as OpenClip
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

logger = logging.getLogger(__name__)

VOCABULARY = 1514  # 512 byte tokens, 1000 merges, start and end
MODEL_CFG: Mapping[str, object] = {
    "embed_dim": 64,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": TRAINING_RESOLUTION_PX,
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": VOCABULARY,
        "width": 128,
        "heads": 4,
        "layers": 3,
        # Tells open_clip to read the tokenizer beside the weights.
        "hf_tokenizer_name": "minizoo-clip",
    },
}
# Icons fill the whole range and are mostly white: plain centring to -1..1 serves them better than photo
# statistics.
PREPROCESS_CFG: Mapping[str, object] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def new_clip(seed: int) -> OpenClip:
    """Make the untrained CLIP.

    Args:
        seed: of the initial weights.
    """
    import torch
    from open_clip import CLIP as OpenClip

    torch.manual_seed(seed)
    text = {key: value for key, value in MODEL_CFG["text_cfg"].items() if key != "hf_tokenizer_name"}
    return OpenClip(embed_dim=MODEL_CFG["embed_dim"], vision_cfg=dict(MODEL_CFG["vision_cfg"]), text_cfg=text)


def shift_and_flip(images: Tensor, may_flip: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to two pixels over white, and flip half of those that may be flipped.

    Args:
        images: float32 in -1..1, (n, 3, h, w).
        may_flip: bool, (n,).
        generator: of the draws.
    """
    import torch
    import torch.nn.functional as F

    size = images.shape[-1]
    padded = F.pad(images, (2, 2, 2, 2), value=1.0)
    dy, dx = torch.randint(5, (2,), generator=generator).tolist()
    flip = may_flip & (torch.rand(len(images), generator=generator) < 0.5)
    moved = padded[:, :, dy : dy + size, dx : dx + size]
    return torch.where(flip[:, None, None, None], moved.flip(3), moved)


def train_clip(pool: Pool, config: LoopConfig, folder: Path) -> OpenClip:
    """Train the CLIP on the corpus, contrastively.

    A batch may hold one concept in several styles. Half of the captions name the style, and those match only
    the icon of that style; the others match the concept in every style. Both directions are cross-entropies
    against the matching set.

    Args:
        pool: the corpus.
        config: the run.
        folder: holds the tokenizer.

    Source:
        Radford et al. (2021), "Learning Transferable Visual Models From Natural Language Supervision",
        Figure 3; the many-positives form is that of Khosla et al. (2020), "Supervised Contrastive Learning",
        Eq. 2.
    """
    import torch

    tokenize = open_clip_tokenizer(folder)
    rows = [index for index in range(len(pool.icons)) if index % HELD_OUT_EVERY]
    icons = [pool.icons[index] for index in rows]
    images = pixels_to_tensor(pool.pixels[rows])
    plain, styled = tokenize([i.caption for i in icons]), tokenize([i.styled_caption for i in icons])
    captions = {caption: index for index, caption in enumerate(sorted({i.caption for i in icons}))}
    concept = torch.tensor([captions[i.caption] for i in icons])
    styles = sorted({i.style for i in icons})
    style = torch.tensor([styles.index(i.style) for i in icons])
    # A mirrored arrow or letter is another symbol.
    may_flip = torch.tensor([i.category != "symbols" for i in icons])
    model = new_clip(config.seed)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        rows = torch.randperm(len(icons), generator=generator)[: config.batch_size]
        named = torch.rand(len(rows), generator=generator) < 0.5
        texts = torch.where(named[:, None], styled[rows], plain[rows])
        batch = shift_and_flip(images[rows], may_flip[rows], generator)
        image = model.encode_image(batch, normalize=True)
        text = model.encode_text(texts, normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        same = (concept[rows][:, None] == concept[rows]) & (~named | (style[rows][:, None] == style[rows]))
        to_text = -(logits.log_softmax(1) * same).sum(1) / same.sum(1)
        to_image = -(logits.log_softmax(0) * same).sum(0) / same.sum(0)
        hit = same.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        return {"loss": (to_text.mean() + to_image.mean()) / 2, "batch_accuracy": hit}

    train(config, model, losses)
    return model


def save_clip(pool: Pool, folder: Path, config: LoopConfig) -> dict[str, float]:
    """Write the CLIP from its newest checkpoint in open_clip's layout, and measure it on icons it never saw.

    Args:
        pool: the corpus.
        folder: the tokenizer's folder; gains the configuration and the weights.
        config: the run.

    Returns:
        Measured numbers, those of `retrieval` among them.
    """
    import torch
    from safetensors.torch import save_file

    step, seconds, weights = averaged_weights(config.name)
    model = new_clip(config.seed)
    model.load_state_dict(weights, strict=False)
    # Shipped in half precision: measure what is shipped.
    model = model.half().float().eval()
    held_out = [index for index in range(len(pool.icons)) if index % HELD_OUT_EVERY == 0]
    measured = {"steps": step, "seconds": seconds, **retrieval(model, pool, held_out, folder)}
    measured["parameters"] = sum(p.numel() for p in model.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    state = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (WORK / f"{config.name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def retrieval(model: OpenClip, pool: Pool, held_out: list[int], folder: Path) -> dict[str, float]:
    """Find the caption of held-out icons among all captions of the pool.

    The icon was never seen; its concept may have been, in another style.

    Args:
        model: a CLIP.
        pool: the corpus.
        held_out: rows of the pool to ask about.
        folder: holds the tokenizer.

    Returns:
        Share found first and in the first five among `captions` captions, and the share whose style is told
        right.
    """
    import torch

    tokenize = open_clip_tokenizer(folder)
    captions = sorted({icon.caption for icon in pool.icons})
    with torch.no_grad():
        image = model.encode_image(pixels_to_tensor(pool.pixels[held_out]), normalize=True)
        text = model.encode_text(tokenize(captions), normalize=True)
        ranked = (image @ text.T).argsort(1, descending=True)
        truth = torch.tensor([captions.index(pool.icons[row].caption) for row in held_out])
        found = ranked == truth[:, None]
        by_style = {icon.style: icon.styled_caption.split(",")[0] for icon in pool.icons}
        right = 0
        for index, row in enumerate(held_out):
            asked = tokenize([f"{words}, {pool.icons[row].caption}" for words in by_style.values()])
            best = (image[index] @ model.encode_text(asked, normalize=True).T).argmax()
            right += list(by_style)[int(best)] == pool.icons[row].style
    return {
        "held_out_icons": len(held_out),
        "captions": len(captions),
        "retrieval_at_1": round(float(found[:, :1].any(1).float().mean()), 4),
        "retrieval_at_5": round(float(found[:, :5].any(1).float().mean()), 4),
        "style_accuracy": round(right / len(held_out), 4),
    }


def load_open_clip(folder: Path) -> OpenClip:
    """Load the CLIP through open_clip's own loader, in single precision.

    Raises:
        StageNotReady: it was not trained yet.
    """
    import open_clip

    if not (folder / "open_clip_model.safetensors").is_file():
        raise StageNotReady(
            "the CLIP is not trained yet: run `python -m matchgraph.minizoo.build.towers clip` first"
        )
    return open_clip.create_model(f"local-dir:{folder}", precision="fp32").eval()


def text_towers(model: OpenClip) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Convert open_clip's text tower to transformers, weight by weight.

    Args:
        model: a CLIP of `MODEL_CFG`'s shape.

    Returns:
        The text model that gives one state for each token, and the one that gives the projected embedding
        too.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    text = MODEL_CFG["text_cfg"]
    config = CLIPTextConfig(
        vocab_size=text["vocab_size"],
        hidden_size=text["width"],
        intermediate_size=4 * text["width"],
        projection_dim=MODEL_CFG["embed_dim"],
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
        hidden_act="gelu",
        pad_token_id=0,
        bos_token_id=text["vocab_size"] - 2,
        eos_token_id=text["vocab_size"] - 1,
    )
    source = model.state_dict()
    weights = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    for layer in range(text["layers"]):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for part in ("weight", "bias"):
            q, k, v = source[f"{old}.attn.in_proj_{part}"].chunk(3)
            weights |= {
                f"{new}.self_attn.{name}_proj.{part}": value
                for name, value in zip("qkv", (q, k, v), strict=True)
            }
            weights[f"{new}.self_attn.out_proj.{part}"] = source[f"{old}.attn.out_proj.{part}"]
            weights[f"{new}.layer_norm1.{part}"] = source[f"{old}.ln_1.{part}"]
            weights[f"{new}.layer_norm2.{part}"] = source[f"{old}.ln_2.{part}"]
            weights[f"{new}.mlp.fc1.{part}"] = source[f"{old}.mlp.c_fc.{part}"]
            weights[f"{new}.mlp.fc2.{part}"] = source[f"{old}.mlp.c_proj.{part}"]
    plain, projected = CLIPTextModel(config), CLIPTextModelWithProjection(config)
    _load(plain, weights)
    _load(projected, weights | {"text_projection.weight": source["text_projection"].T})
    return plain.eval(), projected.eval()


def _load(target: object, weights: Mapping[str, Tensor]) -> None:
    # Releases of transformers differ in whether the tower sits below a `text_model` attribute.
    expected = target.state_dict()
    named = {
        (name if name in expected else f"text_model.{name}"): value.clone().contiguous()
        for name, value in weights.items()
    }
    missing = {name for name in expected if not name.endswith("position_ids")} - set(named)
    if missing:
        raise ValueError(f"the text tower lacks {sorted(missing)}")
    target.load_state_dict(named, strict=False)
