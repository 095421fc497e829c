"""Whether what is known of datasets helps to route prompts: PERFORMS edges as a prior of a prompt's quality.

A prompt is alike to datasets as its CLIP embedding is to theirs. The prior of a candidate is how its model
did, before fine-tuning, on the datasets weighed so; it is added to the estimate of the Gaussian process, with
a weight that is chosen on the validation prompts (0 among the choices). With few training prompts it should
help most. Training, validation and test prompts are rotated.

On a graph with datasets, results and scored prompts:

    MATCHGRAPH_HOME=HOME python -m bench.prior --probe minizoo/probes/clip
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.provenance import provenance
from graphdb.connection import connect
from graphdb.prompts import PromptGraph, ScoreTable
from graphdb.repository import MatchingGraph
from routing.curves import routed
from routing.estimators import GaussianQuality
from routing.evaluation import FOLDS, complete, rotated
from training.prompts import load_prompt_encoder

if TYPE_CHECKING:
    from graphdb.models import Snapshot
    from training.prompts import EncodedPrompts

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "numpy", "open_clip_torch")
TRAINED_ON = (20, 50, 100, 200, 400, 0)
WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
SHARPNESS = (2.0, 5.0, 10.0)


def likeness(embeddings: np.ndarray, snapshot: Snapshot, sharpness: float) -> np.ndarray:
    """How much each dataset counts for each prompt; rows add up to 1, (n_prompts, n_datasets)."""
    own = np.array([dataset.embedding for dataset in snapshot.datasets])

    def centred(values: np.ndarray) -> np.ndarray:
        # Texts and images lie apart in a CLIP's space; what tells them from their like is comparable.
        values = values - values.mean(axis=0)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    weights = np.exp(sharpness * centred(embeddings) @ centred(own).T)
    return weights / weights.sum(axis=1, keepdims=True)


def prior(table: ScoreTable, snapshot: Snapshot, weights: np.ndarray) -> np.ndarray:
    """Prior quality of each candidate for each prompt, in standard deviations, (n_prompts, m)."""
    values = snapshot.performs.pivot(index="model", columns="dataset", values="initial")
    values = -np.log(values[[dataset.id for dataset in snapshot.datasets]])
    values = (values - values.mean()) / float(np.nanstd(values.to_numpy()))
    of_variant = values.loc[[variant.model for variant in table.variants]].to_numpy()
    return weights @ of_variant.T


def areas(
    table: ScoreTable, encoded: EncodedPrompts, snapshot: Snapshot, count: int, turn: int
) -> dict[str, Any]:
    """The area on the test prompts with and without the prior, from so many training prompts (0: all).

    Other prompts are the test prompts in each turn.
    """
    turned = rotated(table, turn, FOLDS)
    train = turned.rows("train")
    if count:
        train = np.random.default_rng(turn).choice(train, count, replace=False)
    kept = np.sort(np.concatenate([train, turned.rows("validation"), turned.rows("test")]))
    own = replace(
        turned,
        prompts=tuple(turned.prompts[row] for row in kept),
        mean=turned.mean[kept],
        std=turned.std[kept],
        samples=turned.samples[kept],
    )
    read = encoded.part(kept)
    estimates = GaussianQuality.fit(own).estimate(read).quality
    scale = float(np.std(own.mean[own.rows("train")] - own.mean[own.rows("train")].mean(axis=0)))
    low, high = float(own.cost.min()), float(own.cost.max())

    def area(rows: np.ndarray, weight: float, sharpness: float) -> float:
        added = weight * scale * prior(own, snapshot, likeness(read.embeddings, snapshot, sharpness))
        return routed((estimates + added)[rows], own.mean[rows], own.cost).area(low, high)

    choices = [(weight, sharpness) for weight in WEIGHTS for sharpness in SHARPNESS]
    validation, test = own.rows("validation"), own.rows("test")
    chosen = max(choices, key=lambda choice: area(validation, *choice))
    return {"without": area(test, 0.0, 1.0), "with": area(test, *chosen), "chosen": chosen}


@click.command()
@click.option("--probe", required=True)
@click.option("--metric", default="clip_score", show_default=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(probe: str, metric: str, note: str) -> None:
    """Measure, and write bench/results/prior.json."""
    with connect() as runner:
        table = complete(PromptGraph(runner).table(metric))
        snapshot = MatchingGraph(runner).snapshot("clip_fid")
    encoded = load_prompt_encoder(probe).encode([prompt.text for prompt in table.prompts])
    rows = []
    for count in TRAINED_ON:
        draws = [areas(table, encoded, snapshot, count, turn) for turn in range(FOLDS)]
        gains = np.array([draw["with"] - draw["without"] for draw in draws])
        rows.append(
            {
                "training_prompts": count or "all others",
                "without": round(float(np.mean([draw["without"] for draw in draws])), 5),
                "gain": round(float(gains.mean()), 5),
                "gain_standard_error": round(float(gains.std(ddof=1) / np.sqrt(FOLDS)), 5),
                "gain_by_turn": [round(float(gain), 5) for gain in gains],
                "chosen": [draw["chosen"] for draw in draws],
            }
        )
        click.echo(json.dumps(rows[-1]))
    result = {
        "command": f"python -m bench.prior --probe {probe} --metric {metric}",
        **provenance(PACKAGES, note),
        "prompts": len(table.prompts),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "prior.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
