"""The default recipe, the paper's and the baselines on every matrix of results in some folders of records.

    python -m bench.selection RECORDS... --out docs/selection.md

Each metric of a folder is a matrix of its own. Each dataset is held out in turn, as in `matchgraph evaluate`,
with node2vec+ in place of Graph Data Science, so that no database is needed. What is computed stays in
`results/selection.json` by graph and recipe, and is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.ingest.tables.matrices import snapshots
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.calibration import conformal_coverage, expected_calibration_error
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.folds import METHOD
from matchgraph.predictor.recipes import RECIPES, build_recipe
from matchgraph.predictor.visibility import graph_hash
from matchgraph.stats.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.folds import Fold

RESULTS = Path(__file__).parent / "results" / "selection.json"
PACKAGES = ("matchgraph", "catboost", "gensim", "numpy", "scipy")
SIMPLE = ("average_rank", "average_value")
COMPARED = (*SIMPLE, "neighbours")
TITLES = {
    "stack": "default",
    "gaussian": "process",
    "paper": "paper's recipe",
    **{baseline.key: baseline.title for baseline in BASELINES},
}
CONFIDENCES = (0.8, 0.9)
CALIBRATION = ("ECE", *(f"sets of {one:.0%}" for one in CONFIDENCES))
FIGURES = {"tau_w": "weighted tau", "osr": "best model named (OSR)"}


def judged(snapshot: Snapshot, recipe: str, seed: int) -> dict[str, Any]:
    """Figures of a recipe, and of the baselines, for each held-out dataset."""
    baselines = tuple(one for one in BASELINES if one.key in COMPARED)
    matcher = build_recipe(recipe, embedder="node2vec+", seed=seed)
    found = evaluate(snapshot, matcher, baselines=baselines, seed=seed)
    figures: dict[str, Any] = {
        name: {
            key: [fold.scores[METHOD if name == recipe else name].figures[key] for fold in found.folds]
            for key in FIGURES
        }
        for name in (recipe, *COMPARED)
        if all((METHOD if name == recipe else name) in fold.scores for fold in found.folds)
    }
    figures[recipe] |= calibration(found.folds)
    return figures


def calibration(folds: Sequence[Fold]) -> dict[str, list[float]]:
    """Calibration error and coverage of sets, each a value with its interval."""
    found = {f"sets of {one:.0%}": conformal_coverage(folds, one).coverage for one in CONFIDENCES}
    found = {"ECE": expected_calibration_error(folds), **found}
    return {name: [own.value, own.low, own.high] for name, own in found.items()}


def page(matrices: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """The tables in Markdown.

    Args:
        matrices: by name, shape and figures by method and dataset.
        command: what made it.
    """
    lines = [
        "# Selection on records",
        "",
        f"`{command}` makes this page.",
        "",
        "Each dataset is held out in turn; means over datasets with 95 % bootstrap intervals. `default` is",
        "compared, dataset by dataset, with the better of average rank and average value by hindsight.",
        "Weighted tau weighs pairs by the true ranks. The graph is embedded by node2vec+. A cell is",
        "empty where a method was not run, or ranks nothing on some dataset. The two folders of",
        "TransferGraph's results are made from its tables by `python -m bench.transfergraph`.",
    ]
    for key, title in FIGURES.items():
        methods = [name for name in TITLES if any(name in own["figures"] for own in matrices.values())]
        lines += ["", f"## {title[0].upper()}{title[1:]}", ""]
        lines.append(
            "| records | "
            + " | ".join(TITLES[name] for name in methods)
            + " | default minus the better average |"
        )
        lines.append("|---" * (len(methods) + 2) + "|")
        for name, own in matrices.items():
            figures = own["figures"]
            cells = [
                _cell(mean_interval(np.array(figures[method][key]))) if method in figures else ""
                for method in methods
            ]
            best = max(SIMPLE, key=lambda simple: np.nanmean(figures[simple][key]))
            lead = mean_interval(np.array(figures["stack"][key]) - np.array(figures[best][key]))
            shape = f"{own['models']} x {own['datasets']}"
            lines.append(f"| {name}, {shape} | " + " | ".join(cells) + f" | {_cell(lead, sign='+')} |")
    lines += ["", "## Calibration of the default", ""]
    lines += [
        "Of sets, each calibrated on the other datasets, the share that contains the best model. That this",
        "is at least the stated share follows from counting: the same datasets are judged.",
        "[Whole kinds held out](prediction.md#whole-kinds-held-out) are a test.",
        "",
    ]
    lines += ["| records | " + " | ".join(CALIBRATION) + " |", "|---" * (len(CALIBRATION) + 1) + "|"]
    for name, own in matrices.items():
        stack = own["figures"]["stack"]
        if all(key in stack for key in CALIBRATION):
            cells = [_cell(Interval(*stack[key], own["datasets"])) for key in CALIBRATION]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def name_of(folder: Path) -> str:
    """The name of a folder of records, or of what it belongs to if it is just called that."""
    return folder.resolve().parent.name if folder.name == "records" else folder.name


def _cell(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--recipes",
    default=",".join(RECIPES),
    show_default=True,
    help="Recipes to run, with commas; of others, what is known is shown.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the page there.")
@click.option("--note", default="", help="What else the machine was busy with.")
def main(records: tuple[Path, ...], recipes: str, seed: int, out: Path | None, note: str) -> None:
    """See the module."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"kept": {}}
    kept, matrices = known["kept"], {}
    for folder in records:
        for metric, snapshot in snapshots(folder).items():
            figures: dict[str, Any] = {}
            for recipe in RECIPES:
                key = f"{graph_hash(snapshot)}-{recipe}-{seed}"
                if key not in kept and recipe in recipes.split(","):
                    kept[key] = judged(snapshot, recipe, seed)
                    RESULTS.write_text(json.dumps({"kept": kept, **provenance(PACKAGES, note)}))
                figures |= kept.get(key, {})
                click.echo(f"{folder.name}, {metric}: {recipe}", err=True)
            count = len(next(iter(figures.values()))["tau_w"])
            name = f"{name_of(folder)} ({metric})"
            matrices[name] = {"models": len(snapshot.models), "datasets": count, "figures": figures}
    names = " ".join(map(name_of, records))
    text = page(matrices, f"python -m bench.selection {names}")
    click.echo(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
