"""How good the prediction is on a folder of records, held out one dataset at a time and in whole kinds.

    python -m bench.held_out RECORDS --metric clip_fid --metric siglip_fid

Prints tables of docs/evidence/prediction.md: as `matchgraph evaluate`, with node2vec+ in place of Graph
Data Science, so that no database is needed, and with what that leaves out: the calibration error of P(best),
and how often prediction sets contain the best model, each calibrated on the other groups. What is computed
stays in `results/held_out.json` by graph, code and question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.provenance import provenance
from matchgraph.ingest.tables.matrices import snapshots
from matchgraph.predictor.calibration import conformal_coverage, expected_calibration_error
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.folds import FOUND, METHOD, REGRET
from matchgraph.predictor.groups import GROUP_KINDS, groups_of
from matchgraph.predictor.metrics import interval_as_dict
from matchgraph.predictor.new_models import evaluate_new_models
from matchgraph.predictor.recipes import RECIPES, build_recipe
from matchgraph.predictor.remembered import CODE
from matchgraph.predictor.visibility import graph_hash
from matchgraph.stats.intervals import mean_interval

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.config import FeatureSet

RESULTS = Path(__file__).parent / "results" / "held_out.json"
PACKAGES = ("matchgraph", "catboost", "gensim", "numpy", "scipy")
MEASURED = 3
SETS = (0.8, 0.9)
ONE = "one"
KIND_RECIPES = ("stack", "gaussian")
KINDS = (ONE, *GROUP_KINDS)
# The paper's Table 4: what the methods see.
PARTS: Mapping[FeatureSet, str] = {
    "all": "graph and features",
    "node": "features only",
    "graph": "graph only",
}
REGRET_SHARE = "regret_share"

Figures = Mapping[str, Any]


def held_out(snapshot: Snapshot, recipe: str, kind: str, features: FeatureSet = "all") -> dict[str, Any]:
    """Figures of a recipe and of the baselines, with datasets held out one at a time or by kind."""
    group = None if kind == ONE else kind
    matcher = build_recipe(recipe, embedder="node2vec+", features=features)
    found = evaluate(snapshot, matcher, hold_out=group, measure=MEASURED)
    groups = groups_of(snapshot, kind) if group else None
    shares = [one.scores[METHOD].figures[REGRET] / abs(min(one.losses.values())) for one in found.folds]
    first = {
        one.key: {FOUND: interval_as_dict(one.osr), REGRET: interval_as_dict(one.regret)}
        for one in found.shortlists
    }
    sets = {f"{own:.0%}": conformal_coverage(found.folds, own, groups).coverage for own in SETS}
    return {
        "methods": {
            summary.key: {
                "title": summary.title,
                **{key: interval_as_dict(own) for key, own in summary.figures.items()},
                "p": dict(summary.p_value),
                **first.get(summary.key, {}),
            }
            for summary in found.summaries
        },
        REGRET_SHARE: interval_as_dict(mean_interval(np.array(shares))),
        "ece": interval_as_dict(expected_calibration_error(found.folds)),
        "sets": {name: interval_as_dict(own) for name, own in sets.items()},
    }


def new_models(snapshot: Snapshot, recipe: str) -> dict[str, Any]:
    """Figures of models that were never measured."""
    found = evaluate_new_models(snapshot, build_recipe(recipe, embedder="node2vec+")).to_dict()
    return {key: value for key, value in found.items() if key not in ("provenance", "seconds")}


def _number(figure: Figures, digits: int = 2) -> str:
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _share(figure: Figures, digits: int = 0) -> str:
    mean, low, high = (100 * figure[name] for name in ("mean", "low", "high"))
    return f"{mean:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def methods_table(found: Mapping[str, Figures]) -> list[str]:
    """The paper's Table 3: recipes by name, then the baselines."""
    first = next(iter(found.values()))["methods"]
    rows = [(f"`--recipe {name}`", own["methods"][METHOD]) for name, own in found.items()]
    rows += [(own["title"], own) for key, own in first.items() if key != METHOD]
    lines = [_row("method", "OSR", "τ_w", "SciPy's τ", "p by OSR, τ_w", "best among 3", "then behind by")]
    lines.append(_row(*["---"] * 7))
    for name, own in rows:
        p = ", ".join(f"{own['p'][key]:.3f}" for key in ("osr", "tau_w") if key in own["p"])
        three = (_share(own[FOUND]), _number(own[REGRET])) if FOUND in own else ("", "")
        lines.append(
            _row(
                name, _share(own["osr"]), _number(own["tau_w"]), f"{own['tau_scipy']['mean']:.2f}", p, *three
            )
        )
    return lines


def kinds_table(metric: str, found: Mapping[tuple[str, str], Figures]) -> list[str]:
    """Recipes with whole kinds held out, by kind and recipe."""
    head = ("metric, held out", "recipe", "OSR", "τ_w", "average rank, τ_w", "best among the first 3")
    lines = [_row(*head, "then behind by", "in %", "ECE", "sets of 80 %, 90 %"), _row(*["---"] * 10)]
    for (kind, recipe), own in found.items():
        method = own["methods"][METHOD]
        lines.append(
            _row(
                f"{metric}, {kind}",
                f"`{recipe}`",
                _share(method["osr"]),
                _number(method["tau_w"]),
                f"{own['methods']['average_rank']['tau_w']['mean']:.2f}",
                _share(method[FOUND]),
                _number(method[REGRET]),
                _share(own[REGRET_SHARE], 1),
                f"{own['ece']['mean']:.3f}",
                ", ".join(_share(one) for one in own["sets"].values()),
            )
        )
    return lines


class Kept:
    """What was computed of a matrix of results, each question once.

    Args:
        snapshot: the matrix.
        note: what else the machine is busy with.
    """

    def __init__(self, snapshot: Snapshot, note: str) -> None:
        self._snapshot, self._note = snapshot, note

    def ask(self, compute: Callable[..., dict[str, Any]], *question: str) -> Figures:
        """What a function says of the matrix and some words, by the present code."""
        words = [self._snapshot.metric.name, compute.__name__, *question]
        key = " ".join([graph_hash(self._snapshot), CODE, *words])
        if key not in self._known():
            found = compute(self._snapshot, *question) | provenance(PACKAGES, self._note)
            # Read again, as another process may have written meanwhile.
            RESULTS.write_text(json.dumps({**self._known(), key: found}, indent=1) + "\n")
            click.echo(" ".join(words), err=True)
        return self._known()[key]

    @staticmethod
    def _known() -> dict[str, Figures]:
        return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def page(metric: str, kept: Kept) -> list[str]:
    """All tables of a metric."""
    alone = {recipe: kept.ask(held_out, recipe, ONE) for recipe in RECIPES}
    kinds = {(kind, recipe): kept.ask(held_out, recipe, kind) for kind in KINDS for recipe in KIND_RECIPES}
    lines = [f"## {metric}", "", *methods_table(alone), "", *kinds_table(metric, kinds), ""]
    lines += [_row("what it sees", "recipe", "OSR", "τ_w"), _row(*["---"] * 4)]
    for features, title in PARTS.items():
        for recipe in ("gaussian", "paper"):
            method = (kept.ask(held_out, recipe, ONE, features) if features != "all" else alone[recipe])[
                "methods"
            ][METHOD]
            lines.append(_row(title, f"`{recipe}`", _share(method["osr"]), _number(method["tau_w"])))
    lines += ["", _row("metric", "recipe", "on the right side of", "in the middle", "properties add")]
    lines.append(_row(*["---"] * 5))
    for recipe in RECIPES:
        new = kept.ask(new_models, recipe)
        shares = [_share(new[name]) for name in ("ordered", "in_the_middle")]
        lines.append(_row(metric, f"`{recipe}`", *shares, _share(new["gain"], 1)))
    return lines


@click.command()
@click.argument("records", type=click.Path(exists=True, path_type=Path))
@click.option("--metric", "metrics", multiple=True, default=("clip_fid",), show_default=True)
@click.option("--note", default="", help="What else the machine was busy with.")
def main(records: Path, metrics: tuple[str, ...], note: str) -> None:
    """See the module."""
    matrices = snapshots(records)
    for metric in metrics:
        click.echo("\n".join([*page(metric, Kept(matrices[metric], note)), ""]))


if __name__ == "__main__":
    main()
