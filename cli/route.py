"""`matchgraph route`: from scored prompts to a router and its decisions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from matchgraph.cli.curve import SHOWN, curve
from matchgraph.cli.display import show_work
from matchgraph.cli.given import mix, scores
from matchgraph.cli.groups import SuggestingGroup
from matchgraph.cli.options import (
    FiniteRange,
    data_folder,
    device_option,
    encoder_option,
    gpu_memory_option,
    json_option,
    listening_options,
    opened_graph,
    out_option,
    probe_option,
    scorer_options,
    seed_option,
    settings_options,
)
from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import BUDGETS, Budget
from matchgraph.routing.store import Kind
from matchgraph.training.measure.scorers import SCORE_METRICS

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit
    from matchgraph.routing.router import Decision
    from matchgraph.routing.store import RouterStore

# A serving stack prefers an error at once to waiting until the driver gives up.
SERVING_PATIENCE_S = 1.0

network_option = probe_option(note="Only `--kind network` needs it.")
metric_option = click.option(
    "--metric", default="clip_score", show_default=True, help="Quality metric to route by."
)
lambda_option = click.option(
    "--lambda",
    "lam",
    type=FiniteRange(0),
    help="Quality that a unit of cost is worth; by default the calibrated value.",
)


def budget_option(help: str, unit: Unit = "TFLOP", *, required: bool = False) -> Any:
    """`--budget-tflop`, or that of another unit.

    Args:
        help: what the budget is for.
        unit: of the budget.
        required: whether it must be given.
    """
    return click.option(
        f"--{BUDGETS[unit].replace('_', '-')}",
        type=FiniteRange(0, min_open=True),
        metavar=unit.upper(),
        required=required,
        help=help,
    )


def budget_options(help: str, *, required: bool = False) -> Any:
    """A budget in the unit of the candidates' costs; the command gets it as `budget`.

    Args:
        help: what the budget is for.
        required: whether one must be given.
    """

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def called(*args: Any, **options: Any) -> Any:
            given = {unit: cost for unit, name in BUDGETS.items() if (cost := options.pop(name)) is not None}
            if len(given) > 1 or (required and not given):
                names = ", ".join(f"--{name.replace('_', '-')}" for name in BUDGETS.values())
                raise click.UsageError(f"Give one of {names}.")
            budget = next((Budget(cost, unit) for unit, cost in given.items()), None)
            return command(*args, budget=budget, **options)

        for unit in reversed(tuple(BUDGETS)):
            called = budget_option(f"{help} For candidates with costs in {unit}.", unit)(called)
        return called

    return decorated


class Numbers(click.ParamType):
    """Numbers separated by commas, without repeats.

    Args:
        kind: int or float.
        at_least: the smallest number.
    """

    name = "NUMBERS"

    def __init__(self, kind: type, at_least: float = 0) -> None:
        self._kind, self._at_least = kind, at_least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(self._kind(part) for part in value.split(",") if value))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas.", param, ctx)
        if not all(number >= self._at_least for number in numbers):
            self.fail(f"{value!r}: the smallest number allowed is {self._at_least:g}.", param, ctx)
        return numbers


def router_store() -> RouterStore:
    """The fitted routers of the environment's data folder."""
    from matchgraph.routing.store import RouterStore

    return RouterStore(data_folder())


@click.group(cls=SuggestingGroup)
def route() -> None:
    """Route each prompt to the model and number of steps that are worth their cost.

    `prompts` and `variants` add prompts and candidates, `score` draws and scores images; `scores` adds scores
    of your own instead. `fit` learns from the scores, and `calibrate` turns a budget into lambda. Then `ask`
    decides for a prompt.
    """


for each in (scores, mix, curve):
    route.add_command(each)


@route.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@encoder_option
@click.option(
    "--largest-similarity",
    type=click.FloatRange(0, 1.01),
    default=0.75,
    show_default=True,
    help="Leave out prompts whose similarity to an earlier one is at least this; above 1: keep all.",
)
@seed_option("the split")
@json_option
def prompts(path: Path, probe: str, largest_similarity: float, seed: int, as_json: bool) -> None:
    """Add prompts: a text file with one per line, or JSON Lines or CSV with a field prompt.

    Prompts too similar to others are left out; the rest is split into training (80 %), validation (10 %) and
    test prompts (10 %). Adding the same file again changes nothing.
    """
    from matchgraph.routing.workflow import add_prompts

    with opened_graph() as (_, runner):
        added = add_prompts(runner, path, probe, largest_similarity=largest_similarity, seed=seed)
    for note in added.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        left_out = [text for text, _ in added.left_out]
        told = {"read": added.read, "kept": added.kept, "splits": added.splits, "left_out": left_out}
        click.echo(json.dumps(told))
        return
    counts = ", ".join(f"{added.splits[name]} for {name}" for name in ("train", "validation", "test"))
    click.echo(f"{added.read} prompts read, {added.kept} kept: {counts}.")
    for text, similarity in added.left_out[:SHOWN]:
        click.echo(f"Left out: {text!r} (cosine {similarity:.2f} to a prompt that is kept).", err=True)
    if (more := len(added.left_out) - SHOWN) > 0:
        click.echo(f"{more} more are left out; --json lists all of them.", err=True)


@route.command()
@click.option(
    "--model", "models", multiple=True, metavar="ID", help="Model to route to; all by default. Repeatable."
)
@click.option(
    "--steps", required=True, metavar="N,N,...", type=Numbers(int, 1), help="Numbers of denoising steps."
)
@settings_options(
    Drawing,
    only=("guidance", "sampler", "resolution_px", "cache_interval", "precision"),
    resolution_px={"default": None, "help": "Side of the images, in pixels; the pipeline's own by default."},
)
@json_option
def variants(as_json: bool, **options: Any) -> None:
    """Add candidates: models of the graph at given numbers of steps, with their cost in TFLOP."""
    from matchgraph.routing.workflow import add_variants

    with opened_graph() as (_, runner):
        made = add_variants(runner, **options)
    if as_json:
        click.echo(json.dumps([variant.flat() for variant in made]))
        return
    for variant in made:
        click.echo(f"{variant.id}: {variant.cost:.4g} {variant.unit} per image")


@route.command()
@probe_option(required=True)
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(SCORE_METRICS),
    multiple=True,
    default=("clip_score",),
    show_default=True,
    help="Quality metric. Repeatable.",
)
@scorer_options
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Images per prompt.")
@click.option(
    "--variant", "variants", multiple=True, metavar="ID", help="Candidate; all by default. Repeatable."
)
@seed_option("the noise")
@device_option
@gpu_memory_option
def score(
    probe: str,
    metrics: tuple[str, ...],
    weights: Mapping[str, Path | None],
    device: str,
    **options: Any,
) -> None:
    """Draw images for all prompts with all candidates, and score them.

    Existing scores are kept, so after Ctrl-C or a crash the same command resumes.
    """
    from matchgraph.progress import progress_bar
    from matchgraph.routing.workflow import score as score_prompts
    from matchgraph.training.measure.scorers import load_scorers

    scorers = load_scorers(metrics, probe, weights=weights, device=device)
    with opened_graph() as (_, runner), progress_bar() as progress:
        drawn = score_prompts(
            runner, scorers, device=device, on_progress=progress, on_work=show_work, **options
        )
    click.echo(f"{drawn} images drawn and scored.")


@route.command()
@network_option
@metric_option
@click.option(
    "--kind",
    type=click.Choice(get_args(Kind)),
    default="gaussian",
    show_default=True,
    help="A Gaussian process over prompts, the mean score of the nearest prompts in the graph's vector index "
    "(knn), or a network on the prompt's tokens.",
)
@click.option(
    "--neighbours",
    type=click.IntRange(1),
    help="For knn: number of neighbours; by default chosen on the validation prompts.",
)
@seed_option("the network")
def fit(metric: str, probe: str | None, **options: Any) -> None:
    """Fit the router: learn to predict each candidate's quality for a prompt."""
    from matchgraph.routing.workflow import fit as fit_metric

    with opened_graph() as (_, runner):
        path, candidates = fit_metric(runner, router_store(), metric, probe, **options)
    click.echo(f"Saved a router for {metric} over {candidates} candidates to {path}.")


@route.command()
@network_option
@metric_option
@budget_options("Average cost per image.", required=True)
@json_option
def calibrate(probe: str | None, metric: str, budget: Budget, as_json: bool) -> None:
    """Find the lambda that keeps the average cost on the validation prompts within a budget."""
    from matchgraph.routing.workflow import calibrate as calibrate_router

    with opened_graph() as (_, runner):
        found = calibrate_router(runner, router_store(), metric, budget, probe)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "lambda": found.lam,
                    "budget": budget.cost,
                    "unit": budget.unit,
                    "validation_cost": found.validation_cost,
                }
            )
        )
        return
    click.echo(
        f"lambda {found.lam:.6g} spends {found.validation_cost:.4g} of {budget.cost:.4g} {budget.unit} per "
        "image on the validation prompts."
    )


@route.command()
@click.argument("prompt")
@encoder_option
@metric_option
@budget_options("Average cost per image; by default the budget that the router was calibrated for.")
@lambda_option
@click.option(
    "--least",
    type=FiniteRange(),
    metavar="QUALITY",
    help="Quality that counts as a success: shows each candidate's probability of reaching it.",
)
@json_option
def ask(
    prompt: str,
    probe: str,
    metric: str,
    budget: Budget | None,
    lam: float | None,
    least: float | None,
    as_json: bool,
) -> None:
    """Show which candidate is worth its cost for a prompt.

    P(best) is the probability that a candidate's images are the best for this prompt, from errors on
    validation and left-out training prompts; `curve` measures how reliable these probabilities are.
    """
    if budget is not None and lam is not None:
        raise click.UsageError("Give a budget or --lambda, not both.")
    from matchgraph.routing.workflow import decide

    with opened_graph() as (_, runner):
        [decision] = decide(
            runner, router_store(), [prompt], metric, probe, budget=budget, lam=lam, least=least
        )
    if as_json:
        click.echo(json.dumps(decision.to_dict()))
        return
    show_decision(decision, metric)


@route.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@encoder_option
@metric_option
@lambda_option
@out_option("Folder for the images.", required=True)
@seed_option("the noise")
@device_option
@gpu_memory_option
def generate(prompts: tuple[str, ...], metric: str, probe: str, out: Path, **options: Any) -> None:
    """Draw each prompt with the candidate that it is routed to."""
    from matchgraph.routing.workflow import generate as generate_images

    with opened_graph() as (_, runner):
        for drawn in generate_images(
            runner, router_store(), prompts, metric, probe, out, on_work=show_work, **options
        ):
            click.echo(f"{drawn.path}: {drawn.prompt!r} by {drawn.variant}, {drawn.cost:.4g} {drawn.unit}")


@route.command()
@encoder_option
@click.option(
    "--metric", "metrics", multiple=True, help="Routers to serve; all fitted ones by default. Repeatable."
)
@listening_options(port=8080)
def serve(probe: str, metrics: tuple[str, ...], host: str, port: int) -> None:
    """Serve decisions over HTTP: POST /v1/route; see /docs."""
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.routing.serving import listening, load_served, web_server

    try:
        from matchgraph.routing.service import create_app
    except ModuleNotFoundError as error:
        raise click.UsageError(f"{error.name} is not installed: pip install 'matchgraph[serve]'.") from None
    with (
        listening(host, port) as address,
        opened_graph() as (_, patient),
        patient.with_patience(SERVING_PATIENCE_S) as runner,
    ):
        served = load_served(router_store(), PromptGraph(runner), probe, metrics)
        server = web_server(create_app(served, runner.verify), host, port)
        # From here on a request waits for its answer; uvicorn does not name a socket that it was given.
        address.listen()
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"Serving on http://{shown}:{address.getsockname()[1]} (Ctrl-C to stop)", err=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[address])


def show_decision(decision: Decision, metric: str) -> None:
    """Print all candidates and the one chosen."""
    from matchgraph.cli.rendering import new_table, stdout_console
    from matchgraph.routing.sentences import decision_text

    console = stdout_console()
    table = new_table("")
    chances = {
        "P(best)": [option.p_best for option in decision.options],
        "P(success)": [option.p_success for option in decision.options],
    }
    shown = {name: own for name, own in chances.items() if any(chance is not None for chance in own)}
    for title in ("candidate", metric, decision.unit, *shown):
        table.add_column(title, justify="left" if title == "candidate" else "right")
    for number, option in enumerate(decision.options):
        quality = "?" if option.quality is None else f"{option.quality:.4f}"
        quality += "" if option.std is None else f" ± {option.std:.4f}"
        here = [own[number] for own in shown.values()]
        likely = ["?" if chance is None else f"{100 * chance:.0f} %" for chance in here]
        table.add_row(option.variant, quality, f"{option.cost:.4g}", *likely)
    console.print(table)
    console.print(decision_text(decision, metric), soft_wrap=True)
