"""Which pairs to measure under more seeds: the models that may be the best on a dataset.

`python -m matchgraph.minizoo.build.contenders RECORDS --model M... --out PAIRS.csv` reads a folder that
`matchgraph graph export` wrote and writes the table that `matchgraph ingest run --repeats 3 --pairs` takes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

WITHIN, METRIC = 0.2, "clip_fid"


def contenders(
    results: Iterable[Mapping[str, str]], *, within: float = WITHIN, metric: str = METRIC
) -> list[tuple[str, str]]:
    """Models whose value after fine-tuning is close to the best on a dataset.

    Args:
        results: rows of `results.csv`.
        within: share of the best value by which another may be larger.
        metric: whose values count; smaller is better.

    Returns:
        (model, dataset), sorted.
    """
    values: dict[str, dict[str, float]] = {}
    for row in results:
        if (row["metric"], row["stage"]) == (metric, "finetuned"):
            values.setdefault(row["dataset"], {})[row["model"]] = float(row["value"])
    return sorted(
        (model, dataset)
        for dataset, own in values.items()
        for model, value in own.items()
        if value <= min(own.values()) * (1 + within)
    )


def write(pairs: Iterable[tuple[str, str]], models: Collection[str], out: Path) -> None:
    """Write the pairs of some models."""
    with out.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("model", "dataset"))
        rows.writerows(pair for pair in pairs if pair[0] in models)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with (arguments.records / "results.csv").open(encoding="utf-8", newline="") as file:
        write(contenders(csv.DictReader(file)), arguments.model, arguments.out)


if __name__ == "__main__":
    main()
