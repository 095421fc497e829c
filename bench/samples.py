"""Images and seconds that `--samples auto` takes against a fixed number, and the error of either.

Pretrained models of the small zoo draw for its datasets under two seeds. The fixed sample goes on where auto
stopped, so both are of the same images. How far two seeds differ shows whether the standard errors are right.

    python -m bench.samples
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.ingest.runs.config import AUTO_TOLERANCE, Execution, RunConfig
from matchgraph.ingest.runs.sampling import Sampling
from matchgraph.minizoo import ROOT
from matchgraph.training.images import list_captioned_images
from matchgraph.training.measure.drawn import DrawnRows
from matchgraph.training.measure.extractors import ExtractorSpec, load_extractor
from matchgraph.training.measure.scoring import Scorer
from matchgraph.training.pipelines.loading import LoadedPipeline

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "torch", "diffusers", "numpy")
METRICS = ("clip_fid", "siglip_fid", "cmmd")
PROBES = ("clip", "siglip")


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-pixart", "tiny-sana-small", "tiny-sd3"))
@click.option("--dataset", "datasets", multiple=True, default=("noto-food", "openmoji-travel"))
@click.option(
    "--fixed", default=1024, show_default=True, help="Images of a fixed sample, and the most of auto."
)
@click.option("--tolerance", default=AUTO_TOLERANCE, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(models: tuple[str, ...], datasets: tuple[str, ...], fixed: int, tolerance: float, note: str) -> None:
    """Measure, and write bench/results/samples.json."""
    extractors = {
        name: load_extractor(ExtractorSpec(name, name, str(ROOT / "probes" / name)), device="cpu")
        for name in PROBES
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            with LoadedPipeline(ROOT / "models" / model, device="cpu", precision="fp32") as pipeline:
                for dataset in datasets:
                    rows += pairs(model, dataset, pipeline, extractors, Path(folder), fixed, tolerance)
    found = {way: summary([row for row in rows if row["way"] == way]) for way in ("fixed", "auto")}
    for way, facts in found.items():
        click.echo(f"{way}: {facts}")
    content = {
        "command": f"python -m bench.samples --fixed {fixed} --tolerance {tolerance}",
        **provenance(PACKAGES, note),
        "summary": found,
        "rows": rows,
    }
    (RESULTS / "samples.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def pairs(
    model: str,
    dataset: str,
    pipeline: LoadedPipeline,
    extractors: dict[str, Any],
    folder: Path,
    fixed: int,
    tolerance: float,
) -> list[dict[str, Any]]:
    """One model on one dataset by both ways under both seeds: a row for each metric."""
    images = list_captioned_images(ROOT / "datasets" / dataset)
    scorer = Scorer(METRICS, extractors)
    reference = scorer.reference(ROOT / "datasets" / dataset, dataset, images=images)
    rows = []
    for seed in (1, 2):
        config = RunConfig(
            METRICS,
            resolution_px=32,
            sampling_steps=10,
            guidance=2.0,
            seed=seed,
            samples=fixed,
            tolerance=tolerance,
        )
        kept = DrawnRows(folder / f"{model}-{dataset}-{seed}", {})
        # Auto first: the fixed sample takes what it drew and goes on.
        for way, asked in (("auto", config), ("fixed", replace(config, tolerance=None))):
            job: Any = SimpleNamespace(config=asked, images=images)
            sampling = Sampling(job, pipeline, scorer, reference, Execution("cpu"), None, lambda *_: None)
            measured = sampling.measure(kept, None, "sampling", folder / "picture.png")
            for score in measured.scores:
                facts = {"model": model, "dataset": dataset, "seed": seed, "way": way}
                facts |= {"metric": score.metric, "value": score.value, "n": score.n_gen}
                facts |= {"standard_error": score.standard_error, "bias": score.bias}
                rows.append({**facts, "seconds": measured.seconds_per_image * score.n_gen})
            click.echo(f"{model} x {dataset}, seed {seed}, {way}: {measured.scores[0].n_gen} images")
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over all pairs and seeds, and by metric the relative error as stated and as two seeds show it."""
    found: dict[str, Any] = {
        "images": float(np.mean([row["n"] for row in rows])),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
    }
    for metric in METRICS:
        own = [row for row in rows if row["metric"] == metric]
        stated = [(row["standard_error"] / row["value"]) ** 2 for row in own]
        by_pair: dict[tuple[str, str], list[float]] = {}
        for row in own:
            by_pair.setdefault((row["model"], row["dataset"]), []).append(row["value"])
        shown = [(one - two) ** 2 / 2 / ((one + two) / 2) ** 2 for one, two in by_pair.values()]
        found[metric] = {
            "stated": round(float(np.sqrt(np.mean(stated))), 4),
            "between_seeds": round(float(np.sqrt(np.mean(shown))), 4),
        }
    return found


if __name__ == "__main__":
    main()
