"""The leave-one-out evaluations that the studies are made of.

Each fold is computed once for its graph, variant and library versions, and kept on disk by joblib, so that a
interrupted report resumes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from matchgraph.graphdb.errors import EmbeddingFailed
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.errors import PredictorError, ProcessEnded
from matchgraph.predictor.folds import Fold, evaluate_fold, held_out_datasets
from matchgraph.predictor.recipes import PAPER, build_recipe
from matchgraph.predictor.visibility import graph_hash

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.embedding import GdsNode2Vec
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.node2vecplus import Node2VecPlus
    from matchgraph.graphdb.runner import Runner
    from matchgraph.predictor.matching import Matcher

T = TypeVar("T")

MAIN_VIEW = "results"
# Few, so that processes end together and little is lost when one is stopped.
FOLDS_PER_BATCH = 4
LIBRARIES = (
    "catboost",
    "gensim",
    "graphdatascience",
    "matchgraph",
    "neo4j",
    "numpy",
    "scikit-learn",
    "scipy",
)


@dataclass(frozen=True)
class MethodVariant:
    """One way of predicting, evaluated on one view of the graph under one seed.

    Attributes:
        view: key of the view, see `report.sources`.
        recipe: its name, see `predictor.recipes.RECIPES`.
        features: what its rows are made of, see `predictor.paper.PaperMatcher`.
        ranker: a ranker of Table 7 in place of the recipe's own; "" for that.
        embedder: see `predictor.recipes.Ingredients`.
        removed: share of the visible results that is taken away.
        seed: of everything random.
    """

    view: str = MAIN_VIEW
    recipe: str = PAPER
    features: str = "all"
    ranker: str = ""
    embedder: str = "gds"
    removed: float = 0.0
    seed: int = 0

    @property
    def is_compared(self) -> bool:
        """Whether it is compared with all baselines: the learned ones take as long as a fold itself."""
        return self.view == MAIN_VIEW and not self.ranker and not self.removed and self.recipe == PAPER

    def build(self, runner: Runner | None, results: Results | None = None) -> Matcher:
        """The method, ready to rank.

        Args:
            runner: of the database, where the embedder asks for it.
            results: keeps embeddings; None to compute them each time.
        """
        from matchgraph.predictor.paper import PaperMatcher
        from matchgraph.report.rankers import compared_ranker

        matcher = build_recipe(
            self.recipe, runner, features=self.features, embedder=self.embedder, seed=self.seed
        )
        if not isinstance(matcher, PaperMatcher):
            return matcher
        embedder: Any = matcher.embedder
        # What is removed differs from variant to variant, so no other one needs those embeddings.
        if embedder is not None and results is not None and not self.removed:
            embedder = KeptEmbedder(embedder, results)
        ranker = compared_ranker(self.ranker, self.seed) if self.ranker else matcher.ranker
        return PaperMatcher(embedder, ranker, matcher.features, matcher.operator)


@dataclass(frozen=True)
class Outcome:
    """What came of a variant.

    Attributes:
        folds: one for each held-out dataset; none where it failed.
        skipped: why a dataset is not a fold, by its id.
        method: what the variant was made of and with.
        failure: why there are no folds; empty where there are.
    """

    folds: tuple[Fold, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


class Results:
    """What was computed, kept on disk by its key and the versions of the libraries.

    Args:
        folder: where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        from joblib import Memory

        self._once = Memory(folder, verbose=0).cache(_computed, ignore=["compute"])

    def get(self, key: Any, compute: Callable[[], T]) -> T:
        """What `compute` returned the first time for this key, which is made of plain values."""
        return self._once(key, versions(), compute)

    def has(self, key: Any) -> bool:
        """Whether there is something for this key."""
        return self._once.check_call_in_cache(key, versions(), None)


class KeptEmbedder:
    """An embedder that computes each embedding once.

    Args:
        embedder: computes what is not kept yet.
        results: where embeddings are kept.
    """

    def __init__(self, embedder: GdsNode2Vec | Node2VecPlus, results: Results) -> None:
        self.name, self.config = embedder.name, embedder.config
        self._embedder, self._results = embedder, results

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `graphdb.embedding.Embedder.embed`."""
        import joblib

        rows = sorted(zip(edges["source"], edges["target"], map(float, edges["weight"]), strict=True))
        key = joblib.hash([self.name, asdict(self.config), sorted(nodes), rows])
        return self._results.get(key, lambda: self._embedder.embed(nodes, edges))


@dataclass(frozen=True, eq=False)
class Workplace:
    """Where variants are evaluated.

    Attributes:
        views: the graph by key of the view.
        settings: of the database; None where no embedder needs one.
        folder: keeps what is finished.
        jobs: processes side by side; with 1, this one.
    """

    views: Mapping[str, Snapshot]
    settings: Settings | None
    folder: Path
    jobs: int = 2

    @property
    def results(self) -> Results:
        """What is finished."""
        return Results(self.folder)


def evaluate_variants(
    variants: Sequence[MethodVariant],
    place: Workplace,
    runner: Runner | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[MethodVariant, Outcome]:
    """Evaluate each variant, as far as that is not done yet.

    Args:
        variants: each counts once, however often it is named.
        place: where.
        runner: this process's own connection; the others make theirs.
        progress: called with the number of finished folds and of all.

    Returns:
        What came of each; a variant that the graph has no data for says why.

    Raises:
        ProcessEnded: a process was ended from outside.
    """
    graphs = {view: graph_hash(place.views[view]) for view in {variant.view for variant in variants}}
    planned = {variant: _planned(variant, place, runner) for variant in dict.fromkeys(variants)}
    tasks = [
        _Task(variant, dataset, [graphs[variant.view], asdict(variant), dict(outcome.method), dataset])
        for variant, (outcome, datasets) in planned.items()
        for dataset in datasets
    ]
    if progress:
        progress(0, len(tasks))
    answers: dict[tuple[MethodVariant, str], Fold | str] = {}
    for task, answer in _answers(tasks, place, runner):
        answers[task.variant, task.dataset] = answer
        if progress:
            progress(len(answers), len(tasks))
    outcomes = {}
    for variant, (outcome, datasets) in planned.items():
        own = [answers[variant, dataset] for dataset in datasets]
        failure = next((answer for answer in own if isinstance(answer, str)), outcome.failure)
        outcomes[variant] = (
            Outcome(failure=failure)
            if failure
            else Outcome(tuple(f for f in own if isinstance(f, Fold)), outcome.skipped, outcome.method)
        )
    return outcomes


@cache
def versions() -> Mapping[str, str]:
    """The versions of the libraries that could change a result."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class _Task:
    """One fold to compute, and the key that it is kept by."""

    variant: MethodVariant
    dataset: str
    key: list[Any]


def _computed(key: Any, versions: Mapping[str, str], compute: Callable[[], T]) -> T:  # noqa: ARG001
    """What joblib keeps: it calls this only where key or versions are new."""
    return compute()


def _planned(
    variant: MethodVariant, place: Workplace, runner: Runner | None
) -> tuple[Outcome, Sequence[str]]:
    """What is known of a variant before its folds, and the datasets that are held out."""
    try:
        matcher = variant.build(runner)
        datasets, skipped = held_out_datasets(place.views[variant.view], matcher.needs_similarities)
    except PredictorError as error:
        return Outcome(failure=str(error)), ()
    return Outcome(skipped=skipped, method={"recipe": matcher.name, **matcher.describe()}), datasets


def _answers(
    tasks: Sequence[_Task], place: Workplace, runner: Runner | None
) -> Iterator[tuple[_Task, Fold | str]]:
    """The fold of each task, as they are finished; of one that cannot be computed, why."""
    from joblib import Parallel, delayed

    results = place.results
    new = []
    for task in tasks:
        if results.has(task.key):
            yield _hold_out(task, place.views[task.variant.view], results, runner, None)
        else:
            new.append(task)
    # A connection stays in its process.
    own = (runner, None) if place.jobs == 1 else (None, place.settings)
    # One thread for each process: more threads than cores wait for each other.
    parallel = Parallel(
        n_jobs=place.jobs,
        backend="loky",
        inner_max_num_threads=1,
        return_as="generator_unordered",
        batch_size=FOLDS_PER_BATCH,
        max_nbytes=None,
    )
    try:
        yield from parallel(
            delayed(_hold_out)(task, place.views[task.variant.view], results, *own) for task in new
        )
    except BrokenProcessPool as error:
        raise ProcessEnded(
            "A worker process ended, perhaps for lack of memory, or could not start. Finished work is "
            "kept: run the same command again, with fewer --jobs."
        ) from error


def _hold_out(
    task: _Task, snapshot: Snapshot, results: Results, runner: Runner | None, settings: Settings | None
) -> tuple[_Task, Fold | str]:
    variant = task.variant
    baselines = BASELINES
    if not variant.is_compared:
        baselines = tuple(b for b in BASELINES if b.key in ("average_rank", "average_value", "random"))

    def compute() -> Fold:
        connected = runner if settings is None else _connected(settings)
        return evaluate_fold(
            snapshot,
            task.dataset,
            variant.build(connected, results),
            baselines=baselines,
            seed=variant.seed,
            removed=variant.removed,
        )

    try:
        return task, results.get(task.key, compute)
    except (PredictorError, EmbeddingFailed) as error:
        return task, str(error)
    except ImportError as error:
        return task, f"{error}. It is needed for this row only."
    except Exception as error:
        error.add_note(f"This happened while holding out {task.dataset!r} with {variant}.")
        raise


@cache
def _connected(settings: Settings) -> Runner:
    """This process's connection."""
    from matchgraph.graphdb.connection import connect

    return connect(settings, apply_schema=False)
