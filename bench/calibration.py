"""Whether chances of being best come true, and how often prediction sets hold the best model.

Everything is nested. Each dataset in turn is the target: the default recipe ranks for it, tries itself on
each of the other datasets with the target out of the graph, and learns from that alone how to mend its
chances and how large a set must be; only then is the target's truth looked at. On synthetic zoos of 10
models and 32 datasets, or on a folder of records:

    python -m bench.calibration
    python -m bench.calibration --records minizoo/records --name minizoo
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
import numpy as np

from bench.provenance import provenance
from bench.recipes import read_records
from bench.zoos import measured_zoo
from predictor.calibration import (
    expected_calibration_error,
    fit_calibration,
    prediction_set,
    reliability,
)
from predictor.confidence import other_folds
from predictor.evaluation import evaluate_fold, held_out_datasets
from predictor.metrics import Interval, bootstrap_interval
from predictor.recipes import DEFAULT_RECIPE, build_recipe

if TYPE_CHECKING:
    from graphdb.models import Snapshot
    from predictor.evaluation import Fold

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "numpy", "scipy")
CONFIDENCES = (0.5, 0.8, 0.9)
# By confidence: whether each dataset's set held a best model, and how many models were in it.
Sets: TypeAlias = dict[float, list[tuple[bool, int]]]


def nested(snapshot: Snapshot, recipe: str) -> tuple[list[Fold], list[Fold], Sets]:
    """The folds of a graph as the method says, the same mended, and what became of the sets."""
    matcher = build_recipe(recipe)
    said, mended = [], []
    sets: Sets = {confidence: [] for confidence in CONFIDENCES}
    for target in held_out_datasets(snapshot, matcher.needs_similarities)[0]:
        fold = evaluate_fold(snapshot, target, matcher, baselines=())
        others = other_folds(snapshot, target, matcher)
        chances = fit_calibration(others).apply(np.array(list(fold.p_best.values())))
        said.append(fold)
        mended.append(replace(fold, p_best=dict(zip(fold.p_best, chances.tolist(), strict=True))))
        for confidence, outcomes in sets.items():
            chosen = prediction_set(fold.p_best, others, confidence).models
            outcomes.append((bool(set(chosen) & set(fold.best)), len(chosen)))
    return said, mended, sets


def summary(
    said: list[Fold], mended: list[Fold], sets: dict[float, list[tuple[bool, int]]]
) -> dict[str, Any]:
    """Errors, curves and coverage, ready for JSON."""

    def plain(interval: Interval) -> dict[str, float]:
        return {key: round(value, 4) for key, value in asdict(interval).items()}

    return {
        "folds": len(said),
        **{
            name: {
                "error": plain(expected_calibration_error(folds)),
                "error_of_the_most_likely": plain(expected_calibration_error(folds, only_top=True)),
                "curve": [
                    {key: round(value, 4) for key, value in asdict(each).items()}
                    for each in reliability(folds)
                ],
            }
            for name, folds in (("said", said), ("mended", mended))
        },
        "sets": {
            f"{confidence:g}": {
                "coverage": plain(bootstrap_interval(np.array([held for held, _ in outcomes], dtype=float))),
                "models": plain(bootstrap_interval(np.array([size for _, size in outcomes], dtype=float))),
            }
            for confidence, outcomes in sets.items()
        },
    }


@click.command()
@click.option("--zoos", default=4, show_default=True, help="Synthetic zoos, each with its own seed.")
@click.option("--first-seed", default=200, show_default=True, help="Seed of the first zoo.")
@click.option("--records", type=click.Path(exists=True, path_type=Path), help="A folder of records instead.")
@click.option("--metric", default="clip_fid", show_default=True, help="Of --records.")
@click.option("--similarity", help="Of --records: metric of the similarities.")
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, help="One that needs no database.")
@click.option("--name", default="synthetic", show_default=True, help="What the result is called.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(
    zoos: int,
    first_seed: int,
    records: Path | None,
    metric: str,
    similarity: str | None,
    recipe: str,
    name: str,
    note: str,
) -> None:
    """Print a summary and write bench/results/calibration-NAME.json."""
    began = time.perf_counter()
    seeds = [] if records else list(range(first_seed, first_seed + zoos))
    snapshots = (
        [read_records(records, metric, similarity)] if records else [measured_zoo(seed) for seed in seeds]
    )
    said: list[Fold] = []
    mended: list[Fold] = []
    sets: Sets = {confidence: [] for confidence in CONFIDENCES}
    for number, snapshot in enumerate(snapshots):
        # Models of different zoos share names and nothing else, which the curves do not mind.
        one, two, three = nested(snapshot, recipe)
        said += [replace(fold, dataset=f"{number}/{fold.dataset}") for fold in one]
        mended += [replace(fold, dataset=f"{number}/{fold.dataset}") for fold in two]
        for confidence, outcomes in three.items():
            sets[confidence] += outcomes
        click.echo(f"zoo {number + 1} of {len(snapshots)}: {time.perf_counter() - began:.0f} s", err=True)
    result = {
        "name": name,
        "command": f"python -m bench.calibration --zoos {zoos} --first-seed {first_seed}"
        if records is None
        else f"python -m bench.calibration --records FOLDER --metric {metric} --name {name}",
        "seeds": seeds,
        "recipe": {"name": recipe, **build_recipe(recipe).describe()},
        **provenance(PACKAGES, note),
        **summary(said, mended, sets),
    }
    click.echo(
        json.dumps({key: value for key, value in result.items() if key in ("folds", "sets")}, indent=2)
    )
    for key in ("said", "mended"):
        click.echo(f"{key}: error {result[key]['error']}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"calibration-{name}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
