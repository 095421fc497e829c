"""Rankings that were computed before, kept in the data folder.

A ranking is kept under the hash of what it depends on: what the method sees of the graph, the method with its
settings, the number of threads, and the code and the libraries that compute it. So what is found is what
would be computed now on this machine, and a change of the graph needs no clearing up.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb import embedding, node2vecplus, queries, weights
from matchgraph.predictor.matching import LIBRARIES, Matcher, Ranked
from matchgraph.predictor.ranks import RankPrediction
from matchgraph.predictor.visibility import graph_hash
from matchgraph.training.files import file_hash, json_hash, write_text

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

FOLDER = "rankings"
# Of ten models and 32 datasets one takes 25 KB. Of more pairs it takes megabytes, and is not kept.
MOST_KEPT = 200
MOST_PAIRS = 50_000


class Remembering:
    """A method that computes each ranking once.

    Args:
        matcher: the method.
        folder: where rankings are kept; made when first needed. Deleting it is safe at any time.
    """

    def __init__(self, matcher: Matcher, folder: Path) -> None:
        self.name, self.notes = matcher.name, matcher.notes
        self.needs_similarities = matcher.needs_similarities
        self._matcher, self._folder = matcher, folder

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        """See `predictor.matching.Matcher.rank`."""
        if len(visible.models) * len(visible.datasets) > MOST_PAIRS:
            return self._matcher.rank(visible, datasets, explain=explain)
        file = self._folder / f"{self._key(visible, datasets, explain)}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(file.read_text(encoding="utf-8"))
            kept = {dataset: _ranked(found[dataset]) for dataset in datasets}
            with suppress(OSError):
                os.utime(file)
            return kept
        ranked = self._matcher.rank(visible, datasets, explain=explain)
        # A folder that cannot be written to costs time, not the answer.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({dataset: _plain(own) for dataset, own in ranked.items()}))
            self._forget_the_oldest()
        return ranked

    def quick(self) -> Remembering:
        """See `predictor.matching.Matcher.quick`."""
        return Remembering(self._matcher.quick(), self._folder)

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return self._matcher.describe()

    def _key(self, visible: Snapshot, datasets: Sequence[str], explain: bool) -> str:
        metrics = [asdict(metric) for metric in (visible.metric, visible.similarity) if metric is not None]
        # Whatever else a value is, its text tells it from others.
        method = json.loads(json.dumps(self._matcher.describe(), default=str))
        # Sums of several threads differ in their last digits.
        threads = os.environ.get("OMP_NUM_THREADS"), os.cpu_count()
        seen = [graph_hash(visible), metrics, list(datasets), explain]
        return json_hash([*seen, self.name, method, threads, CODE])

    def _forget_the_oldest(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda file: -file.stat().st_mtime_ns)
        for file in files[MOST_KEPT:]:
            file.unlink(missing_ok=True)


def _code() -> str:
    """A hash of all code that a ranking depends on, and of the versions of Python and the libraries."""
    own = sorted(Path(__file__).parent.glob("*.py"))
    others = [Path(str(module.__file__)) for module in (embedding, node2vecplus, weights)]
    return json_hash(
        [
            [file_hash(path) for path in (*own, *others)],
            queries.load("read/node2vec"),
            {name: importlib.metadata.version(name) for name in LIBRARIES},
            platform.python_version(),
        ]
    )


# Of what this process has loaded, whatever is installed under it later.
CODE = _code()


def _plain(ranked: Ranked) -> dict[str, Any]:
    """Everything, ready for JSON, whose numbers come back as they were."""
    return {
        "models": ranked.models,
        "prediction": _plain_prediction(ranked.prediction),
        "parts": ranked.parts,
        "contributions": None if ranked.contributions is None else ranked.contributions.tolist(),
        "rehearsed": {name: _plain_prediction(own) for name, own in ranked.rehearsed.items()},
        "details": ranked.details,
    }


def _plain_prediction(prediction: RankPrediction) -> list[list[float]]:
    return [own.tolist() for own in (prediction.expected_rank, prediction.rank_std, prediction.p_best)]


def _ranked(plain: Mapping[str, Any]) -> Ranked:
    contributions, rehearsed = plain["contributions"], plain["rehearsed"]
    return Ranked(
        tuple(plain["models"]),
        _prediction(plain["prediction"]),
        tuple(plain["parts"]),
        None if contributions is None else np.array(contributions),
        {name: _prediction(own) for name, own in rehearsed.items()},
        plain["details"],
    )


def _prediction(plain: Sequence[Sequence[float]]) -> RankPrediction:
    expected, std, best = (np.array(own, dtype=np.float64) for own in plain)
    return RankPrediction(expected, std, best)
