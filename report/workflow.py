"""The service behind `matchgraph report`: from the graph to the written report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.errors import NotEnoughResults, PredictorError
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.predictor.samples import small_samples_note
from matchgraph.predictor.visibility import graph_hash, loss_matrix
from matchgraph.predictor.workflow import load_snapshot
from matchgraph.progress import Progress, no_progress
from matchgraph.report.config import STUDIES, ReportConfig, without_data
from matchgraph.report.page import Head, Page, Section, plain, write_page
from matchgraph.report.paper import NOTE
from matchgraph.report.sources import read_sources
from matchgraph.report.studies import MAKERS, Bench
from matchgraph.report.variants import MethodVariant, Outcome, Workplace, evaluate_variants, versions

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner
    from matchgraph.report.sources import Sources

PAGE_FILE, DATA_FILE, KEPT_FOLDER = "index.html", "report.json", "kept"
FEWEST_DATASETS = 3
# The answer first, then what bears on how far to trust it.
SUMMARY = ("selection", "calibration", "noise", "sparsity", "inputs", "time", "landscape")


def write_report(
    graph: MatchingGraph,
    out: Path,
    *,
    config: ReportConfig | None = None,
    settings: Settings | None = None,
    on_progress: Progress = no_progress,
) -> Page:
    """Compute the studies of a graph and write the page, its tables and figures as files, and `report.json`.

    Folds are kept in `OUT/kept`, so that an interrupted report can be resumed.

    Args:
        graph: the graph.
        out: folder of the report; made if it is not there.
        config: what to report; all defaults if None.
        settings: of the same database, for further processes; None for those of the environment.
        on_progress: called with what is going on, how much of it is done, and of how much.

    Returns:
        The page.

    Raises:
        NotEnoughResults: fewer than three datasets have two measured models.
        UnknownMetricName: no result is in the metric asked for.
        GraphError: what reading the graph met.
        OSError: a file cannot be written.
    """
    from matchgraph.graphdb.connection import settings_from_environment

    config = config or ReportConfig()
    on_progress("reading the graph", 0, 0)
    main = load_snapshot(graph, config.metric, config.similarity, config.measured_with)
    sources = read_sources(graph, main, config.measured_with)
    return report_of(
        sources,
        out,
        config=config,
        runner=graph.runner,
        settings=settings or settings_from_environment(),
        on_progress=on_progress,
    )


def report_of(
    sources: Sources,
    out: Path,
    *,
    config: ReportConfig,
    runner: Runner | None = None,
    settings: Settings | None = None,
    on_progress: Progress = no_progress,
) -> Page:
    """Write the report of what was read; see `write_report`.

    Args:
        sources: the graph.
        out: folder of the report.
        config: what to report.
        runner: this process's connection; None where no embedder needs one.
        settings: for the other processes' connections; None where no embedder needs one.
        on_progress: see `write_report`.
    """
    check_reportable(sources)
    place = Workplace(sources.snapshots, settings, out / KEPT_FOLDER, config.jobs)
    bench = Bench(config, sources, place, runner)
    needed = {key: MAKERS[key].variants(bench) for key in config.chosen}

    def note(done: int, of: int) -> None:
        on_progress("held-out datasets", done, of)

    variants = [variant for own in needed.values() for variant in own.values()]
    outcomes = evaluate_variants(variants, place, runner, note)
    sections: list[Section] = []
    studies: dict[str, Any] = {}
    for number, key in enumerate(config.chosen):
        on_progress(STUDIES[key][0].lower(), number, len(config.chosen))
        try:
            section, data = MAKERS[key].build(bench, {name: outcomes[v] for name, v in needed[key].items()})
        except (PredictorError, ImportError) as error:
            section, data = without_data(key, str(error)), None
        sections.append(section)
        studies[key] = {
            "says": " ".join(text for text in (section.lead, section.also) if text),
            "caption": section.caption,
            "folds": section.folds,
            "seeds": section.seeds,
            "data": data,
        }
    head = Head(
        f"How well models are chosen by {sources.main.metric.name}",
        summary(sections),
        command(out, config),
        facts(bench, outcomes),
        NOTE,
        one_by_one=True,
    )
    return write_page(out, head, sections, {"studies": studies}, page=PAGE_FILE, data=DATA_FILE)


def command(out: Path, config: ReportConfig) -> str:
    """The command line that makes a report, as far as it decides what is in it."""
    words = ["matchgraph", "report", "--out", str(out), "--metric", config.metric]
    words += ["--similarity", config.similarity] if config.similarity else []
    words += [word for extractor in config.measured_with for word in ("--measured-with", extractor)]
    return shlex.join([*words, "--embedder", config.embedder, "--seeds", str(config.seeds)])


def check_reportable(sources: Sources) -> None:
    """Refuse to report on a graph in which nothing can be held out.

    Raises:
        NotEnoughResults: fewer than three datasets have two measured models.
    """
    measured = (~np.isnan(loss_matrix(sources.main).losses)).sum(axis=0)
    rankable = int((measured >= 2).sum())
    if rankable < FEWEST_DATASETS:
        raise NotEnoughResults(
            f"A report needs at least {FEWEST_DATASETS} datasets with at least 2 models measured by "
            f"{sources.main.metric.name} after fine-tuning; the graph has {rankable}. Record results with "
            "`matchgraph ingest results FILE.csv` or `matchgraph ingest run`."
        )


def facts(bench: Bench, outcomes: Mapping[MethodVariant, Outcome]) -> dict[str, Any]:
    """What a report was computed from and with."""
    main = bench.sources.main
    methods = {
        variant.recipe: dict(outcome.method)
        for variant, outcome in outcomes.items()
        if outcome.method and variant == bench.variant(recipe=variant.recipe)
    }
    skipped = next((outcome.skipped for outcome in outcomes.values() if outcome.folds), {})
    return {
        "metric": f"{main.metric.name} ({'larger' if main.metric.larger_is_better else 'smaller'} is better)",
        "similarities": main.similarity.name if main.similarity else "none",
        "models": len(main.models),
        "datasets": len(main.datasets),
        "results": int(main.performs["value"].notna().sum()),
        "not held out": "; ".join(f"{d} ({why})" for d, why in skipped.items()) or "none",
        "limits": " ".join(filter(None, (missing_pairs_note(main), small_samples_note(main.datasets))))
        or "none",
        "graph": graph_hash(main),
        **{f"recipe {name}": json.dumps(plain(method)) for name, method in methods.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def summary(sections: list[Section]) -> list[str]:
    """What the sections say, in the order of `SUMMARY`, and which have no data."""
    by_key = {section.key: section for section in sections if not section.missing}
    sentences = [
        text for key in SUMMARY if key in by_key for text in (by_key[key].lead, by_key[key].also) if text
    ]
    missing = [section.title.lower() for section in sections if section.missing]
    if missing:
        sentences.append(f"The graph has no data for: {', '.join(missing)}.")
    return sentences or [section.lead for section in sections]
