"""Nearest prompts by Neo4j's vector index against an exact search in NumPy: latency and recall.

Prompts are points about centres, as captions of many subjects are, of the length of a CLIP's embedding; those
asked for are drawn alike and are not in the graph. Each is looked for by both in turn, in the same process.

    python -m bench.nearest --home HOME
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.drawing import Drawing
from matchgraph.graphdb import prompts as prompt_level
from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompts import Prompt, PromptGraph, Score, Variant
from matchgraph.graphdb.repository import MatchingGraph

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "numpy")
METRIC = "clip_score"
# Standard deviation of a point about its centre, in units of the centres' own.
SPREAD = 0.6


def points(count: int, dimension: int, centres: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Points of length 1 about centres; float32, (count, dimension)."""
    near = centres[generator.integers(len(centres), size=count)]
    found = near + SPREAD * generator.normal(size=(count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def measured(
    graph: PromptGraph, known: np.ndarray, asked: np.ndarray, count: int, reach: int
) -> dict[str, Any]:
    """Recall and latencies of searches for `count` neighbours among all, with one reach."""
    prompt_level.REACH = reach
    seconds: dict[str, list[float]] = {"index": [], "exact": []}
    recalls = []
    for query in asked:
        began = time.perf_counter()
        found = {neighbour.text for neighbour in graph.nearest(query, count, METRIC)}
        seconds["index"].append(time.perf_counter() - began)
        began = time.perf_counter()
        similarity = known @ query
        exact = np.argpartition(-similarity, count - 1)[:count]
        seconds["exact"].append(time.perf_counter() - began)
        recalls.append(len(found & {f"prompt {number}" for number in exact}) / count)
    milliseconds = {
        f"{name}_ms": {
            str(quantile): round(1000 * float(np.quantile(values, quantile)), 2) for quantile in (0.5, 0.95)
        }
        for name, values in seconds.items()
    }
    return {"neighbours": count, "reach": reach, "recall": round(float(np.mean(recalls)), 4), **milliseconds}


@click.command()
@click.option("--home", type=click.Path(path_type=Path), required=True, help="Its graph is lost.")
@click.option("--prompts", "total", default=100_000, show_default=True)
@click.option("--dimension", default=512, show_default=True)
@click.option("--queries", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(home: Path, total: int, dimension: int, queries: int, seed: int, note: str) -> None:
    """Measure, and write bench/results/nearest.json."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(1, total // 100), dimension))
    known = points(total, dimension, centres, generator)
    asked = points(queries, dimension, centres, generator)
    with connect(Settings(home=home.resolve())) as runner:
        MatchingGraph(runner).clear()
        MatchingGraph(runner).save_models([Model("m")])
        graph = PromptGraph(runner)
        variants = [Variant(f"m@{steps}", "m", Drawing(steps), float(steps)) for steps in (1, 4, 10, 20, 50)]
        graph.save_variants(variants)
        began = time.perf_counter()
        for start in range(0, total, 10_000):
            block = [
                Prompt(f"prompt {number}", "train", "probe", known[number])
                for number in range(start, min(start + 10_000, total))
            ]
            graph.save_prompts(block)
            graph.save_scores(
                Score(variant.id, prompt.id, METRIC, float(generator.random()), 4, 0.1, "scorer")
                for prompt in block
                for variant in variants
            )
            click.echo(f"{start + len(block):,} prompts: {time.perf_counter() - began:.0f} s", err=True)
        runner.read("CALL db.awaitIndexes(3600)")
        saved = time.perf_counter() - began
        measured(graph, known, asked[:20], 32, prompt_level.REACH)  # warms both
        rows = [measured(graph, known, asked, 32, reach) for reach in (1, 2, 4, 8)]
    result = {
        "command": f"python -m bench.nearest --home HOME --prompts {total} --dimension {dimension} "
        f"--queries {queries} --seed {seed}",
        **provenance(PACKAGES, note),
        "prompts": total,
        "dimension": dimension,
        "saving_s": round(saved, 1),
        "rows": rows,
    }
    for row in rows:
        click.echo(json.dumps(row))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "nearest.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
