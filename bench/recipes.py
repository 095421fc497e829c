"""Which way of ranking is best, chosen as it must be: never on the dataset it is scored on.

Each dataset in turn is the target. For it, each candidate ranks the models from all other datasets (its outer
prediction), and, with the target out of sight, for each of the others, some at a time (its inner ones). The
*nested choice* takes for each target the candidate whose inner predictions were best and is scored by that
candidate's outer one; its row is what choosing a recipe by experiment is worth. The candidates' own rows are
what each would have got, and may not be compared by their best.

On synthetic zoos of several kinds, on a folder of records, or on a graph:

    python -m bench.recipes
    python -m bench.recipes --records minizoo/records --name minizoo
    python -m bench.recipes --home HOME --metric accuracy --name transfergraph-text

Candidates come cheapest first; when `--minutes` are over, those left are told as such. Pools of candidates
cost nothing. The default recipe is one line of `predictor/recipes.py`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bench.candidates import (
    BaselineMatcher,
    FastRp,
    NearestMatcher,
    Remembering,
    RowsConfig,
    RowsMatcher,
    pooled,
)
from bench.provenance import provenance
from bench.zoos import PROCESSES, measured_zoo
from graphdb.embedding import Node2VecConfig
from graphdb.node2vecplus import Node2VecPlus
from predictor.baselines import BASELINES
from predictor.evaluation import held_out_datasets
from predictor.gaussian import GaussianMatcher
from predictor.matching import Matcher, PaperMatcher, RowConfig
from predictor.metrics import (
    bootstrap_interval,
    optimal_selection,
    outscore_to_optimal,
    paired_p_value,
    weighted_tau,
)
from predictor.ranker import CatBoostConfig, CatBoostRanker, ForestRanker, RankPrediction
from predictor.recipes import WALKS
from predictor.visibility import hide_results, loss_matrix

if TYPE_CHECKING:
    from graphdb.models import Snapshot

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "catboost", "gensim", "numpy", "scikit-learn", "scipy")
FIGURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "osr": optimal_selection,
    "tau_w": weighted_tau,
    "o2o": outscore_to_optimal,
}
REFERENCES = ("average_rank", "paper")
NESTED = "nested choice"
POOLS = (
    ("gaussian", "paper"),
    ("gaussian", "regression"),
    ("gaussian", "nearest 5"),
    ("gaussian", "paper", "regression"),
)


def candidates(seed: int) -> dict[str, Callable[[], Matcher]]:
    """All candidates, cheapest first."""
    walks = Node2VecConfig(**WALKS, seed=seed)
    plus = Remembering(Node2VecPlus(walks))
    # In-out and return factors that make walks stay with their kind, for which node2vec+ looks at weights.
    staying = Remembering(Node2VecPlus(replace(walks, in_out_factor=4.0)))
    fast = Remembering(FastRp(seed=seed))

    def rows(embedder: Any, **config: Any) -> Callable[[], Matcher]:
        return lambda: RowsMatcher(embedder, RowsConfig(seed=seed, **config))

    def paper(embedder: Any, ranker: Any, operator: str = "concat") -> Callable[[], Matcher]:
        return lambda: PaperMatcher(embedder, ranker(), RowConfig(operator=operator))

    catboost = lambda: CatBoostRanker(CatBoostConfig(seed=seed, threads=1))  # noqa: E731
    return {
        **{
            baseline.key: lambda baseline=baseline: BaselineMatcher(baseline, seed)
            for baseline in BASELINES
            if baseline.key in ("average_rank", "average_value", "neighbours")
        },
        "nearest 3": lambda: NearestMatcher(3),
        "nearest 5": lambda: NearestMatcher(5),
        "nearest 10": lambda: NearestMatcher(10, 3.0),
        "gaussian": GaussianMatcher,
        "gaussian, graph": lambda: GaussianMatcher("graph"),
        "gaussian, node": lambda: GaussianMatcher("node"),
        "forest, fastrp": rows(fast),
        "forest, fastrp hidden in turn": rows(fast, hidden_in_turn=True),
        "forest": rows(plus),
        "regression": rows(plus, learner="regression"),
        "yetirank": rows(plus, learner="yetirank"),
        "pairlogit": rows(plus, learner="pairlogit"),
        "paper": paper(plus, catboost),
        "forest, hadamard": rows(plus, operator="hadamard"),
        "forest, l1": rows(plus, operator="l1"),
        "forest, weights by value": rows(plus, weights="value"),
        "forest, inverse weights": rows(plus, weights="inverse"),
        "forest, node2vec+ q=4": rows(staying),
        "paper, forest": paper(plus, lambda: ForestRanker(100, seed)),
        "paper, hadamard": paper(plus, catboost, "hadamard"),
        "regression hidden in turn": rows(plus, learner="regression", hidden_in_turn=True),
        "forest hidden in turn": rows(plus, hidden_in_turn=True),
    }


@dataclass
class Predicted:
    """What one candidate foretold.

    Attributes:
        outer: by target.
        inner: by target and each other dataset.
        seconds: of processor time for one answer, on average.
    """

    outer: dict[str, RankPrediction]
    inner: dict[tuple[str, str], RankPrediction]
    seconds: float


def foretell(
    snapshot: Snapshot, build: Callable[[], Matcher], targets: Sequence[str], groups: int, seed: int
) -> Predicted:
    """All outer and inner predictions of a candidate.

    Args:
        snapshot: the graph.
        build: makes the candidate.
        targets: the datasets that are held out in turn.
        groups: the others are left out in so many groups.
        seed: of the groups.
    """
    matcher, began, answers = build(), time.process_time(), 0
    done = Predicted({}, {}, 0.0)
    others, _ = held_out_datasets(snapshot, needs_similarities=True)
    for target in targets:
        visible = hide_results(snapshot, target)
        done.outer[target] = matcher.rank(visible, [target])[target].prediction
        left = np.random.default_rng(seed).permutation([other for other in others if other != target])
        for group in range(groups):
            own = sorted(left[group::groups].tolist())
            for other, ranked in matcher.rank(visible, own).items():
                done.inner[target, other] = ranked.prediction
        answers += 1 + groups
    done.seconds = (time.process_time() - began) / answers
    return done


def figures(snapshot: Snapshot, dataset: str, prediction: RankPrediction) -> dict[str, float]:
    """OSR, weighted tau and O2O of a prediction."""
    matrix = loss_matrix(snapshot)
    truth = matrix.losses[:, matrix.datasets.index(dataset)]
    there = ~np.isnan(truth)
    return {key: figure(prediction.expected_rank[there], truth[there]) for key, figure in FIGURES.items()}


def with_pools(predicted: Mapping[str, Predicted]) -> dict[str, Predicted]:
    """The candidates and the pools of those that are there."""
    both = dict(predicted)
    for names in POOLS:
        if all(name in predicted for name in names):
            parts = [predicted[name] for name in names]
            both[" + ".join(names)] = Predicted(
                {key: pooled([part.outer[key] for part in parts]) for key in parts[0].outer},
                {key: pooled([part.inner[key] for part in parts]) for key in parts[0].inner},
                sum(part.seconds for part in parts),
            )
    return both


def nested(snapshot: Snapshot, predicted: Mapping[str, Predicted]) -> tuple[list[dict[str, Any]], Counter]:
    """Outer figures of all candidates and of the nested choice, target by target, and what was chosen.

    Without inner predictions nothing is chosen.
    """
    first = next(iter(predicted.values()))
    rows, chosen = [], Counter()
    for target in first.outer:
        others = [other for known, other in first.inner if known == target]
        own = {name: figures(snapshot, target, one.outer[target]) for name, one in predicted.items()}
        if not others:
            rows.append(own)
            continue
        merit = {
            name: np.nanmean(
                [figures(snapshot, other, one.inner[target, other])["tau_w"] for other in others]
            )
            for name, one in predicted.items()
        }
        best = max(merit, key=lambda name: merit[name])
        chosen[best] += 1
        rows.append({**own, NESTED: own[best]})
    return rows, chosen


def summarised(rows: Sequence[Mapping[str, Mapping[str, float]]], seconds: Mapping[str, float]) -> list[dict]:
    """For each candidate its means over all targets with intervals, and its paired p-values."""

    def values(name: str, key: str) -> np.ndarray:
        return np.array([row[name][key] for row in rows])

    table = []
    for name in rows[0]:
        row: dict[str, Any] = {"recipe": name}
        for key in FIGURES:
            interval = bootstrap_interval(values(name, key))
            row[key] = {what: round(value, 4) for what, value in asdict(interval).items()}
        for reference in REFERENCES:
            if reference in rows[0] and reference != name:
                row[f"against {reference}"] = {
                    key: {
                        "difference": round(float(np.nanmean(values(name, key) - values(reference, key))), 4),
                        "p": round(paired_p_value(values(name, key), values(reference, key)), 5),
                    }
                    for key in ("osr", "tau_w")
                }
        if name in seconds:
            row["seconds"] = round(seconds[name], 3)
        table.append(row)
    return sorted(table, key=lambda row: -row["tau_w"]["mean"])


def read_records(folder: Path, metric: str, similarity: str | None) -> Snapshot:
    """The graph that a folder of records would give, without a database.

    Args:
        folder: with models.csv, datasets.csv, results.csv and similarities.csv, see `ingest.records`; several
            values of one pair are averaged.
        metric: of the results.
        similarity: metric of the similarities; None for that of the results if there is one.
    """
    import pandas as pd

    from graphdb.metrics import KNOWN_METRICS
    from graphdb.models import Metric
    from graphdb.models import Snapshot as Graph
    from ingest.datasets import read_dataset_table
    from ingest.models import read_model_table

    models, _ = read_model_table(folder / "models.csv")
    datasets, _ = read_dataset_table(folder / "datasets.csv")
    results = pd.read_csv(folder / "results.csv")
    results = results[results["metric"] == metric]
    if "stage" not in results:
        results = results.assign(stage="finetuned")
    keys = ["model", "dataset"]
    by_stage = results.groupby([*keys, "stage"])["value"].mean().unstack("stage")
    performs = by_stage.reindex(columns=["finetuned", "initial"]).reset_index()
    performs.columns = [*keys, "value", "initial"]
    similar = pd.read_csv(folder / "similarities.csv")
    known = set(similar["metric"])
    measured_by = similarity or (metric if metric in known else min(known))
    similar = similar[similar["metric"] == measured_by]
    ordered = np.sort(similar[["dataset", "other"]].to_numpy(dtype=str), axis=1)
    similar = pd.DataFrame(
        {"dataset": ordered[:, 0], "other": ordered[:, 1], "value": similar["value"].to_numpy()}
    )
    return Graph(
        metric=KNOWN_METRICS.get(metric, Metric(metric)),
        models=tuple(sorted(models, key=lambda model: model.id)),
        datasets=tuple(sorted(datasets, key=lambda dataset: dataset.id)),
        performs=performs.sort_values(keys, ignore_index=True),
        similar=similar.groupby(["dataset", "other"], as_index=False)["value"].mean(),
        similarity=KNOWN_METRICS.get(measured_by, Metric(measured_by)),
    )


def compare(
    zoos: Mapping[str, Snapshot], minutes: float, groups: int, every: int, seed: int, only: Sequence[str]
) -> dict[str, Any]:
    """Compare all candidates on some zoos, until the time is over; all zoos get the same candidates."""
    began = time.monotonic()
    done: dict[str, dict[str, Predicted]] = {zoo: {} for zoo in zoos}
    left_out = []
    made = {zoo: candidates(seed) for zoo in zoos}
    for name in next(iter(made.values())):
        if only and name not in only:
            continue
        if time.monotonic() - began > 60 * minutes:
            left_out.append(name)
            continue
        for zoo, snapshot in zoos.items():
            targets = held_out_datasets(snapshot, needs_similarities=True)[0][::every]
            done[zoo][name] = foretell(snapshot, made[zoo][name], targets, groups, seed)
        click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    rows, chosen, seconds = [], Counter(), {}
    per_zoo = {}
    for zoo, snapshot in zoos.items():
        predicted = with_pools(done[zoo])
        own, picked = nested(snapshot, predicted)
        rows += own
        chosen += picked
        seconds = {name: one.seconds for name, one in predicted.items()}
        per_zoo[zoo] = {
            row["recipe"]: {key: row[key]["mean"] for key in FIGURES} for row in summarised(own, {})
        }
    return {
        "rows": summarised(rows, seconds),
        "chosen": dict(chosen.most_common()),
        "by_zoo": per_zoo,
        "not_reached": left_out,
        "targets": len(rows),
        "seconds": round(time.monotonic() - began),
    }


@click.command()
@click.option(
    "--records", type=click.Path(path_type=Path, exists=True), help="Folder of records to compare on."
)
@click.option("--home", type=click.Path(path_type=Path), help="Data folder of a graph to compare on.")
@click.option("--metric", default="clip_fid", show_default=True, help="Metric of the results.")
@click.option("--similarity", help="Metric of the similarities, where there are several.")
@click.option("--name", default="synthetic", show_default=True, help="Names the file of results.")
@click.option("--zoos", default=1, show_default=True, help="Synthetic zoos of each kind.")
@click.option("--datasets", default=32, show_default=True, help="Of a synthetic zoo.")
@click.option("--first-seed", default=50, show_default=True, help="Of the synthetic zoos.")
@click.option(
    "--groups",
    default=3,
    show_default=True,
    help="In how many the other datasets are left out; 0 to choose nothing.",
)
@click.option("--every", default=1, show_default=True, help="Hold out only every so many-th dataset.")
@click.option("--minutes", default=60.0, show_default=True, help="Begin no candidate after that.")
@click.option("--seed", default=0, show_default=True, help="Of embeddings, trees and groups.")
@click.option("--only", multiple=True, help="Only this candidate. Repeatable.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(
    records: Path | None,
    home: Path | None,
    metric: str,
    similarity: str | None,
    name: str,
    zoos: int,
    datasets: int,
    first_seed: int,
    groups: int,
    every: int,
    minutes: float,
    seed: int,
    only: tuple[str, ...],
    note: str,
) -> None:
    """Print the comparison and write bench/results/recipes-NAME.json; a graph stays as it is."""
    if records is not None:
        graphs = {name: read_records(records, metric, similarity)}
    elif home is not None:
        from graphdb.connection import Settings, connect
        from graphdb.repository import MatchingGraph

        with connect(Settings(home=home.resolve())) as runner:
            graphs = {name: MatchingGraph(runner).snapshot(metric, similarity)}
    else:
        graphs = {
            f"{kind} {number}": measured_zoo(number, config, n_datasets=datasets)
            for kind, config in PROCESSES.items()
            for number in range(first_seed, first_seed + zoos)
        }
    outcome = compare(graphs, minutes, groups, every, seed, only)
    given = {"records": "FOLDER", "home": "HOME"}
    words = [
        f"--{key.replace('_', '-')} {given.get(key, value)}"
        for key, value in click.get_current_context().params.items()
        if value is not None and key not in ("only", "note")
    ]
    result = {
        "command": " ".join(["python -m bench.recipes", *words, *(f'--only "{one}"' for one in only)]),
        **provenance(PACKAGES, note),
        "walks": WALKS,
        **outcome,
    }
    for row in outcome["rows"]:
        tau, against = row["tau_w"], json.dumps(row.get("against paper"))
        interval = f"[{tau['low']:.3f}, {tau['high']:.3f}]"
        click.echo(
            f"{row['recipe']:34} tau_w {tau['mean']:.3f} {interval}  OSR {row['osr']['mean']:.3f}  {against}"
        )
    click.echo(f"Chosen: {outcome['chosen']}; not reached: {outcome['not_reached']}; {outcome['seconds']} s")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"recipes-{name}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
