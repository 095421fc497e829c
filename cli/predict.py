"""`matchgraph predict` and `matchgraph evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from matchgraph.cli.options import (
    FiniteRange,
    caption_column_option,
    configuration,
    extractor_option,
    json_option,
    opened_graph,
    probe_option,
    settings_options,
)
from matchgraph.predictor.config import GROUP_KINDS, MODEL, ReplayConfig
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.starting import StartingPoint
from matchgraph.progress import progress_bar
from matchgraph.training.config import FineTuneConfig

if TYPE_CHECKING:
    from matchgraph.ingest.tables.new_dataset import NewFolder
    from matchgraph.usable import Conditions

method_options = settings_options(
    Method,
    only=(
        "metric",
        "similarity",
        "measured_with",
        "recipe",
        "embedder",
        "ranker",
        "features",
        "operator",
        "trees",
        "seed",
    ),
)


class Gibibytes(FiniteRange):
    """Memory of a graphics card in GiB; the unit may stand behind it, as cards are sold."""

    name = "GIB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if isinstance(value, str):
            value = value.strip().upper().removesuffix("B").removesuffix("I").removesuffix("G")
        return super().convert(value, param, ctx)


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
@click.argument("target", metavar="FOLDER_OR_DATASET_ID")
@probe_option(note="For a folder of images: the model that the graph's datasets were ingested with.")
@caption_column_option
@click.option(
    "--save", is_flag=True, help="Add the folder to the graph as a dataset, as `ingest datasets` does."
)
@click.option(
    "--confidence",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Also name the smallest set of models that contains the best one with this confidence, such as 0.9.",
)
@click.option(
    "--measure",
    type=click.IntRange(min=1),
    metavar="K",
    help="Fine-tune and measure the first K models in turn, then decide; the results stay in the graph.",
)
@click.option(
    "--budget-hours",
    type=FiniteRange(0, min_open=True),
    metavar="HOURS",
    help="Measure as many models as fit into this time on one device; --measure limits their number.",
)
@click.option(
    "--fits",
    type=Gibibytes(0, min_open=True),
    metavar="GIB",
    help="Only models whose fine-tuning fits a graphics card with this much memory, such as 24GB.",
)
@click.option(
    "--license",
    "licences",
    multiple=True,
    metavar="NAME",
    help="Only models under this licence, as their model cards name it; `*` stands for any text. Repeatable.",
)
@extractor_option
@settings_options(FineTuneConfig, only=("device",))
@method_options
@json_option
def predict(
    target: str,
    probe: str | None,
    caption_column: str | None,
    save: bool,
    confidence: float | None,
    measure: int | None,
    budget_hours: float | None,
    fits: float | None,
    licences: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Rank the models for a dataset; with --measure, measure the likeliest and decide.

    FOLDER_OR_DATASET_ID is a folder of images or the id of a dataset in the graph. A folder is compared with
    the known datasets, and not added to the graph unless --save or --measure is given. A dataset's own
    results are not used for its ranking, only shown next to it.

    With --measure or --budget-hours, the likeliest models are fine-tuned with the settings of the graph's
    results, each once; after Ctrl-C the same command continues. It stops early when one model is the best
    with a probability of 95 %. Results that the graph already has for the dataset count as measured.

    As long as the graph has no results, the models that `ingest published` added are listed by their
    published average rank, and the answer says so.

    With --fits or --license, all other models are left out as if they were not in the graph, including those
    whose memory or licence is unknown; the answer names them.

    With --confidence, the method is first run on each of the graph's other datasets, as in `evaluate`, to
    calibrate the set (conformal prediction).
    """
    from matchgraph.cli.answers import measuring_command, show_answer, show_start
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.tables import new_dataset
    from matchgraph.predictor import workflow
    from matchgraph.usable import Conditions

    method, asked = configuration(Method, options), new_dataset.target(target, probe, caption_column)
    conditions = Conditions(fits, licences)
    if measure is not None or budget_hours is not None:
        decided(asked, method, conditions, measure, budget_hours, probe, as_json, options)
        return
    with progress_bar() as progress, opened_graph() as (graph, _):
        home = settings_from_environment().home
        method, notes = conditions.applied(graph, home, method)
        answer = workflow.predict_or_start(
            graph,
            asked,
            method=method,
            save=save,
            confidence=confidence,
            home=home,
            on_progress=progress,
        )
    answer = replace(answer, notes=(*answer.notes, *notes))
    if as_json:
        click.echo(json.dumps(answer.to_dict(), allow_nan=False))
    elif isinstance(answer, StartingPoint):
        show_start(answer)
    else:
        show_answer(answer, measure=measuring_command(target, answer, conditions))


def decided(
    target: str | NewFolder,
    method: Method,
    conditions: Conditions,
    measure: int | None,
    budget_hours: float | None,
    probe: str | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Measure the shortlist and print the decision."""
    from matchgraph.cli.answers import show_decision
    from matchgraph.cli.display import run_bar
    from matchgraph.cli.runs import announce_stop
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.ingest.runs.worker import GRACE_S, WorkerOptions, stopped_by_signals
    from matchgraph.shortlist import measure_and_decide

    with (
        opened_graph() as (graph, _),
        stopped_by_signals(announce_stop, grace_s=GRACE_S) as stop,
        run_bar() as reporter,
    ):
        settings = settings_from_environment()
        method, notes = conditions.applied(graph, settings.home, method)
        for note in notes:
            reporter.notice(note)
        found = measure_and_decide(
            graph,
            settings,
            target,
            measure=measure,
            budget_hours=budget_hours,
            method=method,
            probe=probe,
            extractors=tuple(options["extractors"]),
            options=configuration(WorkerOptions, options),
            on_progress=lambda step, done, of: reporter.step(step, done, of, None),
            reporter=reporter,
            stop=stop,
        )
    found = replace(found, notes=notes)
    if as_json:
        click.echo(json.dumps(found.to_dict(), allow_nan=False))
    else:
        show_decision(found, method.metric)


@click.command()
@click.option(
    "--budget-curve",
    "curve",
    is_flag=True,
    help="Show accuracy over budget instead: hide all results, and reveal them in the order of active "
    "measurement and in simpler orders.",
)
@settings_options(
    ReplayConfig,
    shares={
        "type": Shares(),
        "multiple": False,
        "show_default": ",".join(f"{share:g}" for share in ReplayConfig.shares),
    },
)
@click.option(
    "--removed",
    type=FiniteRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the visible results to remove at random in each fold.",
)
@click.option(
    "--hold-out",
    type=click.Choice((*GROUP_KINDS, MODEL)),
    help="Hold out all datasets of a style, a category (a property of the datasets, or the part of the id "
    "before or after the last hyphen) or a cluster of similar ones together; or each model, as if it had "
    "never been measured.",
)
@click.option(
    "--measure",
    type=click.IntRange(min=1),
    metavar="K",
    help="Also show the outcome of measuring the first K models and taking the best of them.",
)
@method_options
@json_option
def evaluate(
    curve: bool,
    shares: tuple[float, ...],
    replays: int,
    removed: float,
    hold_out: str | None,
    measure: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Leave-one-dataset-out accuracy of the prediction, against baselines.

    The results of each dataset are hidden in turn, and the models are ranked for it from the rest. OSR: how
    often the best model was selected. tau_w: agreement of the whole order; errors among the best models weigh
    more. O2B: how much worse the selected model is than the one that is best on average (negative: better).
    O2O: how much worse than the best one; both in the metric's own unit. Brackets are 95 % bootstrap
    intervals over datasets; p is from a paired permutation test of the method against each baseline.

    With --hold-out model, each model loses all its results and is placed among the others by its properties.

    With --budget-curve, a quarter of the datasets at a time is treated as new and ranked from the results of
    the others, which are revealed step by step. The method is trained 68 times per replay with four budget
    points.
    """
    from matchgraph.cli import answers
    from matchgraph.predictor import workflow
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.new_models import NewModels
    from matchgraph.predictor.replay import BudgetCurve

    if hold_out == MODEL and (curve or removed or measure):
        raise click.UsageError(
            "--hold-out model goes without --budget-curve, --removed and --measure: leave them out."
        )
    method = configuration(Method, options)
    config = ReplayConfig(shares=shares, replays=replays, seed=method.seed)
    found: NewModels | BudgetCurve | Evaluation
    with progress_bar() as progress, opened_graph() as (graph, _):
        if hold_out == MODEL:
            found = workflow.evaluate_new_models(graph, method=method, on_progress=progress)
        elif curve:
            found = workflow.evaluate_by_budget(graph, method=method, config=config, on_progress=progress)
        else:
            found = workflow.evaluate(
                graph,
                method=method,
                removed=removed,
                hold_out=hold_out,
                measure=measure or 0,
                on_progress=progress,
            )
    if as_json:
        click.echo(json.dumps(found.to_dict(), allow_nan=False))
    elif isinstance(found, NewModels):
        answers.show_new_models(found)
    elif isinstance(found, BudgetCurve):
        answers.show_curve(found)
    else:
        answers.show_evaluation(found)
