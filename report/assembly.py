"""From the graph to the finished report: which variants each study needs, and the files that come of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from matchgraph.predictor.errors import InvalidRows, NotEnoughResults, PredictorError
from matchgraph.predictor.recipes import DEFAULT_RECIPE, PAPER, RECIPES
from matchgraph.predictor.visibility import graph_hash, loss_matrix
from matchgraph.report import comparisons, measurements
from matchgraph.report import sections as written
from matchgraph.report.chances import chances
from matchgraph.report.page import Head, render_page
from matchgraph.report.sections import Section, without_data
from matchgraph.report.trained import (
    learned_importances,
    timed_predictions,
)
from matchgraph.report.variants import (
    Outcome,
    Variant,
    Workplace,
    evaluate_variants,
    versions,
)
from matchgraph.svg import standalone

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.runner import Runner
    from matchgraph.report.sources import Sources

T = TypeVar("T")

PAGE_FILE, DATA_FILE, KEPT_FOLDER = "index.html", "report.json", "kept"
LEAST_DATASETS = 3
# Sweeps compare many variants, of which each takes as long as the method itself.
SEEDS_OF_A_SWEEP = 3

Outcomes = Mapping[Variant, Outcome]


@dataclass(frozen=True)
class Plan:
    """What to report.

    Attributes:
        seeds: how many seeds Tables 3 and 4 are computed with, 0, 1...; the other studies take a third of
            them, rounded up.
        embedder: see `predictor.recipes.Ingredients`.
        only: keys of the studies; empty for all.
        jobs: processes side by side.
        command: that asks for all of it, as it is told in the report.

    Raises:
        InvalidRows: no seed, no process, or an unknown study.
    """

    seeds: int = 3
    embedder: str = "gds"
    only: tuple[str, ...] = ()
    jobs: int = 2
    command: str = "matchgraph report"

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.jobs < 1:
            raise InvalidRows(f"a report needs a seed and a process, got {self.seeds} and {self.jobs}")
        if unknown := [key for key in self.only if key not in STUDIES]:
            raise InvalidRows(f"unknown study {unknown[0]!r}: choose some of {', '.join(STUDIES)}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The studies, in the report's order."""
        return tuple(key for key in STUDIES if not self.only or key in self.only)

    @property
    def many(self) -> range:
        """The seeds of Tables 3 and 4."""
        return range(self.seeds)

    @property
    def few(self) -> range:
        """The seeds of the other comparisons."""
        return range(-(-self.seeds // SEEDS_OF_A_SWEEP))


@dataclass(frozen=True, eq=False)
class Bench:
    """All that a study is made with.

    Attributes:
        plan: what was asked for.
        sources: the graph.
        place: where variants are evaluated.
        runner: this process's connection; None where no embedder needs one.
    """

    plan: Plan
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

    def variant(self, **own: Any) -> Variant:
        """A variant of the plan's method; what a recipe does without is left at its default, so that equal
        variants are equal."""
        chosen = {"embedder": self.plan.embedder, "features": self.features, **own}
        takes = RECIPES[chosen.get("recipe", PAPER)].takes
        seeded = "seed" in takes or chosen.get("removed")
        dropped = {"embedder"} - takes | (set() if seeded else {"seed"})
        return Variant(**{name: value for name, value in chosen.items() if name not in dropped})

    def kept(self, name: str, content: Any, compute: Callable[[], T]) -> T:
        """What was computed before from the same graph and content, or is now."""
        return self.place.results.get([name, graph_hash(self.sources.main), content], compute)


@dataclass(frozen=True)
class Study:
    """A part of the report.

    Attributes:
        title: for people, also where it has no data.
        source: what of the paper it is.
        variants: what has to be evaluated for it, by the key that `build` wants.
        build: from the evaluated variants to its section and its data.
    """

    title: str
    source: str
    variants: Callable[[Bench], Mapping[Any, Variant]]
    build: Callable[[Bench, Mapping[Any, Outcome]], tuple[Section, Any]]


@dataclass(frozen=True, eq=False)
class Report:
    """A finished report.

    Attributes:
        page: where the page is.
        summary: what it says, in sentences.
        content: all of it as plain data, as in `report.json`.
    """

    page: Path
    summary: tuple[str, ...]
    content: Mapping[str, Any]


def make_report(
    sources: Sources,
    plan: Plan,
    folder: Path,
    *,
    runner: Runner | None = None,
    settings: Settings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Compute all studies and write the page, its tables and figures as files, and `report.json`.

    What was computed before and is kept in the folder is taken from there, as far as graph, method, seed and
    libraries are the same.

    Args:
        sources: the graph.
        plan: what to report.
        folder: where to; made if it is not there.
        runner: this process's connection; None where no embedder needs one.
        settings: for the other processes' connections.
        progress: told what is going on, how much of it is done, and of how much.

    Returns:
        The report.

    Raises:
        NotEnoughResults: fewer than three datasets have two measured models.
        OSError: a file cannot be written.
    """
    check_reportable(sources)
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        plan, sources, Workplace(sources.snapshots, settings, folder / KEPT_FOLDER, plan.jobs), runner
    )
    needed = {key: STUDIES[key].variants(bench) for key in plan.chosen}

    def follow(done: int, of: int) -> None:
        if progress:
            progress("held-out datasets", done, of)

    outcomes = evaluate_variants(
        [variant for variants in needed.values() for variant in variants.values()],
        bench.place,
        runner,
        follow,
    )
    parts: list[Section] = []
    content: dict[str, Any] = {}
    for number, key in enumerate(plan.chosen):
        study = STUDIES[key]
        if progress:
            progress(study.title.lower(), number, len(plan.chosen))
        try:
            part, data = study.build(bench, {name: outcomes[v] for name, v in needed[key].items()})
        except (PredictorError, ImportError) as error:
            part, data = without_data(key, study.title, study.source, str(error)), None
        parts.append(part)
        content[key] = {
            "says": " ".join(text for text in (part.lead, part.also) if text),
            "caption": part.caption,
            "folds": part.folds,
            "seeds": list(part.seeds),
            "data": plain(data),
        }
    facts = provenance(bench, outcomes)
    summary = tuple(_summary(parts))
    head = Head(f"How well models are chosen by {sources.main.metric.name}", summary, plan.command, facts)
    for part in parts:
        for table in (*part.tables, *part.data):
            write_text(folder / f"{table.name}.csv", table.as_csv())
        for number, drawn in enumerate(part.drawings, start=1):
            name = part.key if number == 1 else f"{part.key}-{number}"
            write_text(folder / f"{name}.svg", standalone(drawn.svg))
    whole = {"summary": summary, "command": plan.command, "provenance": facts, "studies": content}
    write_text(folder / DATA_FILE, json.dumps(plain(whole), ensure_ascii=False, indent=1, allow_nan=False))
    page = write_text(folder / PAGE_FILE, render_page(head, parts))
    return Report(page, summary, plain(whole))


def check_reportable(sources: Sources) -> None:
    """Refuse to report on a graph in which nothing can be held out.

    Raises:
        NotEnoughResults: fewer than three datasets have two measured models.
    """
    measured = (~np.isnan(loss_matrix(sources.main).losses)).sum(axis=0)
    rankable = int((measured >= 2).sum())
    if rankable < LEAST_DATASETS:
        raise NotEnoughResults(
            f"A report needs at least {LEAST_DATASETS} datasets with at least 2 models measured by "
            f"{sources.main.metric.name} after fine-tuning; the graph has {rankable}. Record results with "
            "`matchgraph ingest results FILE.csv` or `matchgraph ingest run`."
        )


def provenance(bench: Bench, outcomes: Outcomes) -> dict[str, Any]:
    """What a report was computed from and with."""
    main = bench.sources.main
    methods = {
        v.recipe: dict(o.method)
        for v, o in outcomes.items()
        if o.method and v == bench.variant(recipe=v.recipe)
    }
    skipped = next((o.skipped for o in outcomes.values() if o.folds), {})
    return {
        "metric": f"{main.metric.name} ({'larger' if main.metric.larger_is_better else 'smaller'} is better)",
        "similarities": main.similarity.name if main.similarity else "none",
        "models": len(main.models),
        "datasets": len(main.datasets),
        "results": int(main.performs["value"].notna().sum()),
        "not held out": "; ".join(f"{d} ({why})" for d, why in skipped.items()) or "none",
        "graph": graph_hash(main),
        **{f"recipe {name}": json.dumps(plain(method)) for name, method in methods.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def plain(value: Any) -> Any:
    """Anything of the report as JSON has it; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_page(
    folder: Path, name: str, head: Head, parts: Sequence[Section], figures: Mapping[str, Any]
) -> Path:
    """Write the page `NAME.html`, a CSV file for each table, and `NAME.json`: what the page says, how it was
    made, and more figures.

    Args:
        folder: gets the files.
        name: of the page.
        head: what stands above and below the sections.
        parts: the sections.
        figures: ready for `plain`.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for table in part.tables:
            write_text(folder / f"{table.name}.csv", table.as_csv())
    whole = {"summary": head.summary, "command": head.command, "provenance": head.facts, **figures}
    write_text(folder / f"{name}.json", json.dumps(plain(whole), indent=1, allow_nan=False) + "\n")
    return write_text(folder / f"{name}.html", render_page(head, parts))


def write_text(file: Path, text: str) -> Path:
    """Write a text file so that it is there whole or not at all, and return its path."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(file)
    return file


def _summary(parts: Sequence[Section]) -> list[str]:
    """The answer first, then what bears on how far to trust it."""
    by_key = {part.key: part for part in parts if not part.missing}
    order = ("selection", "calibration", "noise", "sparsity", "inputs", "time", "landscape")
    said = [text for key in order if key in by_key for text in (by_key[key].lead, by_key[key].also) if text]
    missing = [part.title.lower() for part in parts if part.missing]
    if missing:
        said.append(f"The graph has no data for: {', '.join(missing)}.")
    return said or [part.lead for part in parts]


# -- the studies


def _none(_: Bench) -> Mapping[Any, Variant]:
    return {}


def _landscape(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = measurements.landscape(bench.sources.main)
    return written.landscape_section(study), study


def _selection_variants(bench: Bench) -> Mapping[Any, Variant]:
    return {(r, s): bench.variant(recipe=r, seed=s) for r in bench.recipes for s in bench.plan.many}


def _selection(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.selection(outcomes)
    return written.selection_section(study, len(bench.sources.main.models)), study


def _inputs_variants(bench: Bench) -> Mapping[Any, Variant]:
    features = ("all", "node", "graph") if bench.sources.has_similarities else ("node",)
    return {
        (r, f, s): bench.variant(recipe=r, features=f, seed=s)
        for r in bench.recipes
        if "features" in RECIPES[r].takes
        for f in features
        for s in bench.plan.many
    }


def _inputs(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    if not bench.sources.has_similarities:
        why = "No two datasets were compared, so there is no graph to embed: features are all there is."
        return without_data("inputs", STUDIES["inputs"].title, "Table 4", why), None
    study = comparisons.inputs(outcomes)
    return written.inputs_section(study), study


def _sparsity_variants(bench: Bench) -> Mapping[Any, Variant]:
    return {
        (r, share, s): bench.variant(recipe=r, removed=share, seed=s)
        for r in bench.recipes
        for share in comparisons.REMOVED
        for s in bench.plan.few
    }


def _sparsity(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    failure = next((outcome.failure for outcome in outcomes.values() if outcome.failure), "")
    if failure:
        return without_data("sparsity", STUDIES["sparsity"].title, "Figure 6", failure), None
    study = comparisons.sparsity(outcomes)
    return written.sparsity_section(study), study


def _metrics_variants(bench: Bench) -> Mapping[Any, Variant]:
    return _of_views(bench, [view.key for view in bench.sources.metrics if view.key])


def _probes_variants(bench: Bench) -> Mapping[Any, Variant]:
    return _of_views(bench, [view.key for view in bench.sources.probes if view.key])


def _of_views(bench: Bench, keys: Sequence[str]) -> Mapping[Any, Variant]:
    def features(key: str) -> str:
        return "all" if len(bench.sources.snapshots[key].similar) else "node"

    return {
        (r, key, s): bench.variant(view=key, recipe=r, features=features(key), seed=s)
        for r in bench.recipes
        for key in keys
        for s in bench.plan.few
    }


def _metrics(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.views(bench.sources.metrics, outcomes, bench.sources.snapshots, "table5")
    return written.metrics_section(study, alone=len(bench.sources.metrics) == 1), study


def _probes(bench: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.views(bench.sources.probes, outcomes, bench.sources.snapshots, "table6")
    return written.probes_section(study, alone=len(bench.sources.probes) == 1), study


def _rankers_variants(bench: Bench) -> Mapping[Any, Variant]:
    from matchgraph.report.rankers import TITLES

    # CatBoost is the recipe's own.
    return {
        (name, s): bench.variant(recipe=PAPER, ranker="" if name == "catboost" else name, seed=s)
        for name in TITLES
        for s in bench.plan.few
    }


def _rankers(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    study = comparisons.rankers(outcomes)
    return written.rankers_section(study), study


def _importances(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    seeds = list(bench.plan.few)

    def build(seed: int) -> Any:
        return bench.variant(recipe=PAPER, seed=seed).build(bench.runner, bench.place.results)

    study = bench.kept(
        "importances",
        [seeds, asdict(bench.variant(recipe=PAPER)), build(0).describe()],
        lambda: learned_importances(bench.sources.main, build, seeds),
    )
    return written.importances_section(study), study


def _time(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    timings = []
    for recipe in bench.recipes:
        matcher = bench.variant(recipe=recipe).build(bench.runner)
        timings.append(
            bench.kept(
                "time",
                [recipe, matcher.describe()],
                partial(timed_predictions, bench.sources.main, recipe, matcher),
            )
        )
    return written.time_section(timings), timings


def _calibration_variants(bench: Bench) -> Mapping[Any, Variant]:
    return {recipe: bench.variant(recipe=recipe) for recipe in bench.recipes}


def _calibration(_: Bench, outcomes: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    judged = [chances(recipe, outcome.folds) for recipe, outcome in outcomes.items() if outcome.folds]
    if not judged:
        why = next(outcome.failure for outcome in outcomes.values())
        return without_data("calibration", STUDIES["calibration"].title, "", why), None
    return written.calibration_section(judged), judged


def _noise(bench: Bench, _: Mapping[Any, Outcome]) -> tuple[Section, Any]:
    repeated = [(r.model, r.dataset, r.seed, r.value) for r in bench.sources.replicates]
    study = measurements.noise(bench.sources.main, repeated)
    return written.noise_section(study), study


STUDIES: Mapping[str, Study] = {
    "selection": Study("Choosing the model", "Table 3", _selection_variants, _selection),
    "calibration": Study("Can the chances be trusted?", "", _calibration_variants, _calibration),
    "landscape": Study("What was measured", "Figure 3", _none, _landscape),
    "inputs": Study("What the ranker sees", "Table 4", _inputs_variants, _inputs),
    "sparsity": Study("Fewer results", "Figure 6", _sparsity_variants, _sparsity),
    "metrics": Study("Other metrics of quality", "Table 5", _metrics_variants, _metrics),
    "probes": Study("Other probes of the datasets", "Table 6", _probes_variants, _probes),
    "rankers": Study("Other rankers", "Table 7", _rankers_variants, _rankers),
    "importances": Study("What counts in a model", "Table 1", _none, _importances),
    "noise": Study("Noise between seeds", "", _none, _noise),
    "time": Study("Time of a prediction", "Section 5.2", _none, _time),
}
