"""Frechet distances between all pairs of datasets: ours, each covariance factored once, beside clean-fid's.

Both take the same means and covariances, in turns within one run. Wall time is what a user waits; the time of
the processor is given too, since it says the same on a busy machine.

    python -m bench.pairs
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np

from matchgraph.training.measure.frechet import (
    GaussianStatistics,
    Root,
    distances_between,
    gaussian_statistics,
)

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "clean-fid", "numpy", "scipy")
# How fast eigenvalues fall, as those of image features do.
DECAY = 0.75


def datasets(count: int, dimension: int, images: int, seed: int) -> list[GaussianStatistics]:
    """Statistics of features of `count` datasets that have most of their structure in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(dimension, dimension))
    spectrum = np.arange(1, dimension + 1)[:, None] ** -DECAY
    return [
        gaussian_statistics(
            rng.normal(size=(images, dimension))
            @ ((common + 0.3 * rng.normal(size=(dimension, dimension))) * spectrum)
            + 0.1 * rng.normal(size=dimension)
        )
        for _ in range(count)
    ]


def at_once(known: list[GaussianStatistics], pairs: list[tuple[int, int]]) -> np.ndarray:
    """Distances of some pairs, each Gaussian factored once."""
    roots = [Root(each) for each in known]
    return distances_between([(roots[one], roots[two]) for one, two in pairs])


def by_clean_fid(known: list[GaussianStatistics], pairs: list[tuple[int, int]]) -> np.ndarray:
    """The distances of some pairs by clean-fid's function, one pair after another."""
    from cleanfid.fid import frechet_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.array(
            [
                frechet_distance(
                    known[one].mean, known[one].covariance, known[two].mean, known[two].covariance
                )
                for one, two in pairs
            ]
        )


def timed(call: Callable[..., np.ndarray], *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a call gives, and the seconds of wall and of processor that it took."""
    began = time.perf_counter(), time.process_time()
    answer = call(*arguments)
    return answer, np.array([time.perf_counter() - began[0], time.process_time() - began[1]])


def compared(ours_s: list[float], theirs_s: list[float]) -> dict[str, Any]:
    """Seconds of both for all pairs, and their ratio."""
    ours, theirs = statistics.median(ours_s), statistics.median(theirs_s)
    return {
        "ours_s": round(ours, 2),
        "clean_fid_s": round(theirs, 2),
        "times_less": round(theirs / ours, 1),
        "times_less_by_round": [round(b / a, 1) for a, b in zip(ours_s, theirs_s, strict=True)],
    }


@click.command()
@click.option("--datasets", "count", default=32, show_default=True, help="How many datasets.")
@click.option("--dimension", default=512, show_default=True, help="Of the features, as CLIP's.")
@click.option("--images", default=5000, show_default=True, help="Images of each dataset.")
@click.option("--rounds", default=4, show_default=True, help="Turns that the two take.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, dimension: int, images: int, rounds: int, seed: int) -> None:
    """Time both and write bench/results/pairs.json."""
    known = datasets(count, dimension, images, seed)
    pairs = list(combinations(range(count), 2))
    # Libraries are loaded and warm before anything is timed.
    at_once(known, pairs[:1])
    by_clean_fid(known, pairs[:1])
    ours_s, theirs_s, theirs = [], [], []
    for turn in range(rounds):
        ours, seconds = timed(at_once, known, pairs)
        ours_s.append(seconds)
        distances, seconds = timed(by_clean_fid, known, pairs[turn::rounds])
        theirs_s.append(seconds / len(distances) * len(pairs))
        theirs.append(distances)
    expected = np.empty(len(pairs))
    for turn, distances in enumerate(theirs):
        expected[turn::rounds] = distances
    result = {
        "command": " ".join(["python -m bench.pairs", *sys.argv[1:]]),
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
            "load": round(os.getloadavg()[0], 1),
        },
        "versions": {name: version(name) for name in PACKAGES},
        "datasets": count,
        "dimension": dimension,
        "images": images,
        "pairs": len(pairs),
        "seed": seed,
        "wall": compared([s[0] for s in ours_s], [s[0] for s in theirs_s]),
        "processor": compared([s[1] for s in ours_s], [s[1] for s in theirs_s]),
        "largest_relative_difference": float(np.max(np.abs(ours - expected) / expected)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pairs.json").write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
