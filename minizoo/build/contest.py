"""Which models to fine-tune to see whether a prediction was right: the one chosen, and the best on average.

`python -m matchgraph.minizoo.build.contest PREDICTION.json AVERAGE.json` reads what `matchgraph predict
--json` and `matchgraph query average-rank --json` printed, and prints for each of the two the options of
`matchgraph ingest run` that its records were measured with."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matchgraph.minizoo import ROOT

RUNS = ROOT / "records" / "runs.csv"


def contestants(prediction: Mapping[str, Any], average: Sequence[Mapping[str, Any]]) -> list[str]:
    """The predicted model, and the one with the best average rank if it is another.

    Args:
        prediction: of `matchgraph predict --json`.
        average: rows of `matchgraph query average-rank --json`.
    """
    return list(dict.fromkeys([prediction["ranking"][0]["model"], average[0]["model"]]))


def recorded_guidance(model: str, runs: Path = RUNS) -> float:
    """The guidance scale at which a model was measured.

    Args:
        model: its id.
        runs: the records' table of runs.

    Raises:
        LookupError: no run of it was recorded.
    """
    with runs.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["model"] == model:
                return json.loads(row["config"])["guidance"]
    raise LookupError(f"{runs} has no run of {model}")


def main() -> None:
    """Print one line of options for each contestant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prediction", type=Path)
    parser.add_argument("average", type=Path)
    arguments = parser.parse_args()
    prediction = json.loads(arguments.prediction.read_text(encoding="utf-8"))
    average = json.loads(arguments.average.read_text(encoding="utf-8"))
    for model in contestants(prediction, average):
        print(f"--model {model} --guidance {recorded_guidance(model):g}")


if __name__ == "__main__":
    main()
