"""`matchgraph predict` and `matchgraph evaluate`: wiring graph, probe and predictor, and showing answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from matchgraph.predictor.errors import (
    ExtractorMismatch,
    NoSimilarity,
    UnknownMetricName,
    UnknownTarget,
)
from matchgraph.predictor.features import FEATURE_SETS, OPERATORS
from matchgraph.predictor.recipes import DEFAULT_RECIPE, EMBEDDERS, PAPER, RANKERS, RECIPES, build_recipe
from matchgraph.progress import Progress

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Similar, Snapshot, Statistics
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner
    from matchgraph.predictor.confidence import Confidence
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.matching import Cost, Matcher, Prediction
    from matchgraph.predictor.replay import BudgetCurve, ReplayConfig
    from matchgraph.stats.intervals import Interval

MAX_SEED = 2**31 - 1
PERCENT = 100


def method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how to predict, shared by both commands."""
    options = [
        click.option("--metric", default="clip_fid", show_default=True, help="Metric of the results."),
        click.option("--similarity", help="Metric of the datasets' similarities, where there are several."),
        click.option("--measured-with", "measured_with", multiple=True, metavar="HASH",
                     help="Keep to values of this extractor, where there are several of one metric. "
                     "Repeatable: one for the results, one for the similarities."),
        click.option("--recipe", type=click.Choice(tuple(RECIPES)), default=DEFAULT_RECIPE, show_default=True,
                     help="The method of ranking: a Gaussian process over similar datasets, or the paper's "
                     "classifier on a graph embedding."),
        click.option("--embedder", type=click.Choice(EMBEDDERS), default="gds", show_default=True,
                     help="Of --recipe paper: node2vec in Graph Data Science, or node2vec+ here."),
        click.option("--ranker", type=click.Choice(RANKERS), default="catboost", show_default=True,
                     help="Of --recipe paper: what learns the ranks."),
        click.option("--features", type=click.Choice(FEATURE_SETS), default="all", show_default=True,
                     help="What it sees: all, only the graph, or only the nodes' own features."),
        click.option("--operator", type=click.Choice(OPERATORS), default="concat", show_default=True,
                     help="Of --recipe paper: how two node embeddings make that of an edge."),
        click.option("--trees", type=click.IntRange(1, 10_000), default=300, show_default=True,
                     help="Of --recipe paper: trees of the ranker."),
        click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True,
                     help="Seed of everything random; equal seeds give equal answers."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Method:
    """The options of a command, as one value."""

    metric: str
    similarity: str | None
    measured_with: tuple[str, ...]
    recipe: str
    embedder: str
    ranker: str
    features: str
    operator: str
    trees: int
    seed: int

    def build(self, runner: Runner) -> Matcher:
        """The method that the options name.

        Raises:
            UsageError: an option was given that the recipe does not have.
        """
        context = click.get_current_context()
        for name in ("embedder", "ranker", "operator", "trees"):
            given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            if given and name not in RECIPES[self.recipe].takes:
                raise click.UsageError(f"--{name} is of --recipe {PAPER}: the recipe {self.recipe} has none.")
        return build_recipe(
            self.recipe,
            runner,
            embedder=self.embedder,
            ranker=self.ranker,
            features=self.features,
            operator=self.operator,
            trees=self.trees,
            seed=self.seed,
        )


@click.command()
@click.argument("target", metavar="FOLDER_OR_DATASET_ID")
@click.option(
    "--probe",
    envvar="MATCHGRAPH_PROBE",
    help="CLIP model for an image folder: a folder in open_clip's layout, or "
    "MODEL/TAG. It must be the one that the graph's datasets were ingested with. [env: MATCHGRAPH_PROBE]",
)
@click.option(
    "--save", is_flag=True, help="Keep the folder in the graph as a dataset, as `ingest datasets` does."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Also name the smallest set of models that holds the best one with this confidence, such as 0.9.",
)
@method_options
def predict(
    target: str, probe: str | None, save: bool, confidence: float | None, as_json: bool, **options: Any
) -> None:
    """Rank the models for a dataset, without fine-tuning any.

    FOLDER_OR_DATASET_ID is a folder of images, which is compared with the known datasets and left out of the
    graph unless --save is given, or the id of a dataset in the graph, whose own results are then ignored and
    shown beside the prediction.

    With --confidence the method is first tried on each of the graph's other datasets, as `evaluate` does, to
    learn how sure it may be.
    """
    method = Method(**options)
    started = time.perf_counter()
    with progress_bar() as progress:
        prediction, measured, sure = predict_target(target, probe, save, method, progress, confidence)
    seconds = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps(prediction_as_json(prediction, measured, seconds, sure), allow_nan=False))
    else:
        show_prediction(prediction, measured, seconds)
        if sure is not None:
            click.echo(confidence_text(sure))


class Shares(click.ParamType):
    """Budget points: rising shares between 0 and 1, with commas between them."""

    name = "SHARES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        try:
            return value if isinstance(value, tuple) else tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: give shares of the whole cost, such as 0.1,0.2,0.4.", param, ctx)


@click.command()
@click.option(
    "--budget-curve",
    "curve",
    is_flag=True,
    help="Replay instead: hide the results, reveal them in the order of active measurement and others, and "
    "show accuracy against budget.",
)
@click.option(
    "--shares",
    type=Shares(),
    default="0.1,0.2,0.4,0.6",
    show_default=True,
    help="Of --budget-curve: budget points, as shares of the cost of all results.",
)
@click.option(
    "--replays",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Of --budget-curve: repetitions, each with a seed of its own.",
)
@click.option(
    "--removed",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the visible results that is taken away at random in each fold.",
)
@method_options
def evaluate(
    curve: bool, shares: tuple[float, ...], replays: int, removed: float, as_json: bool, **options: Any
) -> None:
    """Leave-one-dataset-out accuracy of the prediction, beside baselines.

    Each dataset in turn loses its results, and the models are ranked for it from what is left. OSR: how often
    the best model was selected. tau_w: agreement of the whole order, mistakes among the best weigh more. O2B:
    how much worse than the model best on average the selected one is (negative: better). O2O: how much worse
    than the best one. Brackets are 95 % bootstrap intervals over datasets; p is that of a paired permutation
    test of the method against each baseline.

    With --budget-curve, a quarter of the datasets at a time stands for those of users and is ranked from the
    results of the others, which are revealed step by step. The method is trained 68 times for each replay and
    its four budget points.
    """
    method = Method(**options)
    started = time.perf_counter()
    if curve:
        from matchgraph.predictor.replay import ReplayConfig

        config = ReplayConfig(shares=shares, replays=replays, seed=method.seed)
        with progress_bar() as progress:
            replayed, basis = replay_graph(method, config, progress)
        seconds = time.perf_counter() - started
        if as_json:
            click.echo(json.dumps(curve_as_json(replayed, basis, seconds), allow_nan=False))
        else:
            show_curve(replayed, basis, seconds)
        return
    with progress_bar() as progress:
        evaluation = evaluate_graph(method, removed, progress)
    seconds = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps(evaluation_as_json(evaluation, seconds), allow_nan=False))
    else:
        show_evaluation(evaluation, seconds)


def predict_target(
    target: str,
    probe: str | None,
    save: bool,
    method: Method,
    progress: Progress,
    confidence: float | None = None,
) -> tuple[Prediction, dict[str, float], Confidence | None]:
    """Find out what is asked about, measure it if it is a folder, and rank the models.

    Returns:
        The prediction, the measured values by model of a dataset that the graph has results of, and how sure
        the prediction is, if that is asked for.

    Raises:
        UnknownTarget: the target is neither a folder nor a dataset of the graph.
        PredictorError, IngestError, GraphError: what measuring the folder or ranking the models met.
    """
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.queries import did_you_mean
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.predictor.confidence import confidence_of, other_folds
    from matchgraph.predictor.matching import predict as predict_for

    if not target:
        raise click.UsageError("The target is empty: name a folder of images or a dataset of the graph.")
    is_folder = Path(target).is_dir()
    if save and not is_folder:
        raise click.UsageError("--save keeps an image folder in the graph; give a folder.")
    progress("connecting", 0, 0)
    with connect() as runner:
        graph = MatchingGraph(runner)
        if is_folder:
            dataset, statistics, similar = measure_new_dataset(graph, Path(target), probe, method, progress)
            if save:
                graph.save_datasets([dataset], [statistics], similar)
            snapshot = load_snapshot(graph, runner, method, similarity=folder_metric())
            check_compared_with(snapshot, statistics.extractor, target)
            about: Dataset | str = dataset
            distances = {(set(pair.pair) - {dataset.id}).pop(): pair.value for pair in similar}
        else:
            snapshot = load_snapshot(graph, runner, method)
            ids = [known.id for known in snapshot.datasets]
            if target not in ids:
                near = (
                    did_you_mean(target, ids)
                    or ". Give a folder of images, or the id of a dataset in the graph."
                )
                raise UnknownTarget(
                    f"{target!r} is neither a folder nor one of the graph's {len(ids)} datasets{near}"
                )
            about, distances = target, {}
        name = about if isinstance(about, str) else about.id
        matcher = method.build(runner)
        costs = load_costs(runner, snapshot, name)
        progress("ranking models", 0, 0)
        prediction = predict_for(snapshot, about, matcher, distances=distances, costs=costs)
        sure = None
        if confidence is not None:
            folds = other_folds(
                snapshot, name, matcher, lambda done, of, held_out: progress(f"trying {held_out}", done, of)
            )
            sure = confidence_of(prediction, folds, confidence)
    own = snapshot.performs[(snapshot.performs["dataset"] == name) & snapshot.performs["value"].notna()]
    measured = {} if is_folder else dict(zip(own["model"], map(float, own["value"]), strict=True))
    return prediction, measured, sure


def measure_new_dataset(
    graph: MatchingGraph, folder: Path, probe: str | None, method: Method, progress: Progress
) -> tuple[Dataset, Statistics, list[Similar]]:
    """Validate and embed an image folder and measure its distance to every known dataset; writes nothing.

    The work is `ingest.tables.datasets`': a predicted folder and an ingested one are the same node with the
    same
    edges.

    Returns:
        The node, its statistics and its similarities.

    Raises:
        ExtractorMismatch: the graph's datasets were embedded by another probe.
        NoSimilarity: the graph has no statistics to compare with.
        IngestError: the folder, or an image in it, cannot be used.
    """
    from matchgraph.ingest.errors import BadInput
    from matchgraph.ingest.tables.datasets import Comparison, dataset_folders, images_hash, read_folders
    from matchgraph.training.measure.extractors import load_clip

    if method.similarity not in (None, folder_metric()):
        raise click.UsageError(f"A folder is compared by {folder_metric()}, not by {method.similarity}.")
    if len(dataset_folders(folder)) > 1:
        raise UnknownTarget(
            f"{folder} holds {len(dataset_folders(folder))} folders: name one of them, with the images."
        )
    known = graph.datasets()
    if probe is None:
        used = sorted(
            {
                f"{d.properties['probe']} ({d.properties.get('extractor')})"
                for d in known
                if "probe" in d.properties
            }
        )
        raise ExtractorMismatch(
            "An image folder needs the probe model that the graph's datasets were embedded with"
            + (f", {', '.join(used)}" if used else "")
            + ": give it with --probe SPEC or in MATCHGRAPH_PROBE."
        )
    extractor = load_clip(probe)
    from matchgraph.predictor.features import check_same_extractor

    check_same_extractor(known, extractor.hash, f"{folder}")
    if not graph.statistics(extractor.hash):
        raise NoSimilarity(
            f"No dataset of the graph has feature statistics by probe {extractor.hash}, so {folder} cannot "
            "be compared with any. Bring image folders in with `matchgraph ingest datasets FOLDER --probe "
            "SPEC`."
        )
    reading = read_folders(folder, on_image=lambda done, of: progress("checking images", done, of))
    if reading.problems:
        raise BadInput(reading.problems, skippable=False)
    found = reading.folders[0]
    progress("embedding images", 0, 0)
    look = Comparison(graph, extractor).look(found, images_hash(found))
    return look.dataset, look.statistics[0], list(look.similar)


def check_compared_with(snapshot: Snapshot, extractor: str, target: str) -> None:
    """Make sure that a folder's distances are by the extractor of those in the graph.

    Raises:
        ExtractorMismatch: they are not.
    """
    from matchgraph.graphdb.repository import NOT_RECORDED

    if snapshot.compared_with not in (None, NOT_RECORDED, extractor):
        raise ExtractorMismatch(
            f"{target} was compared with the graph's datasets by the extractor {extractor}, these with each "
            f"other by {snapshot.compared_with}, and the values cannot be compared: give the probe of the "
            f"latter, or keep to the former with --measured-with {extractor}."
        )


def evaluate_graph(method: Method, removed: float, progress: Progress) -> Evaluation:
    """Run the leave-one-dataset-out evaluation on the graph."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.predictor.evaluation import evaluate as evaluate_snapshot

    progress("connecting", 0, 0)
    with connect() as runner:
        snapshot = load_snapshot(MatchingGraph(runner), runner, method)
        return evaluate_snapshot(
            snapshot,
            method.build(runner),
            seed=method.seed,
            removed=removed,
            progress=lambda done, of, dataset: progress(f"without {dataset}", done, of),
        )


def replay_graph(method: Method, config: ReplayConfig, progress: Progress) -> tuple[BudgetCurve, str]:
    """Replay the graph's results in several orders; also says what the costs rest on."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.predictor.active import pair_hours
    from matchgraph.predictor.replay import budget_curve

    progress("connecting", 0, 0)
    with connect() as runner:
        snapshot = load_snapshot(MatchingGraph(runner), runner, method)
        # No dataset is left out: times are no results.
        hours, basis = pair_hours(snapshot, load_costs(runner, snapshot, ""))
        curve = budget_curve(
            snapshot,
            hours,
            method.build(runner),
            config,
            progress=lambda done, of, what: progress(what, done, of),
        )
    return curve, basis


def folder_metric() -> str:
    """The metric by which image folders are compared."""
    from matchgraph.ingest.tables.datasets import METRIC

    return METRIC


def load_snapshot(
    graph: MatchingGraph, runner: Runner, method: Method, similarity: str | None = None
) -> Snapshot:
    """The graph by the metric asked for.

    Raises:
        UnknownMetricName: no result is in that metric; the message lists those there are.
    """
    from matchgraph.graphdb import queries
    from matchgraph.graphdb.errors import UnknownMetric
    from matchgraph.graphdb.metrics import KNOWN_METRICS

    try:
        snapshot = graph.snapshot(method.metric, similarity or method.similarity, method.measured_with)
        if snapshot.performs["value"].notna().any():
            return snapshot
    except UnknownMetric:
        if method.similarity is not None:
            graph.metric(method.metric)
            raise
    defined = [row["name"] for row in runner.read(queries.load("read/metrics"))]
    rows = runner.read(queries.load("predict/metrics"), names=sorted({*KNOWN_METRICS, *defined}))
    present = ", ".join(f"{row['name']} ({row['results']} results)" for row in rows)
    advice = (
        f"Measured here: {present}; choose with --metric."
        if present
        else "The graph has no results yet: bring some in with `matchgraph ingest results FILE.csv`."
    )
    raise UnknownMetricName(f"No fine-tuned model was measured by {method.metric!r}. {advice}")


def load_costs(runner: Runner, snapshot: Snapshot, dataset: str) -> dict[str, Cost]:
    """What each model takes to use, as far as it is recorded; the dataset's own results are left out."""
    from matchgraph.graphdb import queries
    from matchgraph.predictor.matching import Cost

    rows = runner.read(queries.load("predict/costs"), metric=snapshot.metric.name, dataset=dataset)
    times = {row["model"]: row for row in rows}
    costs = {}
    for model in snapshot.models:
        own = times.get(model.id, {})
        facts = {
            name: number_or_none(model.properties.get(name)) for name in ("params", "tflop", "throughput")
        }
        costs[model.id] = Cost(
            number_or_none(own.get("train_seconds")),
            number_or_none(own.get("sample_seconds_per_image")),
            **facts,
        )
    return costs


def number_or_none(value: object) -> float | None:
    """A finite number, or None for whatever else an attribute may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# -- output


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that is gone when the work is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def note(step: str, done: int, of: int) -> None:
            bar.update(task, description=escape(step), completed=done, total=of or None)

        yield note


def prediction_as_json(
    prediction: Prediction, measured: Mapping[str, float], seconds: float, sure: Confidence | None = None
) -> dict[str, Any]:
    """The answer as plain data; `measured` is null for models without a result, `confidence` where none is
    asked for.
    """
    ranking = []
    for model in prediction.ranking:
        row = asdict(model)
        row["why"] = [asdict(reason) for reason in model.why]
        if measured:
            row["measured"] = measured.get(model.model)
        ranking.append(row)
    return {
        "dataset": prediction.dataset,
        "ranking": ranking,
        "neighbours": [asdict(neighbour) for neighbour in prediction.neighbours],
        "confidence": None if sure is None else confidence_as_json(sure),
        "seconds": seconds,
        "provenance": dict(prediction.provenance),
    }


def confidence_as_json(sure: Confidence) -> dict[str, Any]:
    """The prediction set with what it rests on, as plain data."""
    chosen, coverage = sure.chosen, sure.coverage
    return {
        "confidence": chosen.confidence,
        "models": list(chosen.models),
        "least_p_best": chosen.least_chance,
        "folds": chosen.folds,
        "attainable": chosen.attainable,
        "reason": chosen.reason,
        "coverage": None if coverage is None else interval_as_json(coverage.coverage),
        "size": None if coverage is None else interval_as_json(coverage.size),
    }


def evaluation_as_json(evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """The evaluation as plain data; undefined figures are null."""
    return {
        "methods": [
            {
                "key": summary.key,
                "title": summary.title,
                "figures": {key: interval_as_json(figure) for key, figure in summary.figures.items()},
                "minus_average_rank": {key: interval_as_json(figure) for key, figure in summary.gain.items()},
                "p_value": _plain(summary.p_value),
            }
            for summary in evaluation.summaries
        ],
        "folds": [
            {
                "dataset": fold.dataset,
                "models": fold.models,
                "best": list(fold.best),
                "methods": {
                    key: {"selected": list(score.selected), **_plain(score.figures)}
                    for key, score in fold.scores.items()
                },
                "p_best": dict(fold.p_best),
                "expected_rank": dict(fold.expected_rank),
            }
            for fold in evaluation.folds
        ],
        "skipped": dict(evaluation.skipped),
        "seconds": seconds,
        "provenance": dict(evaluation.provenance),
    }


def curve_as_json(curve: BudgetCurve, basis: str, seconds: float) -> dict[str, Any]:
    """The replay as plain data; undefined figures are null."""

    def plain(figures: Mapping[str, Interval]) -> dict[str, Any]:
        return {key: interval_as_json(figure) for key, figure in figures.items()}

    def plain_lead(lead: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
        return {key: plain(figures) for key, figures in lead.items()}

    return {
        "orders": [
            {
                "key": order.key,
                "title": order.title,
                "points": [
                    {
                        "share": point.share,
                        "hours": point.hours,
                        "pairs": point.pairs,
                        "figures": plain(point.figures),
                        "average_rank": plain(point.average_rank),
                        "lead": plain_lead(point.lead),
                    }
                    for point in order.points
                ],
                "lead": plain_lead(order.lead),
            }
            for order in curve.curves
        ],
        "all_results": plain(curve.everything),
        "hours": curve.hours,
        "hours_from": basis,
        "datasets": curve.datasets,
        "trainings": curve.trainings,
        "seconds": seconds,
        "provenance": dict(curve.provenance),
    }


def show_prediction(prediction: Prediction, measured: Mapping[str, float], seconds: float) -> None:
    """Print the ranking as a table and the answer as a sentence."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    metric = prediction.provenance["metric"]
    table = new_table(f"Models for {prediction.dataset} by {metric}")
    table.add_column("#", justify="right")
    table.add_column("model", overflow="fold")
    for name in ("expected rank", "P(best)", "fine-tuning", "per image"):
        # A number that is cut on a narrow screen would be another number.
        table.add_column(name, justify="right", overflow="fold")
    if measured:
        table.add_column(f"measured {metric}", justify="right", overflow="fold")
    for place, model in enumerate(prediction.ranking, start=1):
        row = [
            str(place),
            model.model,
            f"{model.expected_rank:.1f} ± {model.rank_std:.1f}",
            f"{model.p_best * PERCENT:.0f} %",
            duration(model.cost.train_seconds),
            duration(model.cost.sample_seconds_per_image),
        ]
        if measured:
            row.append(f"{measured[model.model]:.4g}" if model.model in measured else "")
        table.add_row(*row)
    console.print(table)
    console.print(answer(prediction, measured, seconds), soft_wrap=True)


def answer(prediction: Prediction, measured: Mapping[str, float], seconds: float) -> str:
    """The answer in plain sentences: what to take, how sure that is, why, and what was really best."""
    first = prediction.ranking[0]
    lines = [
        f"Fine-tune {first.model}: expected rank {first.expected_rank:.1f} ± {first.rank_std:.1f} of "
        f"{len(prediction.ranking)}, the best one with a probability of {first.p_best * PERCENT:.0f} % "
        f"(answered in {seconds:.1f} s)."
    ]
    if first.why:
        reasons = ", ".join(f"{readable(reason.part)} {reason.lift:+.2f}" for reason in first.why[:4])
        lines.append(f"Moved up (+) or down (-) by: {reasons}.")
    if prediction.neighbours:
        near = "; ".join(
            f"{neighbour.dataset} ({neighbour.similarity:.4g}"
            + (f", best there: {', '.join(neighbour.best)})" if neighbour.best else ")")
            for neighbour in prediction.neighbours
        )
        lines.append(f"Most similar datasets: {near}.")
    if measured:
        largest = prediction.provenance["larger_is_better"]
        best = (max if largest else min)(measured, key=lambda model: measured[model])
        place = next(i for i, model in enumerate(prediction.ranking, start=1) if model.model == best)
        lines.append(f"Measured (and not used): {best} was best, ranked {place} here.")
    return "\n".join(lines)


def confidence_text(sure: Confidence) -> str:
    """The prediction set in plain sentences: which models, why if all, and how such sets did before."""
    chosen, coverage = sure.chosen, sure.coverage
    count = len(chosen.models)
    lines = [
        f"With a confidence of {chosen.confidence:g} the best model is "
        + (f"one of {count}: {', '.join(chosen.models)}." if count > 1 else f"{chosen.models[0]}.")
    ]
    if chosen.reason:
        lines.append(f"{chosen.reason[0].upper()}{chosen.reason[1:]}.")
    if coverage is not None:
        share, size = coverage.coverage, coverage.size
        lines.append(
            f"On the other {share.count} datasets such sets, each learned from the rest, had "
            f"{size.value:.1f} models on average and held the best one in {share.value * PERCENT:.0f} % "
            f"[{share.low * PERCENT:.0f}, {share.high * PERCENT:.0f}]."
        )
    return "\n".join(lines)


def readable(part: str) -> str:
    """The name of a part of the input as people say it."""
    names = {"dataset": "the dataset's embedding", "graph": "the graph", "general": "results anywhere"}
    return names.get(part, part.removeprefix("model:"))


def duration(seconds: float | None) -> str:
    """A time in its own unit; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.3g} s"


def show_evaluation(evaluation: Evaluation, seconds: float) -> None:
    """Print the table of all methods and what to make of it."""
    from matchgraph.cli.rendering import new_table, stdout_console
    from matchgraph.predictor.metrics import SELECTION_METRICS

    console = stdout_console()
    metric = evaluation.provenance["metric"]
    table = new_table(f"Leave-one-dataset-out over {len(evaluation.folds)} datasets by {metric}")
    table.add_column("method", overflow="fold")
    for figure in SELECTION_METRICS:
        table.add_column(
            f"{figure.title} {'↑' if figure.larger_is_better else '↓'}", justify="right", overflow="fold"
        )
    for summary in evaluation.summaries:
        cells = []
        for figure in SELECTION_METRICS:
            own = summary.figures[figure.key]
            cell = f"{own.value:.3g}\n[{own.low:.3g}, {own.high:.3g}]" if own.count else "not available"
            if own.count and figure.key in summary.p_value:
                cell += f"\np {p_value_text(summary.p_value[figure.key])}"
            cells.append(cell)
        table.add_row(summary.title, *cells)
    console.print(table)
    for dataset, reason in evaluation.skipped.items():
        console.print(f"Not held out: {dataset} ({reason}).", soft_wrap=True)
    console.print(verdict(evaluation, seconds), soft_wrap=True)


def p_value_text(p: float) -> str:
    """A p-value as people write it; "n/a" where there was nothing to compare."""
    if math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def show_curve(curve: BudgetCurve, basis: str, seconds: float) -> None:
    """Print accuracy against budget for all orders, and what to make of it."""
    from matchgraph.cli.rendering import new_table, stdout_console
    from matchgraph.predictor.active import SECONDS_PER_HOUR

    console = stdout_console()
    metric = curve.provenance["metric"]
    table = new_table(f"Accuracy by budget on {curve.datasets} datasets by {metric}: τ_w, and OSR below it")
    table.add_column("budget", justify="right")
    for order in curve.curves:
        table.add_column(order.title, justify="right", overflow="fold")
    for row in zip(*(order.points for order in curve.curves), strict=True):
        budget = f"{row[0].share:.0%}\n{duration(row[0].share * curve.hours * SECONDS_PER_HOUR)}"
        table.add_row(budget, *(curve_cell(point.figures) for point in row))
    whole = f"100%\n{duration(curve.hours * SECONDS_PER_HOUR)}"
    table.add_row(whole, curve_cell(curve.everything), *[""] * (len(curve.curves) - 1))
    console.print(table)
    active = curve.curves[0]
    for other in curve.curves[1:]:
        lead = active.lead[other.key]
        console.print(curve_verdict(active.title, other.title, lead["tau_w"], lead["osr"]), soft_wrap=True)
    console.print(
        f"Costs from {basis}. The method was trained {curve.trainings} times in {seconds:.0f} s.",
        soft_wrap=True,
    )


def curve_cell(figures: Mapping[str, Interval]) -> str:
    """One budget point of one order: the agreement of the order with its interval, and the hits."""
    tau = figures["tau_w"]
    return f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]\n{figures['osr'].value * PERCENT:.0f} %"


def curve_verdict(active: str, other: str, tau: Interval, osr: Interval) -> str:
    """Whether one order is better than another over all budget points, in a sentence."""
    if tau.low > 0:
        judged = "teaches more than"
    elif tau.high < 0:
        judged = "teaches less than"
    else:
        judged = "does not clearly differ from"
    return (
        f"{active} {judged} {other.lower()} at equal budget: τ_w {tau.value:+.3f} [{tau.low:+.3f}, "
        f"{tau.high:+.3f}], OSR {osr.value:+.3f} [{osr.low:+.3f}, {osr.high:+.3f}], mean over the budgets."
    )


def verdict(evaluation: Evaluation, seconds: float) -> str:
    """Whether the method beats the average rank, in a sentence."""
    method = evaluation.summaries[0]
    gain = method.gain["tau_w"]
    if not gain.count:
        judged = "cannot be compared with the average rank"
    elif gain.low > 0:
        judged = "orders models better than their average rank does"
    elif gain.high < 0:
        judged = "orders models worse than their average rank does: prefer that"
    else:
        judged = "is not clearly better or worse than the average rank"
    return (
        f"{method.title} {judged}: τ_w differs by {gain.value:+.3f}, 95 % interval [{gain.low:+.3f}, "
        f"{gain.high:+.3f}] over {gain.count} datasets ({seconds:.0f} s)."
    )


def interval_as_json(interval: Interval) -> dict[str, Any]:
    """A mean over datasets, its interval, and how many datasets count."""
    ends = {"mean": interval.value, "low": interval.low, "high": interval.high}
    return {**_plain(ends), "folds": interval.count}


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in figures.items()
    }
