"""The two other instruments of the ten models' zoo, beside its CLIP: a DINOv2 and a SigLIP.

Both are image models of transformers' own classes at 32 pixels, trained on the corpus. `dinov2` never reads a
caption: it learns to tell images apart whatever part of them it is shown. `siglip` learns from captions as
the CLIP does, by another loss, in another architecture and from other initial weights, so that the two differ
as two published models of the kind do. `python -m matchgraph.minizoo.build.probes NAME` trains one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.minizoo.build.autoencoders import SHARED
from matchgraph.minizoo.build.clip import shift_and_flip
from matchgraph.minizoo.build.corpus import HELD_OUT_EVERY, corpus, pixels_to_tensor
from matchgraph.minizoo.build.icons import TRAINING_RESOLUTION_PX, WORK, Pool
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, train
from matchgraph.minizoo.build.tokenizer import open_clip_tokenizer
from matchgraph.minizoo.build.towers import CLIP_FOLDER

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

Probe = Literal["dinov2", "siglip"]
CONFIGS: dict[Probe, LoopConfig] = {
    name: LoopConfig(
        f"probe-{name}",
        steps=1000,
        batch_size=96,
        learning_rate=1e-3,
        weight_decay=0.05,
        seed=seed,
        ema_decay=0.99,
        checkpoint_every=100,
    )
    for name, seed in (("dinov2", 31), ("siglip", 32))
}
WIDTH, LAYERS, HEADS = 96, 4, 4
PATCH = 8
PROJECTED = 64
TEMPERATURE = 0.2
# Sides of a crop as shares of the image's: an icon fills its image, and smaller parts say little of it.
CROP = (0.6, 1.0)


def new_probe(name: Probe, seed: int) -> Any:
    """Make an untrained image model.

    Args:
        name: which one.
        seed: of the initial weights.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    sizes["image_size"] = TRAINING_RESOLUTION_PX
    if name == "dinov2":
        return Dinov2Model(Dinov2Config(patch_size=PATCH, mlp_ratio=3, **sizes))
    return SiglipVisionModel(SiglipVisionConfig(patch_size=PATCH, intermediate_size=3 * WIDTH, **sizes))


def crops(images: Tensor, may_flip: Tensor, generator: torch.Generator) -> Tensor:
    """A random part of each image at full size, half of those that may be mirrored.

    Args:
        images: float32 in -1..1, (n, 3, h, w).
        may_flip: bool, (n,).
        generator: of the draws.
    """
    import torch
    import torch.nn.functional as F

    count = len(images)
    side = CROP[0] + (CROP[1] - CROP[0]) * torch.rand(count, generator=generator)
    centre = (1 - side[:, None]) * (2 * torch.rand(count, 2, generator=generator) - 1)
    mirror = torch.where(may_flip & (torch.rand(count, generator=generator) < 0.5), -1.0, 1.0)
    part = torch.zeros(count, 2, 3)
    part[:, 0, 0], part[:, 1, 1], part[:, :, 2] = side * mirror, side, centre
    grid = F.affine_grid(part, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _two_views_loss(model: nn.Module, head: nn.Module, views: tuple[Tensor, Tensor]) -> Tensor:
    """Each view's nearest among all others must be the same image's other view.

    Source:
        Chen et al. (2020), "A Simple Framework for Contrastive Learning of Visual Representations", Eq. 1.
    """
    import torch
    import torch.nn.functional as F

    both = F.normalize(head(model(pixel_values=torch.cat(views)).pooler_output), dim=1)
    logits = both @ both.T / TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -math.inf)
    return F.cross_entropy(logits, torch.arange(len(logits)).roll(len(views[0])))


def train_probe(name: Probe, pool: Pool) -> None:
    """Train a probe on the corpus, but for every twentieth icon; goes on where it stopped.

    Args:
        name: which one.
        pool: the corpus.

    Source:
        For `siglip`: Zhai et al. (2023), "Sigmoid Loss for Language Image Pre-Training", Algorithm 1.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    config = CONFIGS[name]
    rows = [row for row in range(len(pool.icons)) if row % HELD_OUT_EVERY]
    icons = [pool.icons[row] for row in rows]
    images = pixels_to_tensor(pool.pixels[rows])
    may_flip = torch.tensor([icon.category != "symbols" for icon in icons])
    learner = nn.ModuleDict({"model": new_probe(name, config.seed)})
    torch.manual_seed(config.seed)
    if name == "dinov2":
        learner["head"] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, PROJECTED))

        def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
            picked = torch.randperm(len(icons), generator=generator)[: config.batch_size]
            first, second = (crops(images[picked], may_flip[picked], generator) for _ in range(2))
            return {"loss": _two_views_loss(learner["model"], learner["head"], (first, second))}

        train(config, learner, losses)
        return
    tokens = open_clip_tokenizer(CLIP_FOLDER)([icon.styled_caption for icon in icons])
    captions = {caption: row for row, caption in enumerate(sorted({icon.styled_caption for icon in icons}))}
    caption = torch.tensor([captions[icon.styled_caption] for icon in icons])
    learner["words"] = nn.Embedding(int(tokens.max()) + 1, WIDTH)
    learner["text"] = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
    # The paper's: a temperature of 10 and a bias that makes pairs rare at the start.
    learner["scale"] = nn.Linear(1, 1)
    nn.init.constant_(learner["scale"].weight, math.log(10.0))
    nn.init.constant_(learner["scale"].bias, -10.0)

    def sigmoid_losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
        picked = torch.randperm(len(icons), generator=generator)[: config.batch_size]
        seen = shift_and_flip(images[picked], may_flip[picked], generator)
        image = F.normalize(learner["model"](pixel_values=seen).pooler_output, dim=1)
        read = tokens[picked]
        known = (read > 0).unsqueeze(2)
        # The order of a caption's few words says nothing that the words do not.
        words = (learner["words"](read) * known).sum(1) / known.sum(1)
        text = F.normalize(learner["text"](words), dim=1)
        scale = learner["scale"]
        logits = scale.weight.exp() * image @ text.T + scale.bias
        pair = (caption[picked][:, None] == caption[picked]).float() * 2 - 1
        return {"loss": -F.logsigmoid(pair * logits).sum() / len(picked)}

    train(config, learner, sigmoid_losses)


def save_probe(name: Probe, pool: Pool, folder: Path) -> dict[str, Any]:
    """Write a probe from its newest checkpoint in half precision, and measure it on icons it never saw.

    Args:
        name: which one.
        pool: the corpus.
        folder: gets what `training.measure.extractors` loads.

    Returns:
        Steps, seconds, parameters, and how often an unseen icon's nearest neighbour among the others is of
        its style, and of its category (cosine of the features).
    """
    import torch
    import torch.nn.functional as F

    config = CONFIGS[name]
    step, seconds, weights = averaged_weights(config.name)
    model = new_probe(name, config.seed)
    own = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    model.load_state_dict(own, strict=False)
    model = model.half().float().eval()
    held_out = pool.icons[::HELD_OUT_EVERY]
    with torch.no_grad():
        features = model(pixel_values=pixels_to_tensor(pool.pixels[::HELD_OUT_EVERY])).pooler_output
    near = F.normalize(features, dim=1)
    nearest = (near @ near.T).fill_diagonal_(-1).argmax(1).tolist()
    pairs = [(icon, held_out[other]) for icon, other in zip(held_out, nearest, strict=True)]
    measured = {
        "steps": step,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_icons": len(held_out),
        "neighbour_of_style": round(sum(a.style == b.style for a, b in pairs) / len(pairs), 4),
        "neighbour_of_category": round(sum(a.category == b.category for a, b in pairs) / len(pairs), 4),
    }
    write_probe(model, folder)
    (WORK / f"{config.name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def write_probe(model: Any, folder: Path) -> None:
    """Write a probe's weights in half precision and how it sees images, as `training.measure.extractors`
    reads them.

    Args:
        model: the image model.
        folder: gets the files.
    """
    model.half().save_pretrained(folder, safe_serialization=True)
    side = {"height": TRAINING_RESOLUTION_PX, "width": TRAINING_RESOLUTION_PX}
    seen = {"size": side, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train a probe and save it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(CONFIGS))
    name = parser.parse_args().name
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pool = corpus()
    train_probe(name, pool)
    logger.info("%s", save_probe(name, pool, SHARED / CONFIGS[name].name))


if __name__ == "__main__":
    main()
