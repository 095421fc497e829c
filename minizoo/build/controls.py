"""The small zoo's ControlNet: Canny edges for tiny-sdxl, trained on the datasets' train splits and measured.

`python -m matchgraph.minizoo.build.controls train` trains it, going on where it stopped; `evaluate` draws for
validation images with and without it and says how well edges agree."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.controlnet import RECORD_FILE, ControlConfig, train_controlnet
from matchgraph.minizoo.build.icons import WORK
from matchgraph.training.config import SampleConfig
from matchgraph.training.images import CaptionedImage, list_captioned_images, load_rgb
from matchgraph.training.pipelines.controlnet import CONFIG_FILE, WEIGHTS_FILE, controlled
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.controls import canny
from matchgraph.training.sampling.generate import stream_images

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.extractors.base import Extractor
    from matchgraph.training.measure.quality import Scorer

logger = logging.getLogger(__name__)

NAME = "tiny-sdxl-canny"
TEACHER = ROOT / "models" / "tiny-sdxl"
SHIPPED = ROOT / "controls" / NAME
LOG_EVERY = 50
# How far off an edge may be, to the side, up or down.
TOLERANCE_PX = 1
CONFIG = ControlConfig(
    steps=1800,
    batch_size=32,
    learning_rate=3e-4,
    resolution_px=32,
    seed=61,
    saved_precision="fp16",
    device="cpu",
)


def edge_agreement(asked: Image.Image, drawn: Image.Image) -> float:
    """How well the edges of two edge images agree.

    The harmonic mean (F1) of the share of drawn edge pixels that have an asked one near, and of the share of
    asked ones that have a drawn one near.

    Args:
        asked: edges as `canny` draws them.
        drawn: the same, of the same size.

    Returns:
        0..1, higher is better; two images without edges agree.
    """
    from scipy.ndimage import maximum_filter

    first, second = (np.asarray(image.convert("L")) > 127 for image in (asked, drawn))
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    near_first, near_second = (
        maximum_filter(edges, size=2 * TOLERANCE_PX + 1, mode="constant", cval=False)
        for edges in (first, second)
    )
    precision, recall = float(near_first[second].mean()), float(near_second[first].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def gather(folder: Path, datasets: Path = ROOT / "datasets") -> Path:
    """Copy all datasets into one folder of captioned images, each with its split.

    Args:
        folder: where to; what is there is replaced.
        datasets: holds the datasets' folders.

    Returns:
        `folder`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for dataset in sorted(path for path in datasets.iterdir() if path.is_dir()):
        (folder / dataset.name).mkdir(parents=True)
        for image in list_captioned_images(dataset):
            shutil.copyfile(image.path, folder / dataset.name / image.path.name)
            rows.append(
                {
                    "file_name": f"{dataset.name}/{image.path.name}",
                    "text": image.caption,
                    "split": "validation" if image.held_out else "train",
                }
            )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def held_out(count: int, datasets: Path = ROOT / "datasets") -> list[CaptionedImage]:
    """Validation images, evenly from all datasets.

    Args:
        count: how many of each dataset, the first by name.
        datasets: holds the datasets' folders.
    """
    found = []
    for dataset in sorted(path for path in datasets.iterdir() if path.is_dir()):
        images = [image for image in list_captioned_images(dataset) if image.held_out]
        found += sorted(images, key=lambda image: image.path.name)[:count]
    return found


@dataclass(frozen=True)
class Measured:
    """How well images follow asked edges.

    Attributes:
        model: the pipeline's folder name.
        control: whether the ControlNet steered it.
        steps: denoising steps.
        agreement: mean F1 of the edges with 1 pixel of tolerance.
        clip_score: mean cosine of image and caption, as the zoo's CLIP sees them.
        likeness: mean cosine of image and the icon whose edges were asked for; None without a CLIP.
        images: how many.
    """

    model: str
    control: bool
    steps: int
    agreement: float
    clip_score: float
    likeness: float | None
    images: int


def evaluate(
    model: Path,
    controlnet: Path,
    images: Sequence[CaptionedImage],
    steps: Sequence[int],
    scorer: Scorer,
    extractor: Extractor | None = None,
    *,
    guidance: float = 2.0,
    seed: int = 42,
) -> list[Measured]:
    """Draw for images' captions with and without their edges, from the same noise.

    Args:
        model: a pipeline folder.
        controlnet: of that architecture.
        images: whose edges are asked for.
        steps: numbers of denoising steps.
        scorer: of images and captions.
        extractor: for the likeness.
        guidance: classifier-free guidance scale.
        seed: of the noise.

    Returns:
        The icons themselves, under the name `icons`, and the drawn images.
    """
    icons = [load_rgb(image.path) for image in images]
    captions = [image.caption or "" for image in images]
    asked = _Asked(icons, captions, scorer, extractor)
    found = [asked.measure("icons", False, 0, icons)]
    with LoadedPipeline(model, device="cpu") as loaded:
        for count in steps:
            sampling = SampleConfig(
                n=len(images),
                drawing=Drawing(count, guidance, resolution_px=CONFIG.resolution_px),
                seed=seed,
                batch_size=32,
                device="cpu",
            )
            plain = list(stream_images(loaded, None, captions, sampling))
            with controlled(loaded, controlnet):
                steered = list(stream_images(loaded, None, captions, sampling, controls=asked.edges))
            for control, drawn in ((False, plain), (True, steered)):
                found.append(asked.measure(model.name, control, count, drawn))
                logger.info("%s", found[-1])
    return found


class _Asked:
    """What drawn images are compared with."""

    def __init__(
        self,
        icons: Sequence[Image.Image],
        captions: Sequence[str],
        scorer: Scorer,
        extractor: Extractor | None,
    ) -> None:
        self.edges = _edges(icons)
        self._captions, self._scorer, self._extractor = captions, scorer, extractor
        self._seen = self._embed(icons)

    def measure(self, model: str, control: bool, steps: int, drawn: Sequence[Image.Image]) -> Measured:
        pairs = zip(self.edges, _edges(drawn), strict=True)
        agreement = [edge_agreement(one, other) for one, other in pairs]
        scores = self._scorer.score(self._captions, drawn)
        seen = self._embed(drawn)
        return Measured(
            model,
            control,
            steps,
            agreement=sum(agreement) / len(agreement),
            clip_score=float(scores.mean()),
            likeness=None if seen is None else float((seen * self._seen).sum(axis=1).mean()),
            images=len(agreement),
        )

    def _embed(self, images: Sequence[Image.Image]) -> Any:
        if self._extractor is None:
            return None
        seen = self._extractor.features(images)
        return seen / np.linalg.norm(seen, axis=1, keepdims=True)


def _edges(images: Sequence[Image.Image]) -> list[Image.Image]:
    return [canny(image, CONFIG.low, CONFIG.high) for image in images]


def clip() -> tuple[Scorer, Extractor]:
    """CLIPScore by the zoo's probe, and its image side."""
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.measure.quality import ClipScore

    folder = ROOT / "probes" / "clip"
    extractor = load_clip(folder, device="cpu")
    return ClipScore(extractor, load_prompt_encoder(str(folder), device="cpu")), extractor


def train(work: Path = WORK / "controls", shipped: Path = SHIPPED, log: Path = ROOT / "logs") -> None:
    """Train the ControlNet and ship it with its loss curve."""
    import time

    import torch

    from matchgraph.training.tune.checkpoint import Checkpoints

    torch.set_num_threads(1)
    began = time.perf_counter()
    seconds: dict[int, float] = {}

    def told(step: int, loss: float) -> None:
        seconds[step] = time.perf_counter() - began
        if step % LOG_EVERY == 0:
            logger.info("step %d/%d %.0fs loss %.5f", step, CONFIG.steps, seconds[step], loss)

    checkpoints = Checkpoints(work / "checkpoint", every_steps=200, resume_from=work / "checkpoint")
    record = train_controlnet(
        TEACHER, gather(work / "images"), work / NAME, CONFIG, told, checkpoints=checkpoints
    )
    shipped.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, CONFIG_FILE, RECORD_FILE):
        shutil.copyfile(record.folder / name, shipped / name)
    with open(log / f"{NAME}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "loss"])
        for start in range(0, len(record.losses), LOG_EVERY):
            part = record.losses[start : start + LOG_EVERY]
            writer.writerow([start + len(part), round(sum(part) / len(part), 5)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or measure what was trained."""
    parser = argparse.ArgumentParser(description="The small zoo's ControlNet.")
    parser.add_argument("action", choices=["train", "evaluate"])
    parser.add_argument("--model", type=Path, action="append", help="pipeline to evaluate with; tiny-sdxl")
    parser.add_argument("--steps", default="5,10,20", help="numbers of denoising steps")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale; 1 for students")
    parser.add_argument("--images", type=int, default=8, help="validation images of each dataset")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if chosen.action == "train":
        train()
        return
    rows: list[dict[str, Any]] = []
    for model in chosen.model or [TEACHER]:
        steps = [int(part) for part in chosen.steps.split(",")]
        images = held_out(chosen.images)
        found = evaluate(model, SHIPPED, images, steps, *clip(), guidance=chosen.guidance)
        rows += [each.__dict__ for each in found]
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
