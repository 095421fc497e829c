"""What the ledger's runs decide of a new plan: which precision a pair has where the user leaves it to the
device, and what is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matchgraph.ingest.errors import ConfigChanged, NothingToDo
from matchgraph.ingest.runs.config import AUTO, RunConfig
from matchgraph.ingest.runs.entries import DONE, FAILED, QUEUED, RUNNING, Run, RunRequest, finished
from matchgraph.training.config import EXACT

# Statuses of runs that are kept, the furthest first; then those without a run.
KEPT = (DONE, RUNNING, QUEUED, FAILED)
# Of these the ledger says so by other names.
FINGERPRINTS = {
    "model_fingerprint": "the content of the model's folder",
    "dataset_fingerprint": "the content of the dataset's folder",
}


def kept_runs(runs: Sequence[Run], *, retry_failed: bool) -> dict[str, str]:
    """Return the statuses of the runs that another device must not ask in another way, by id.

    Args:
        runs: of the ledger.
        retry_failed: whether failed runs are queued again.
    """
    kept = KEPT if retry_failed else KEPT[:-1]
    return {run.id: run.status for run in runs if run.status in kept}


def chosen(
    asked: RunConfig,
    request: Callable[[RunConfig], RunRequest],
    fitted: Callable[[], RunConfig],
    kept: Mapping[str, str],
) -> RunConfig:
    """Decide what a pair is asked.

    Args:
        asked: what the user asked for.
        request: makes a configuration the pair's request.
        fitted: gives the configuration as the device needs it.
        kept: see `kept_runs`.

    Returns:
        Of `asked`, in fp32 and in bf16 if it leaves the precision open, and `fitted`, that whose run is
        furthest; `fitted` where there is none.
    """

    def place(config: RunConfig) -> int:
        return _place(request(config), kept)

    meanings = [asked, replace(asked, precision="bf16")] if asked.precision == AUTO else [asked]
    known = min(meanings, key=place)
    return known if place(known) < KEPT.index(FAILED) else min((fitted(), known), key=place)


def repeated(
    found: RunConfig, repeats: int, request: Callable[[RunConfig], RunRequest], kept: Mapping[str, str]
) -> list[RunRequest]:
    """Return what a pair is asked under each seed.

    The pretrained model is not trained under a seed, so it is scored under the first one alone: to draw its
    images again takes longer than fine-tuning, and only lowers the error of sampling. A run that scores it
    under a further seed, and is further in the ledger than one that does not, goes on.

    Args:
        found: what the pair is asked under the first seed.
        repeats: how many seeds.
        request: makes a configuration the pair's request.
        kept: see `kept_runs`.
    """
    first, *seeds = range(found.seed, found.seed + repeats)
    requests = [request(replace(found, seed=first))]
    for seed in seeds:
        meanings = [replace(found, seed=seed, initial=False), replace(found, seed=seed)]
        requests.append(min(map(request, meanings), key=lambda one: _place(one, kept)))
    return requests


def _place(request: RunRequest, kept: Mapping[str, str]) -> int:
    """How far a request's run is, 0 for the furthest."""
    status = kept.get(request.id)
    return len(KEPT) if status is None else KEPT.index(status)


def as_measured(asked: RunConfig, model: str, dataset: str, runs: Sequence[Run]) -> RunConfig:
    """Return what a replicate asks: what the pair's newest measurement did, where the user leaves it open.

    In another precision, the two would differ by more than noise.

    Args:
        asked: what the user asked for.
        model: the model's id.
        dataset: the dataset's id.
        runs: of the ledger.
    """
    for run in reversed(finished(runs)):
        if (run.model, run.dataset, run.config.get("method")) == (model, dataset, asked.method):
            precision = run.config["precision"] if asked.precision == AUTO else asked.precision
            quantisation = asked.quantisation or run.config.get("quantisation", EXACT)
            return replace(asked, precision=precision, quantisation=quantisation)
    return asked


def check_unfinished(runs: Sequence[Run], requests: Iterable[RunRequest]) -> None:
    """Refuse a plan that asks an unfinished run's question in another way, as after a changed option.

    Runs that differ in model, dataset or seed, or of which one repeats the other to know its noise, are
    different questions.

    Args:
        runs: those that the ledger has of the same models and datasets.
        requests: those of the plan.

    Raises:
        ConfigChanged: there is such a run; the message names the first setting that differs.
    """
    asked = {
        (request.model, request.dataset, request.config["seed"], request.replicate): request
        for request in requests
    }
    for run in runs:
        request = asked.get((run.model, run.dataset, run.config.get("seed"), run.replicate))
        if run.status not in {QUEUED, RUNNING} or request is None or run.id == request.id:
            continue
        name, before, now = _first_difference(run, request)
        raise ConfigChanged(
            f"Run {run.id} of {run.model!r} on {run.dataset!r} is unfinished, and {name} was {before!r} "
            f"there and is {now!r} here. Use the old settings to continue it, cancel it with `matchgraph "
            f"ingest cancel {run.id}`, or give --also to run both."
        )


def check_replicates(runs: Sequence[Run], requests: Iterable[RunRequest]) -> None:
    """Refuse replicates under the seed of the measurement that they repeat, which would tell no noise.

    Args:
        runs: those that the ledger has of the same models and datasets.
        requests: those of the plan.

    Raises:
        NothingToDo: a run asks so.
    """
    measured = {
        (run.model, run.dataset, run.config.get("seed"))
        for run in runs
        if not run.replicate and run.status == DONE
    }
    for request in requests:
        if request.replicate and (request.model, request.dataset, request.config["seed"]) in measured:
            raise NothingToDo(
                f"{request.model!r} on {request.dataset!r} was measured under seed {request.config['seed']} "
                "already; give a replicate another --seed."
            )


def _first_difference(run: Run, request: RunRequest) -> tuple[str, Any, Any]:
    # By way of JSON, as the ledger has it.
    asked = json.loads(json.dumps(request.config))
    for name in sorted(run.config.keys() | asked.keys()):
        if run.config.get(name) != asked.get(name):
            return name, run.config.get(name), asked.get(name)
    for name, words in FINGERPRINTS.items():
        if run.properties[name] != getattr(request, name):
            return words, run.properties[name], getattr(request, name)
    return "the id", run.id, request.id
