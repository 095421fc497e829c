"""The studies of a report: which variants each needs, and how its section is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from matchgraph.predictor.recipes import DEFAULT_RECIPE, PAPER, RECIPES
from matchgraph.predictor.visibility import graph_hash
from matchgraph.report import (
    calibration,
    comparison_sections,
    comparisons,
    importances,
    landscape,
    noise,
    sparsity,
    timing,
)
from matchgraph.report.config import ReportConfig, without_data
from matchgraph.report.page import Section
from matchgraph.report.rankers import TITLES
from matchgraph.report.variants import MethodVariant, Outcome, Workplace

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner
    from matchgraph.report.sources import Sources

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Bench:
    """All that a study is made with.

    Attributes:
        config: what to report.
        sources: the graph.
        place: where variants are evaluated.
        runner: this process's connection; None where no embedder needs one.
    """

    config: ReportConfig
    sources: Sources
    place: Workplace
    runner: Runner | None

    @property
    def recipes(self) -> tuple[str, ...]:
        """The default recipe and, where it is another one, the paper's."""
        return tuple(dict.fromkeys((DEFAULT_RECIPE, PAPER)))

    @property
    def features(self) -> str:
        """What rows are made of: without similarities there is nothing to place a held-out dataset by."""
        return "all" if self.sources.has_similarities else "node"

    def variant(self, **own: Any) -> MethodVariant:
        """A variant of the method asked for; what a recipe does without is left at its default, so that equal
        variants are equal."""
        chosen = {"embedder": self.config.embedder, "features": self.features, **own}
        takes = RECIPES[chosen.get("recipe", PAPER)].takes
        seeded = "seed" in takes or chosen.get("removed")
        dropped = {"embedder"} - takes | (set() if seeded else {"seed"})
        return MethodVariant(**{name: value for name, value in chosen.items() if name not in dropped})

    def kept(self, name: str, content: Any, compute: Callable[[], T]) -> T:
        """What was computed before from the same graph and content, or is now."""
        return self.place.results.get([name, graph_hash(self.sources.main), content], compute)


@dataclass(frozen=True)
class Maker:
    """How a study is made.

    Attributes:
        variants: what has to be evaluated for it, by the key that `build` wants.
        build: from the evaluated variants to its section and its data.
    """

    variants: Callable[[Bench], Mapping[Any, MethodVariant]]
    build: Callable[[Bench, Mapping[Any, Outcome]], tuple[Section, Any]]


def _none(_: Bench) -> Mapping[Any, MethodVariant]:
    return {}


def _landscape(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = landscape.landscape(bench.sources.main)
    return landscape.landscape_section(study), study


def _selection_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    return {(r, s): bench.variant(recipe=r, seed=s) for r in bench.recipes for s in bench.config.many}


def _selection(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.selection(outcomes)
    return comparison_sections.selection_section(study, len(bench.sources.main.models)), study


def _inputs_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    features = ("all", "node", "graph") if bench.sources.has_similarities else ("node",)
    return {
        (r, f, s): bench.variant(recipe=r, features=f, seed=s)
        for r in bench.recipes
        if "features" in RECIPES[r].takes
        for f in features
        for s in bench.config.many
    }


def _inputs(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    if not bench.sources.has_similarities:
        why = "No two datasets were compared, so there is no graph to embed: features are all there is."
        return without_data("inputs", why), None
    study = comparisons.inputs(outcomes)
    return comparison_sections.inputs_section(study), study


def _sparsity_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    return {
        (r, share, s): bench.variant(recipe=r, removed=share, seed=s)
        for r in bench.recipes
        for share in sparsity.REMOVED
        for s in bench.config.few
    }


def _sparsity(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    failure = next((outcome.failure for outcome in outcomes.values() if outcome.failure), "")
    if failure:
        return without_data("sparsity", failure), None
    study = sparsity.sparsity(outcomes)
    return sparsity.sparsity_section(study), study


def _metrics_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    return _of_views(bench, [view.key for view in bench.sources.metrics if view.key])


def _probes_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    return _of_views(bench, [view.key for view in bench.sources.probes if view.key])


def _of_views(bench: Bench, keys: Sequence[str]) -> Mapping[Any, MethodVariant]:
    def features(key: str) -> str:
        return "all" if len(bench.sources.snapshots[key].similar) else "node"

    return {
        (r, key, s): bench.variant(view=key, recipe=r, features=features(key), seed=s)
        for r in bench.recipes
        for key in keys
        for s in bench.config.few
    }


def _metrics(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.views(bench.sources.metrics, outcomes, bench.sources.snapshots, "table5")
    return comparison_sections.metrics_section(study, alone=len(bench.sources.metrics) == 1), study


def _probes(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.views(bench.sources.probes, outcomes, bench.sources.snapshots, "table6")
    return comparison_sections.probes_section(study, alone=len(bench.sources.probes) == 1), study


def _rankers_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    # CatBoost is the recipe's own.
    return {
        (name, s): bench.variant(recipe=PAPER, ranker="" if name == "catboost" else name, seed=s)
        for name in TITLES
        for s in bench.config.few
    }


def _rankers(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.rankers(outcomes)
    return comparison_sections.rankers_section(study), study


def _importances(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    seeds = list(bench.config.few)

    def build(seed: int) -> Any:
        return bench.variant(recipe=PAPER, seed=seed).build(bench.runner, bench.place.results)

    study = bench.kept(
        "importances",
        [seeds, asdict(bench.variant(recipe=PAPER)), build(0).describe()],
        lambda: importances.learned_importances(bench.sources.main, build, seeds),
    )
    return importances.importances_section(study), study


def _time(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    timings = []
    for recipe in bench.recipes:
        matcher = bench.variant(recipe=recipe).build(bench.runner)
        timings.append(
            bench.kept(
                "time",
                [recipe, matcher.describe()],
                partial(timing.timed_predictions, bench.sources.main, recipe, matcher),
            )
        )
    return timing.time_section(timings), timings


def _calibration_variants(bench: Bench) -> Mapping[Any, MethodVariant]:
    return {recipe: bench.variant(recipe=recipe) for recipe in bench.recipes}


def _calibration(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    judged = [
        calibration.chances(recipe, outcome.folds) for recipe, outcome in outcomes.items() if outcome.folds
    ]
    if not judged:
        why = next(outcome.failure for outcome in outcomes.values())
        return without_data("calibration", why), None
    return calibration.calibration_section(judged), judged


def _noise(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = noise.noise(bench.sources.main, bench.sources.replicates)
    return noise.noise_section(study), study


MAKERS: Mapping[str, Maker] = {
    "selection": Maker(_selection_variants, _selection),
    "calibration": Maker(_calibration_variants, _calibration),
    "landscape": Maker(_none, _landscape),
    "inputs": Maker(_inputs_variants, _inputs),
    "sparsity": Maker(_sparsity_variants, _sparsity),
    "metrics": Maker(_metrics_variants, _metrics),
    "probes": Maker(_probes_variants, _probes),
    "rankers": Maker(_rankers_variants, _rankers),
    "importances": Maker(_none, _importances),
    "noise": Maker(_none, _noise),
    "time": Maker(_none, _time),
}
