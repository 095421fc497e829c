"""Several seeds of a pair as one result: the mean of their values, with an error that counts their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.models import STANDARD_ERROR, Result
from matchgraph.ingest.runs.ledger import Run


def averaged(results: Sequence[Result], seed: int, others: Sequence[Run], average: str) -> list[Result]:
    """Return one run's results as the means over it and the runs that repeat it under other seeds.

    Args:
        results: of the run.
        seed: the run's.
        others: that are done, with their figures.
        average: id of the run that they repeat, which results then are of.
    """
    found = []
    for result in results:
        name = result.metric if result.stage == "finetuned" else INITIAL + result.metric
        measured = [run for run in others if name in run.properties]
        values = [result.value, *(float(run.properties[name]) for run in measured)]
        errors = [
            result.provenance.get("standard_error"),
            *(run.properties.get(name + STANDARD_ERROR) for run in measured),
        ]
        provenance = {
            **result.provenance,
            "run": average,
            "seeds": sorted([seed, *(run.config["seed"] for run in measured)]),
            "repeats": len(values),
        }
        error = mean_error(values, [float(error) for error in errors if isinstance(error, int | float)])
        if error is not None:
            provenance["standard_error"] = error
        found.append(replace(result, value=statistics.fmean(values), provenance=provenance))
    return found


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
