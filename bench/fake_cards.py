"""Take the ten published models through every stage of a run on a GPU that is not there.

    python -m bench.fake_cards [--model MODEL]...

Each model is planned into a card (24 GiB; SD1.5 and SDXL also into 12), and loaded, encoded, trained for a
step, sampled, decoded and scored there under its plan. A plan made for a larger card is followed by the next
ones until one trains. Tensors have shapes, types and a device, and no values (`bench.fake_card`), so what is
counted is memory, and what can fail is what does not go together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.fake_card import GPU, Card, computing
from bench.provenance import provenance
from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import OutOfMemory, memory_of
from matchgraph.training.measure.extractors.base import Extractor
from matchgraph.training.memory.footprint import Footprint, footprint
from matchgraph.training.memory.plan import CONTEXT_BYTES, GIB, MemoryPlan, Work, plan_memory
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline, quiet_libraries
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.sampling.generate import stream_batches
from matchgraph.training.tune.fine_tuning import FineTuning
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import Lora

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "fake_cards.json"
MODELS = (
    "sd-1.5", "sdxl-base", "segmind-vega", "juggernaut-x", "kolors", "sd-3.5-medium", "pixart-sigma",
    "sana-1.6b", "sana-1.5-4.8b", "flux-1-dev",
)  # fmt: skip
CARDS = [*((model, 24) for model in MODELS), ("sd-1.5", 12), ("sdxl-base", 12)]
# A plan made for a larger card than there is: the model, the card it is made for and the one there is.
TOO_LARGE = ("sd-1.5", 24, 10)
# What is counted, and the stages of a plan in it: one call encodes prompts, draws and decodes.
COUNTED = {
    "loading": ("loading",),
    "encoding": ("encoding images", "encoding text"),
    "training": ("training",),
    "sampling and decoding": ("encoding text", "sampling", "decoding"),
    "scoring": ("scoring",),
}
SIDE, BATCH, IMAGES, SAMPLING_STEPS = 512, 8, 16, 2
# What ViT-L/14 and Inception take.
INSTRUMENT_BYTES = 2 * GIB
WORK = Work(BATCH, BATCH, prompt_batch=16, image_batch=IMAGES, instrument_bytes=INSTRUMENT_BYTES)
PACKAGES = ("torch", "diffusers", "transformers", "peft")


@cache
def traced(folder: Path, side: int = SIDE) -> Footprint:
    """A model's footprint; tracing takes seconds."""
    return footprint(folder, precision="bf16", resolution_px=side)


def write_images(folder: Path, count: int = IMAGES) -> Path:
    """Write images, each with a caption of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": f"image {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def vit_large() -> Extractor:
    """ViT-L/14, as CLIP has it."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    with GPU:
        network = CLIPVisionModel(CLIPVisionConfig(**sizes, num_attention_heads=16)).eval()
    half = (0.5, 0.5, 0.5)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return network(pixels).pooler_output

    return Extractor("vit", "0" * 16, 1024, 224, half, half, encode, GPU)


def run_through(
    folder: Path,
    plan: MemoryPlan,
    images: Path,
    card: Card,
    *,
    side: int = SIDE,
    until: str = "scoring",
    extractor: Callable[[], Extractor] = vit_large,
) -> dict[str, int]:
    """Go through the stages as a run does.

    Args:
        folder: the model's configs.
        plan: how.
        images: a dataset.
        card: where.
        side: of the images, in pixels.
        until: the last stage.
        extractor: makes what scores the images.

    Returns:
        The peak of each of `COUNTED` in bytes.

    Raises:
        OutOfMemory: the card is too small for the plan.
    """
    peaks = {}

    def ends(stage: str) -> bool:
        peaks[stage] = card.stage()
        return stage == until

    with (
        card.running(),
        LoadedPipeline(folder, device=str(GPU), precision="bf16", placement=plan.placement) as loaded,
    ):
        ends("loading")
        with computing():
            data = encode_dataset(loaded, images, resolution_px=side, seed=0)
        ends("encoding")
        config = FineTuneConfig(
            batch_size=plan.micro_batch,
            gradient_checkpointing=plan.gradient_checkpointing,
            resolution_px=side,
            precision="bf16",
            device=str(GPU),
        )
        with (
            attached(loaded, Lora(config.rank, config.alpha), config) as parameters,
            placed(loaded, "denoiser", training=True),
            computing(torch.bfloat16),
            memory_of("training"),
        ):
            FineTuning(loaded, parameters, data, config).step(1)
        if ends("training"):
            return peaks
        count = plan.sampling_batch
        sampling = SampleConfig(
            n=count,
            drawing=Drawing(SAMPLING_STEPS, resolution_px=side, precision="bf16"),
            batch_size=count,
            device=str(GPU),
        )
        with computing():
            [batch] = stream_batches(loaded, None, ["a cat"], sampling)
            ends("sampling and decoding")
            scores = extractor()
            assert scores.features(batch.images).shape == (count, scores.dimension)
        ends("scoring")
    return peaks


def estimates(plan: MemoryPlan) -> dict[str, int]:
    """What a plan estimates for each of `COUNTED`, in bytes without what a driver takes."""
    return {
        counted: max(plan.peaks[stage] for stage in stages) - CONTEXT_BYTES
        for counted, stages in COUNTED.items()
    }


def check(model: str, gib: int, images: Path) -> dict[str, Any]:
    """One model on one card."""
    began = time.process_time()
    folder = ROOT / "zoo" / model
    plan = plan_memory(traced(folder), gib * GIB, WORK)
    if plan.too_large:
        raise SystemExit(f"{model} does not fit {gib} GiB: {', '.join(plan.too_large)}")
    card = Card(gib * GIB - CONTEXT_BYTES)
    card.take(INSTRUMENT_BYTES)
    counted = run_through(folder, plan, images, card)
    estimated = estimates(plan)
    return {
        "model": model,
        "card_gib": gib,
        "choices": plan.choices(),
        "gib": {
            stage: {"estimated": round(estimated[stage] / GIB, 2), "counted": round(peak / GIB, 2)}
            for stage, peak in counted.items()
        },
        "processor_s": round(time.process_time() - began, 1),
    }


def plans_after(folder: Path, plan: MemoryPlan, images: Path, size: int, **options: Any) -> list[MemoryPlan]:
    """Take one plan after another until one trains, as a run does.

    Args:
        folder: the model's configs.
        plan: the first.
        images: a dataset.
        size: bytes that tensors may take of the card.
        options: of `run_through`.

    Returns:
        The plans; all but the last were too large.
    """
    plans = [plan]
    while True:
        card = Card(size)
        card.take(plan.work.instrument_bytes)
        try:
            run_through(folder, plans[-1], images, card, until="training", **options)
        except OutOfMemory as error:
            stage = error.stage
        else:
            return plans
        smaller = plans[-1].smaller(stage)
        if smaller is None:
            raise SystemExit(f"{folder.name}: no plan trains within {size / GIB} GiB")
        plans.append(smaller)


def next_plans(images: Path) -> dict[str, Any]:
    """What is taken after a plan that proves too large."""
    model, planned, gib = TOO_LARGE
    folder = ROOT / "zoo" / model
    plans = plans_after(
        folder, plan_memory(traced(folder), planned * GIB, WORK), images, gib * GIB - CONTEXT_BYTES
    )
    return {
        "model": model,
        "planned_gib": planned,
        "card_gib": gib,
        "plans": [plan.choices() for plan in plans],
    }


def table(result: dict[str, Any]) -> str:
    """The results in Markdown: estimated and counted GiB of each stage."""
    lines = [
        f"| model | card | {' | '.join(COUNTED)} | what the plan gives up |",
        f"|{'---|' * (len(COUNTED) + 3)}",
    ]
    for row in result["rows"]:
        cells = [f"{stage['estimated']:.1f} / {stage['counted']:.1f}" for stage in row["gib"].values()]
        lines.append(
            f"| {row['model']} | {row['card_gib']} | {' | '.join(cells)} | {given_up(row['choices'])} |"
        )
    if after := result["too_large"]:
        lines += [
            "",
            f"{after['model']} planned for {after['planned_gib']} GiB on a card of {after['card_gib']}: "
            + ", then ".join(map(given_up, after["plans"])),
        ]
    return "\n".join(lines)


def given_up(choices: list[str]) -> str:
    """A plan's choices in a table."""
    return "; ".join(choices) or "nothing"


def main() -> None:
    """Check the models, and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="one of the models; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(asked.out.read_text()) if asked.out.exists() else {"rows": [], "too_large": None}
    rows = {(row["model"], row["card_gib"]): row for row in before["rows"]}
    result = {
        "command": "python -m bench.fake_cards",
        "setting": {"batch": BATCH, "side_px": SIDE, "precision": "bf16", "method": "lora"},
        "rows": [],
        "too_large": before["too_large"],
    }
    # Of each part, as some may be of an earlier call.
    now = provenance(PACKAGES)

    def keep() -> None:
        result["rows"] = [rows[key] for key in CARDS if key in rows]
        asked.out.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        images = write_images(Path(scratch))
        for model, gib in CARDS:
            if not asked.model or model in asked.model:
                rows[model, gib] = check(model, gib, images) | now
                print(rows[model, gib], flush=True)
                keep()
        if not asked.model or TOO_LARGE[0] in asked.model:
            result["too_large"] = next_plans(images) | now
            keep()
    print(table(result))


if __name__ == "__main__":
    main()
