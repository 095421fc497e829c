"""Several seeds of a pair as one result: the mean of their values, with an error that counts their spread.

A mean is over the runs, done, that were asked for with `--repeats` and differ in nothing but the seed, and in
whether the pretrained model is scored; see `RunRequest.average`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.errors import GraphChanged
from matchgraph.graphdb.models import Result, Stage
from matchgraph.ingest.runs.entries import DONE, QUEUED, RUNNING, Run
from matchgraph.ingest.runs.ledger import Ledger

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

# What a run's fine-tuned results cost.
COST = ("training_seconds", "seconds_per_image")
# Values that differ in one of these cannot be compared.
INSTRUMENT = ("extractor", "resize", "version")
STAGES: tuple[tuple[Stage, str], ...] = (("finetuned", ""), ("initial", INITIAL))


def results_of_run(run: Run) -> list[Result]:
    """Return what a run that is done measured, as far as its node in the ledger says it."""
    found = []
    for stage, prefix in STAGES:
        for name in (prefix + metric for metric in run.config["metrics"]):
            if name not in run.properties:
                continue
            start = f"{name}__"
            own = {key.removeprefix(start): v for key, v in run.properties.items() if key.startswith(start)}
            if stage == "finetuned":
                own |= {key: run.properties[key] for key in COST if key in run.properties}
            own |= {"run": run.id, "seeds": [run.config["seed"]]}
            metric = name.removeprefix(prefix)
            found.append(Result(run.model, run.dataset, metric, run.properties[name], stage, own))
    return found


def averaged(runs: Sequence[Sequence[Result]]) -> list[Result]:
    """Return the means over runs of one question under several seeds.

    Args:
        runs: results of each, the last one's counting most: by metric and stage, the last is averaged with
            what the same instrument measured. Of two under one seed, which differ in whether the pretrained
            model was scored too, the later counts.
    """
    by_seed: dict[tuple[str, str], dict[str, Result]] = {}
    for result in (result for results in runs for result in results):
        own = by_seed.setdefault((result.metric, result.stage), {})
        seed = str(result.provenance["seeds"])
        # Taken out first, so that the last one stands last.
        own.pop(seed, None)
        own[seed] = result
    found = [list(own.values()) for own in by_seed.values()]
    return [_mean([one for one in same if _comparable(one, same[-1])]) for same in found]


def write_means(graph: MatchingGraph, ledger: Ledger, runs: Sequence[Run]) -> None:
    """Write the means of runs that were done before they were asked for as repeats.

    Where a run is not done yet, the worker that completes it writes its mean.

    Args:
        graph: the graph.
        ledger: its ledger.
        runs: of a plan, as they stand.
    """
    waiting = {run.average for run in runs if run.status in {QUEUED, RUNNING}}
    for first in {
        run.average: run for run in runs if run.average is not None and run.status == DONE
    }.values():
        if first.average in waiting:
            continue
        while True:
            done = [*ledger.averaged_with(first.id)[1], first]
            done.sort(key=lambda run: run.properties.get("ended_at") or 0)
            try:
                ledger.write_mean(graph, averaged([results_of_run(run) for run in done]), done)
                break
            except GraphChanged:
                continue


def mean_error(values: Sequence[float], errors: Sequence[float]) -> float | None:
    """Return the standard error of the mean of values under several seeds.

    Their spread holds the noise of sampling as well. Of few seeds it may be small by chance, so the error is
    never below what sampling alone leaves.

    Args:
        values: one for each seed.
        errors: the standard errors that sampling leaves, where they are known.

    Returns:
        None where nothing is known.
    """
    # Errors that are not known are taken to be as large as the others.
    mean_square = statistics.fmean(error**2 for error in errors) if errors else None
    sampling = None if mean_square is None else math.sqrt(mean_square / len(values))
    if len(values) == 1:
        return sampling
    between = statistics.stdev(values) / math.sqrt(len(values))
    return between if sampling is None else max(between, sampling)


def _comparable(one: Result, other: Result) -> bool:
    # Runs of earlier versions say nothing of it.
    known = [name for name in INSTRUMENT if name in one.provenance and name in other.provenance]
    return all(one.provenance[name] == other.provenance[name] for name in known)


def _mean(same: Sequence[Result]) -> Result:
    """Return one result with the mean value, and of the provenance the means, and what all agree on."""
    by_seed = sorted(same, key=lambda result: result.provenance["seeds"])
    known: dict[str, list[Any]] = {}
    for result in by_seed:
        for name, value in result.provenance.items():
            known.setdefault(name, []).append(value)
    provenance = {name: own[0] for name, own in known.items() if all(value == own[0] for value in own)}
    provenance |= {name: statistics.fmean(known[name]) for name in ("bias", *COST) if name in known}
    values = [result.value for result in by_seed]
    provenance |= {
        "run": by_seed[0].provenance["run"],
        "seeds": sorted(seed for seeds in known["seeds"] for seed in seeds),
        "standard_error": mean_error(values, known.get("standard_error", ())),
    }
    return replace(by_seed[0], value=statistics.fmean(values), provenance=provenance)
