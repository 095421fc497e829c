"""The leave-one-out evaluations that the studies are made of: each computed once, by processes side by side,
and kept on disk fold by fold, so that a report that was broken off goes on where it stopped.
"""

from __future__ import annotations

import copyreg
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb.errors import EmbeddingFailed
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.errors import PredictorError, ProcessEnded
from matchgraph.predictor.evaluation import Fold, Score, evaluate_fold, held_out_datasets
from matchgraph.predictor.recipes import PAPER, build_recipe
from matchgraph.predictor.visibility import graph_hash

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.embedding import Embedder
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.runner import Runner
    from matchgraph.predictor.matching import Matcher

MAIN_VIEW = "results"
# Of what is kept on disk; another number makes all of it be computed anew.
FORMAT = 1
# Folds of one errand: few, so that processes end together and little is lost when one is broken off.
FOLDS_AT_ONCE = 4
LIBRARIES = ("catboost", "gensim", "graphdatascience", "neo4j", "numpy", "scikit-learn", "scipy")


def _read_only(values: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(values)


# Attributes of models and datasets are read-only maps, which pickle does not know.
copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))


@dataclass(frozen=True)
class Variant:
    """One way of predicting, evaluated on one view of the graph under one seed.

    Attributes:
        view: key of the view, see `report.sources`.
        recipe: its name, see `predictor.recipes.RECIPES`.
        features: what its rows are made of, see `predictor.matching.RowConfig`.
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
        """Whether it stands beside all baselines: the learned ones take as long as a fold itself."""
        return self.view == MAIN_VIEW and not self.ranker and not self.removed and self.recipe == PAPER

    def build(self, runner: Runner | None, embeddings: Path | None = None) -> Matcher:
        """The method, ready to rank.

        Args:
            runner: of the database, where the embedder asks for it.
            embeddings: folder to keep embeddings in; None for none.
        """
        matcher = build_recipe(
            self.recipe, runner, features=self.features, embedder=self.embedder, seed=self.seed
        )
        embedder = getattr(matcher, "embedder", None)
        # What is removed differs from variant to variant, so nobody would ask for those embeddings again.
        if embedder is not None and embeddings is not None and not self.removed:
            matcher.embedder = embedder = KeptEmbedder(embedder, embeddings)
        if not self.ranker:
            return matcher
        from matchgraph.predictor.matching import PaperMatcher
        from matchgraph.report.rankers import compared_ranker

        return PaperMatcher(embedder, compared_ranker(self.ranker, self.seed), matcher.rows)


@dataclass(frozen=True)
class Outcome:
    """What came of a variant.

    Attributes:
        folds: one for each held-out dataset; none where it failed.
        skipped: why a dataset is no fold, by its id.
        method: what the variant was made of and with.
        failure: why there are no folds; empty where there are.
    """

    folds: tuple[Fold, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


class KeptEmbedder:
    """Gives again what was embedded before, by the content of graph and configuration.

    Args:
        embedder: asked for what is not there yet.
        folder: where the embeddings are.
    """

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.name, self.config = embedder.name, embedder.config
        self._embedder, self._folder = embedder, folder

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `graphdb.embedding.Embedder.embed`."""
        content = [
            self.name,
            asdict(self.config),
            sorted(nodes),
            sorted(zip(edges["source"], edges["target"], map(float.hex, edges["weight"]), strict=True)),
        ]
        file = self._folder / f"{digest(content)}.npy"
        if file.exists():
            return dict(zip(sorted(nodes), np.load(file), strict=True))
        vectors = self._embedder.embed(nodes, edges)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
        with partial.open("wb") as written:
            np.save(written, np.array([vectors[node] for node in sorted(nodes)]))
        partial.replace(file)
        return vectors


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
    def embeddings(self) -> Path:
        """Where embeddings are kept."""
        return self.folder / "embeddings"


def evaluate_variants(
    variants: Sequence[Variant],
    place: Workplace,
    runner: Runner | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Variant, Outcome]:
    """Evaluate each variant, as far as that is not done yet.

    Args:
        variants: each counts once, however often it is named.
        place: where.
        runner: this process's own connection; the others make theirs.
        progress: told the number of finished folds and of all.

    Returns:
        What came of each; a variant that the graph has no data for tells why.
    """
    ledgers = {variant: _ledger(variant, place, runner) for variant in dict.fromkeys(variants)}
    of = sum(len(ledger.datasets) for ledger in ledgers.values())
    done = sum(len(ledger.folds) for ledger in ledgers.values())
    if progress:
        progress(done, of)
    errands = deque(
        (variant, ledger.missing[start : start + FOLDS_AT_ONCE])
        for variant, ledger in ledgers.items()
        for start in range(0, len(ledger.missing), FOLDS_AT_ONCE)
    )
    work = _here(errands, place, runner) if place.jobs == 1 else _in_processes(errands, place)
    for variant, count, answer in work:
        ledgers[variant].take(answer)
        done += count
        if progress:
            progress(done, of)
    return {variant: ledger.outcome() for variant, ledger in ledgers.items()}


class Ledger:
    """The finished folds of one variant, kept in a file with one line for each.

    Args:
        file: the file; what is in it counts as finished, but for a line that was torn off.
        datasets: what is held out.
        skipped: what is not, and why.
        method: what the variant is made of.
        failure: why nothing can be held out.
    """

    def __init__(
        self,
        file: Path | None,
        datasets: Sequence[str] = (),
        skipped: Mapping[str, str] = MappingProxyType({}),
        method: Mapping[str, Any] = MappingProxyType({}),
        failure: str = "",
    ) -> None:
        self.datasets, self.failure = tuple(datasets), failure
        self._file, self._skipped, self._method = file, skipped, method
        self.folds: dict[str, Fold] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file and file.exists() else ():
            try:
                fold = fold_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            self.folds[fold.dataset] = fold

    @property
    def missing(self) -> list[str]:
        """The datasets whose fold is still to be computed."""
        return [dataset for dataset in self.datasets if dataset not in self.folds]

    def take(self, answer: list[Fold] | str) -> None:
        """Keep finished folds, or the reason why there are none."""
        if isinstance(answer, str):
            self.failure = answer
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(fold_as_json(fold), ensure_ascii=True) for fold in answer]
        with self._file.open("a", encoding="utf-8") as file:
            # A line that was torn off must not swallow the next one.
            file.write("".join(f"\n{line}" for line in lines) + "\n")
        self.folds.update({fold.dataset: fold for fold in answer})

    def outcome(self) -> Outcome:
        """What came of the variant."""
        if self.failure:
            return Outcome(failure=self.failure)
        folds = tuple(self.folds[dataset] for dataset in self.datasets)
        return Outcome(folds, dict(self._skipped), dict(self._method))


def fold_as_json(fold: Fold) -> dict[str, Any]:
    """A fold as plain data; figures that are not defined are NaN, which Python's JSON writes and reads."""
    return {
        "dataset": fold.dataset,
        "models": fold.models,
        "best": list(fold.best),
        "scores": {
            key: {"selected": list(score.selected), "figures": dict(score.figures)}
            for key, score in fold.scores.items()
        },
        "losses": dict(fold.losses),
        "p_best": dict(fold.p_best),
        "expected_rank": dict(fold.expected_rank),
    }


def fold_from_json(values: Mapping[str, Any]) -> Fold:
    """The fold that `fold_as_json` made plain data of."""
    scores = {
        key: Score(tuple(score["selected"]), score["figures"]) for key, score in values["scores"].items()
    }
    return Fold(**{**values, "best": tuple(values["best"]), "scores": scores})


def versions() -> dict[str, str]:
    """The versions of the libraries that could change an answer."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _ledger(variant: Variant, place: Workplace, runner: Runner | None) -> Ledger:
    snapshot = place.views[variant.view]
    try:
        matcher = variant.build(runner)
        datasets, skipped = held_out_datasets(snapshot, matcher.needs_similarities)
    except PredictorError as error:
        return Ledger(None, failure=str(error))
    method = {"recipe": matcher.name, **matcher.describe()}
    key = digest(
        [FORMAT, graph_hash(snapshot), asdict(variant), method, variant.is_compared, versions()],
    )
    return Ledger(place.folder / f"{key}.jsonl", datasets, skipped, method)


def _folds(
    variant: Variant, datasets: Sequence[str], snapshot: Snapshot, runner: Runner | None, embeddings: Path
) -> list[Fold] | str:
    """Compute some folds, or tell why that cannot be done."""
    baselines = BASELINES
    if not variant.is_compared:
        baselines = tuple(b for b in BASELINES if b.key in ("average_rank", "average_value", "random"))
    try:
        matcher = variant.build(runner, embeddings)
        return [
            evaluate_fold(
                snapshot,
                dataset,
                matcher,
                baselines=baselines,
                seed=variant.seed,
                removed=variant.removed,
            )
            for dataset in datasets
        ]
    except (PredictorError, EmbeddingFailed) as error:
        return str(error)
    except ImportError as error:
        return f"{error}. It is needed for this row only."


Errand = tuple[Variant, list[str]]
Answers = Iterator[tuple[Variant, int, list[Fold] | str]]


def _here(errands: deque[Errand], place: Workplace, runner: Runner | None) -> Answers:
    for variant, datasets in errands:
        answer = _folds(variant, datasets, place.views[variant.view], runner, place.embeddings)
        yield variant, len(datasets), answer


def _in_processes(errands: deque[Errand], place: Workplace) -> Answers:
    if not errands:
        return
    with _pool(place) as pool:
        running: dict[Future[list[Fold] | str], Errand] = {}
        while errands or running:
            while errands and len(running) <= place.jobs:
                errand = errands.popleft()
                running[pool.submit(_errand, *errand)] = errand
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                variant, datasets = running.pop(future)
                yield variant, len(datasets), future.result()


@contextmanager
def _pool(place: Workplace) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(place.jobs, context, _begin, (place,))
    # Each process computes on one core: more threads than cores wait for each other.
    with _environment({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
                process.join()
            if isinstance(error, BrokenProcessPool):
                raise ProcessEnded(
                    "A process that held datasets out was ended, perhaps for want of memory, or could not "
                    "begin. What is finished is kept: run the same command again, with fewer --jobs."
                ) from error
            raise
        pool.shutdown()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# What a process of the pool works with, set once when it begins.
_place: Workplace
_runner: Runner | None = None


def _begin(place: Workplace) -> None:
    global _place, _runner
    # Ctrl-C is the business of the process that asks; it ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _place = place
    if place.settings is not None:
        from matchgraph.graphdb.connection import connect

        _runner = connect(place.settings, apply_schema=False)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        time.sleep(1.0)
    os._exit(1)


def _errand(variant: Variant, datasets: list[str]) -> list[Fold] | str:
    return _folds(variant, datasets, _place.views[variant.view], _runner, _place.embeddings)


def digest(content: Any) -> str:
    """A fingerprint of plain data, 24 hex digits of SHA-256."""
    text = json.dumps(content, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
