"""Whether a batched collaboration costs more time than its parts: the student's images, their scores, and the
teacher's of those that are rejected, each drawn by a plain call.

In turns, in one process: the collaboration as a whole, then the same images by separate calls.

    python -m bench.collaboration
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.collaboration.collaborate import Collaboration
from matchgraph.collaboration.plan import Correction, Plan
from matchgraph.drawing import Drawing
from matchgraph.minizoo import ROOT
from matchgraph.training.config import SampleConfig
from matchgraph.training.measure.extractors import load_clip
from matchgraph.training.measure.prompts import load_prompt_encoder
from matchgraph.training.measure.quality import ClipScore
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.rollback import Start
from matchgraph.training.sampling.generate import stream_batches

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "torch", "diffusers")
STUDENT, TEACHER = (Drawing(steps, guidance, resolution_px=32) for steps, guidance in ((2, 1.0), (8, 2.0)))
ROLLBACK = 0.5


@click.command()
@click.option("--prompts", "count", default=64, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--turns", default=7, show_default=True)
@click.option("--rate", default=0.5, show_default=True, help="Share of images that are rejected.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(count: int, batch_size: int, turns: int, rate: float, note: str) -> None:
    """Measure, and write bench/results/collaboration.json."""
    import torch

    torch.set_num_threads(1)
    prompts = (ROOT / "prompts.txt").read_text(encoding="utf-8").splitlines()[-count:]
    student = LoadedPipeline(ROOT / "students" / "tiny-sdxl-lcm", device="cpu")
    teacher = LoadedPipeline(ROOT / "models" / "tiny-sdxl", device="cpu")
    clip = str(ROOT / "probes" / "clip")
    scorer = ClipScore(load_clip(clip), load_prompt_encoder(clip))

    def config(drawing: Drawing, n: int) -> SampleConfig:
        return SampleConfig(n, drawing, 0, batch_size)

    rows = []
    for name, rollback in (("regenerate", None), ("refine", ROLLBACK)):
        plan = Plan(STUDENT, Correction(TEACHER, rollback), 0, batch_size)
        drafts = list(stream_batches(student, None, prompts, config(STUDENT, count)))
        images = [image for batch in drafts for image in batch.images]
        scores = scorer.score(prompts, images)
        threshold = float(np.quantile(scores, rate))
        rejected = np.flatnonzero(scores < threshold).tolist()
        latents = torch.cat([batch.latents for batch in drafts])[rejected]
        start = None if rollback is None else Start(latents, rollback)
        texts = [prompts[row] for row in rejected]
        both = Collaboration(student, teacher, scorer, threshold, plan)
        together, apart = [], []
        for _ in range(turns + 1):
            began = time.perf_counter()
            made = list(both.generate(prompts))
            together.append(time.perf_counter() - began)
            assert sum(outcome.decision != "accepted" for outcome in made) == len(rejected)
            began = time.perf_counter()
            for batch in stream_batches(student, None, prompts, config(STUDENT, count)):
                scorer.score(prompts[: len(batch.images)], batch.images)
            for _ in stream_batches(
                teacher, None, texts, config(TEACHER, len(texts)), numbers=rejected, start=start
            ):
                pass
            apart.append(time.perf_counter() - began)
        # The first turn warms up.
        ratios = np.array(together[1:]) / np.array(apart[1:])
        rows.append(
            {
                "correction": name,
                "rejected": len(rejected),
                "together_s": round(float(np.median(together[1:])), 3),
                "apart_s": round(float(np.median(apart[1:])), 3),
                "ratio": [
                    round(float(value), 3) for value in (np.median(ratios), ratios.min(), ratios.max())
                ],
            }
        )
        click.echo(json.dumps(rows[-1]))
    result = {
        "command": f"python -m bench.collaboration --prompts {count} --batch-size {batch_size} "
        f"--turns {turns} --rate {rate}",
        **provenance(PACKAGES, note),
        "pair": "tiny-sdxl-lcm in 2 steps, tiny-sdxl in 8 at guidance 2",
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "collaboration.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
