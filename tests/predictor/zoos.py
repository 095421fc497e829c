"""Synthetic zoos that are made as a measured one might be: known causes, for experiments and tests.

A result is `log FID = level(d) + general(m) + by_style(m, style(d)) + by_category(m, category(d)) + own(m, d)
+ noise`, each part normal with a standard deviation of its own, all but the level in the percent by which the
FID moves. Parts by style and by category have few dimensions: models differ in what they were pretrained on.
Datasets show their style and category in a probe's embedding and in their Frechet-like distances, through
noise; of the models, attributes tell a part of what they are good at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Model, Snapshot

STYLES = ("clay", "flat", "ink", "line", "paint", "pixel")
CATEGORIES = ("animals", "food", "objects", "people", "smileys", "symbols", "travel")


@dataclass(frozen=True)
class ZooConfig:
    """A way in which results come about.

    Attributes:
        n_models: models.
        n_datasets: datasets, of different styles or categories as far as those suffice.
        general: standard deviation over models of how good they are anywhere, in log FID.
        by_style: of how good they are on datasets of one style.
        by_category: of how good they are on datasets of one category.
        own: of what a pair has to itself and another training would show again.
        noise: of what another training would not show again.
        dimensions: of what models are good at, for styles and for categories each.
        blur: standard deviation of an embedding's noise; styles and categories differ by about 1 a dimension.
        embedding: length of an embedding; 0 for datasets without one.
        similarities: whether distances between datasets are known.
        measured: share of the pairs that have a result.
    """

    n_models: int = 10
    n_datasets: int = 32
    general: float = 0.08
    by_style: float = 0.10
    by_category: float = 0.05
    own: float = 0.03
    noise: float = 0.03
    dimensions: int = 3
    blur: float = 0.5
    embedding: int = 64
    similarities: bool = True
    measured: float = 1.0


# What may decide which model is best: its style, its category, both alike, models alone, and next to nothing.
PROCESSES = {
    "style": ZooConfig(),
    "category": ZooConfig(by_style=0.05, by_category=0.10),
    "both": ZooConfig(general=0.05, by_style=0.08, by_category=0.08, dimensions=5),
    "general": ZooConfig(general=0.15, by_style=0.03, by_category=0.02),
    "noisy": ZooConfig(general=0.05, by_style=0.05, by_category=0.03, own=0.05, noise=0.06, blur=1.0),
}


def measured_zoo(seed: int, config: ZooConfig | None = None, **changes: Any) -> Snapshot:
    """A zoo with all its results, drawn from `config`.

    Args:
        seed: of everything.
        config: the way it comes about.
        changes: to single fields of it.

    Returns:
        The graph, by clip_fid; `initial` is a third to three times as bad as after fine-tuning.
    """
    config = replace(config or ZooConfig(), **changes)
    rng = np.random.default_rng(seed)
    grid = [(style, category) for style in range(len(STYLES)) for category in range(len(CATEGORIES))]
    chosen = [grid[i % len(grid)] for i in rng.permutation(max(config.n_datasets, len(grid)))]
    style, category = np.array(sorted(chosen[: config.n_datasets])).T
    talents = [rng.normal(size=(config.n_models, config.dimensions)) for _ in range(2)]
    tastes = [rng.normal(size=(len(kinds), config.dimensions)) for kinds in (STYLES, CATEGORIES)]
    of_style, of_category = (
        talent @ taste.T / np.sqrt(config.dimensions) for talent, taste in zip(talents, tastes, strict=True)
    )
    shape = config.n_models, config.n_datasets
    standing = (
        config.general * rng.normal(size=config.n_models)[:, None]
        + config.by_style * of_style[:, style]
        + config.by_category * of_category[:, category]
        + config.own * rng.normal(size=shape)
        + config.noise * rng.normal(size=shape)
    )
    level = np.log(20) + 0.4 * rng.normal(size=config.n_datasets)
    values = np.exp(level + standing)
    initial = values * np.exp(rng.uniform(0.3, 1.1, size=shape))
    models = [f"m{i:03d}" for i in range(config.n_models)]
    datasets = _dataset_ids(style, category)
    embeddings, distances = _shown(rng, style, category, config)
    measured = rng.random(shape) < config.measured
    performs = [
        (model, dataset, values[i, j], initial[i, j])
        for i, model in enumerate(models)
        for j, dataset in enumerate(datasets)
        if measured[i, j]
    ]
    similar = [
        (*sorted((datasets[i], datasets[j])), distances[i, j])
        for i in range(config.n_datasets if config.similarities else 0)
        for j in range(i)
    ]
    hints = talents[0] + 0.5 * rng.normal(size=talents[0].shape)
    attributes = [
        {
            "params": float(np.exp(rng.normal(20, 1))),
            "family": "abc"[int(np.argmax(talents[1][i])) % 3],
            **{f"share_{k}": float(hint) for k, hint in enumerate(hints[i])},
        }
        for i in range(config.n_models)
    ]
    order = np.argsort(datasets)
    return Snapshot(
        metric=KNOWN_METRICS["clip_fid"],
        models=tuple(Model(model, own) for model, own in zip(models, attributes, strict=True)),
        datasets=tuple(
            Dataset(datasets[j], {}, tuple(embeddings[j].tolist()) if config.embedding else None)
            for j in order
        ),
        performs=pd.DataFrame(performs, columns=["model", "dataset", "value", "initial"]).sort_values(
            ["model", "dataset"], ignore_index=True
        ),
        similar=pd.DataFrame(similar, columns=["dataset", "other", "value"]).sort_values(
            ["dataset", "other"], ignore_index=True
        ),
        similarity=KNOWN_METRICS["clip_fid"] if config.similarities else None,
    )


def _dataset_ids(style: np.ndarray, category: np.ndarray) -> list[str]:
    """`<style>-<category>`, with a number from the second of a kind on."""
    ids: list[str] = []
    for s, c in zip(style, category, strict=True):
        name = f"{STYLES[s]}-{CATEGORIES[c]}"
        count = sum(known.startswith(name) for known in ids)
        ids.append(f"{name}-{count + 1}" if count else name)
    return ids


def _shown(
    rng: np.random.Generator, style: np.ndarray, category: np.ndarray, config: ZooConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the datasets, and distances between them that see a little more than the embeddings."""
    length = max(config.embedding, 8)
    centres = [rng.normal(size=(len(kinds), length)) for kinds in (STYLES, CATEGORIES)]
    # What a probe sees first is the style.
    points = centres[0][style] + 0.6 * centres[1][category]
    seen = points + config.blur * rng.normal(size=points.shape)
    again = points + 0.7 * config.blur * rng.normal(size=points.shape)
    squares = ((again[:, None] - again[None]) ** 2).sum(axis=2) / length
    distances = squares * np.exp(0.1 * rng.normal(size=squares.shape))
    return seen, np.tril(distances) + np.tril(distances, -1).T
