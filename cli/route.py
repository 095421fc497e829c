"""`matchgraph route`: from scored prompts to a router, and what it decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.router import Decision, Router
    from matchgraph.routing.store import Fitted, Kind, RouterStore
    from matchgraph.training.measure.prompts import EncodedPrompts
    from matchgraph.training.measure.quality import Scorer

METRICS = ("clip_score", "sharpness", "aesthetic", "image_reward")
KINDS = ("gaussian", "knn", "network")
# A serving stack would rather be told at once than wait until the driver gives up.
SERVING_PATIENCE_S = 1.0

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
probe_option = click.option(
    "--probe",
    envvar="MATCHGRAPH_PROBE",
    required=True,
    help="CLIP that reads prompts and looks at images: a folder in open_clip's layout, or MODEL/TAG. "
    "[env: MATCHGRAPH_PROBE]",
)
metric_option = click.option(
    "--metric", default="clip_score", show_default=True, help="Quality metric to route by."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="`auto` or a torch device name."
)


def seed_option(of: str) -> Callable[..., Any]:
    """`--seed`, of what."""
    return click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=f"Of {of}.")


aesthetic_option = click.option(
    "--aesthetic-weights",
    type=click.Path(path_type=Path),
    help="Of --metric aesthetic: a safetensors file, or OWNER/NAME on the hub.",
)
reward_option = click.option(
    "--reward-weights",
    type=click.Path(path_type=Path),
    help="Of --metric image_reward: a folder, see `training/reward.py`, or OWNER/NAME on the hub.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def route() -> None:
    """Route each prompt to the model and the steps that are worth their cost.

    First `prompts` and `variants` say what there is to route, `score` draws and scores images, `fit` learns
    from the scores, and `calibrate` turns a budget into lambda. Then `ask` decides for a prompt.
    """


@contextmanager
def prompt_graph() -> Iterator[tuple[PromptGraph, Runner]]:
    """The prompt level of the graph that the environment names, with its connection."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.prompts import PromptGraph

    with connect() as runner:
        yield PromptGraph(runner), runner


def store() -> RouterStore:
    """The fitted routers of the environment's data folder."""
    from matchgraph.graphdb.connection import settings_from_environment
    from matchgraph.routing.store import RouterStore

    return RouterStore(settings_from_environment().home)


@route.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@probe_option
@click.option(
    "--largest-similarity",
    type=click.FloatRange(0, 1.01),
    default=0.75,
    show_default=True,
    help="Of two prompts whose CLIP similarity is at least this, the later is left out; above 1: none.",
)
@seed_option("the split")
@json_option
def prompts(path: Path, probe: str, largest_similarity: float, seed: int, as_json: bool) -> None:
    """Add prompts: a text file with one on each line, or JSON Lines or CSV with a field prompt.

    Prompts too similar to others are left out; of the rest 80 % are to learn from, 10 % to choose by, and
    10 % to report. Adding the same file again changes nothing.
    """
    from collections import Counter

    from matchgraph.graphdb.prompts import Prompt, check_prompt
    from matchgraph.routing.errors import NoPrompts
    from matchgraph.routing.prompts import split, unlike
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.prompt_files import read_prompt_file

    found = read_prompt_file(path)
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)
    for number, text in found.lines:
        try:
            check_prompt(text)
        except Exception as error:
            raise click.UsageError(f"{path}, line {number}: {error}") from None
    texts = found.texts
    if not texts:
        raise NoPrompts(f"{path} holds no prompt: write one on each line.")
    encoder = load_prompt_encoder(probe)
    encoded = encoder.encode(texts)
    kept = unlike(encoded.embeddings, largest_similarity)
    names = split(len(kept), seed)
    with prompt_graph() as (graph, _):
        graph.save_prompts(
            [
                Prompt(texts[number], name, encoder.hash, encoded.embeddings[number])
                for number, name in zip(kept, names, strict=True)
            ]
        )
    counts = Counter(names)
    if as_json:
        click.echo(json.dumps({"read": len(texts), "kept": len(kept), "splits": counts}))
        return
    click.echo(
        f"{len(texts)} prompts read, {len(kept)} kept: "
        + ", ".join(f"{counts[name]} for {name}" for name in ("train", "validation", "test"))
        + "."
    )


@route.command()
@click.option(
    "--model", "models", multiple=True, metavar="ID", help="Model to serve; all by default. Repeatable."
)
@click.option("--steps", required=True, metavar="N,N,...", help="Numbers of denoising steps.")
@click.option("--guidance", type=float, help="Classifier-free guidance scale; by default the model family's.")
@click.option("--sampler", metavar="CLASS", help="Scheduler of diffusers; by default the model's own.")
@click.option("--resolution", type=click.IntRange(8), help="Side of the images; 512 or the pipeline's own.")
@click.option(
    "--cache-interval",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="With DeepCache (U-Nets only): steps from one whole pass to the next.",
)
@json_option
def variants(
    models: tuple[str, ...],
    steps: str,
    guidance: float | None,
    sampler: str | None,
    resolution: int | None,
    cache_interval: int,
    as_json: bool,
) -> None:
    """Add candidates: models of the graph at some numbers of steps, priced from their configuration."""
    from matchgraph.routing.variants import variants_of

    counts = parse_steps(steps)
    made = []
    with prompt_graph() as (graph, runner):
        folders = model_folders(runner)
        for model in models or sorted(folders):
            if model not in folders:
                raise click.UsageError(f"There is no pipeline folder of {model!r}: ingest one first.")
            made += variants_of(
                model,
                folders[model],
                counts,
                resolution_px=resolution,
                guidance=guidance,
                sampler=sampler,
                cache_interval=cache_interval,
            )
        graph.save_variants(made)
    if as_json:
        click.echo(json.dumps([variant.flat() for variant in made]))
        return
    for variant in made:
        click.echo(f"{variant.id}: {variant.tflop:.4g} TFLOP an image")


def parse_steps(text: str) -> list[int]:
    """Numbers of steps from `1,4,20`."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: write whole numbers with commas between.") from None
    if min(counts) < 1:
        raise click.BadParameter(f"{text!r}: steps begin at 1.")
    return counts


def model_folders(runner: Runner) -> dict[str, Path]:
    """Folders of the graph's models that have one, by id."""
    from matchgraph.graphdb.repository import MatchingGraph

    return {
        model.id: Path(str(model.properties["source"]))
        for model in MatchingGraph(runner).models()
        if "source" in model.properties
    }


@route.command()
@probe_option
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(METRICS),
    multiple=True,
    default=("clip_score",),
    show_default=True,
    help="Quality metric. Repeatable.",
)
@aesthetic_option
@reward_option
@click.option(
    "--samples", type=click.IntRange(1), default=4, show_default=True, help="Images for each prompt, S."
)
@click.option(
    "--variant", "chosen", multiple=True, metavar="ID", help="Candidate; all by default. Repeatable."
)
@seed_option("the noise")
@device_option
def score(
    probe: str,
    metrics: tuple[str, ...],
    aesthetic_weights: Path | None,
    reward_weights: Path | None,
    samples: int,
    chosen: tuple[str, ...],
    seed: int,
    device: str,
) -> None:
    """Draw images for all prompts with all candidates, and score them.

    What is scored already is not drawn again, so after Ctrl-C or a crash the same command goes on where it
    stopped.
    """
    from matchgraph.cli.display import progress_bar
    from matchgraph.routing.scoring import score_variants

    scorers = load_scorers(metrics, probe, aesthetic_weights, reward_weights, device)
    with prompt_graph() as (graph, runner), progress_bar() as progress:
        there = graph.variants()
        if unknown := sorted(set(chosen) - {variant.id for variant in there}):
            raise click.UsageError(f"There is no candidate {unknown[0]!r}: add it with `route variants`.")
        drawn = score_variants(
            graph,
            model_folders(runner),
            scorers,
            samples=samples,
            seed=seed,
            variants=[variant for variant in there if not chosen or variant.id in chosen],
            device=device,
            on_progress=progress,
        )
    click.echo(f"{drawn} images drawn and scored.")


def load_scorers(
    metrics: Sequence[str], probe: str, aesthetic: Path | None, reward: Path | None, device: str
) -> list[Scorer]:
    """The scorers of some metrics."""
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.measure.quality import AestheticScore, ClipScore, Sharpness
    from matchgraph.training.measure.reward import ImageReward

    made: dict[str, Callable[[], Scorer]] = {
        "clip_score": lambda: ClipScore(
            load_clip(probe, device=device), load_prompt_encoder(probe, device=device)
        ),
        "sharpness": Sharpness,
        "aesthetic": lambda: AestheticScore(
            load_clip(probe, device=device), _given(aesthetic, "--aesthetic-weights FILE.safetensors")
        ),
        "image_reward": lambda: ImageReward(_given(reward, "--reward-weights FOLDER"), device=device),
    }
    return [made[metric]() for metric in dict.fromkeys(metrics)]


def _given(weights: Path | None, option: str) -> Path:
    if weights is None:
        raise click.UsageError(f"This metric needs {option}.")
    return weights


@route.command()
@probe_option
@metric_option
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="gaussian",
    show_default=True,
    help="A Gaussian process over prompts, the mean of the nearest ones in the graph's vector index, or a "
    "network on the prompt's tokens.",
)
@click.option(
    "--neighbours",
    type=click.IntRange(1),
    help="Of knn: K. By default what routes the validation prompts best.",
)
@click.option(
    "--caution",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Standard errors by which estimates are lowered before they are compared.",
)
@seed_option("the network")
def fit(probe: str, metric: str, kind: Kind, neighbours: int | None, caution: float, seed: int) -> None:
    """Learn from the scores what quality to expect of each candidate for a prompt."""
    from matchgraph.routing.fitting import fit_router
    from matchgraph.training.measure.prompts import load_prompt_encoder

    encoder = load_prompt_encoder(probe)
    with prompt_graph() as (graph, _):
        table = graph.table(metric)
    fitted, estimator = fit_router(table, encoder, kind, neighbours=neighbours, caution=caution, seed=seed)
    path = store().save(fitted, estimator)
    click.echo(f"A router for {metric} over {len(table.variants)} candidates is in {path}.")


@route.command()
@probe_option
@metric_option
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    required=True,
    metavar="TFLOP",
    help="What an image may cost on average.",
)
@json_option
def calibrate(probe: str, metric: str, budget: float, as_json: bool) -> None:
    """Find the lambda that keeps the average cost on the validation prompts within a budget."""
    kept = store()
    fitted = kept.load(metric)
    with prompt_graph() as (graph, _):
        router, table, encoded = validation_of(kept, fitted, graph, probe)
        lam = router.lambda_for(encoded, budget)
        decisions = router.decide([prompt.text for prompt in table], lam)
    kept.save(replace(fitted, lam=lam, budget=budget))
    spent = sum(decision.tflop for decision in decisions) / len(decisions)
    if as_json:
        click.echo(json.dumps({"lambda": lam, "budget": budget, "validation_tflop": spent}))
        return
    click.echo(
        f"lambda {lam:.6g} spends {spent:.4g} of {budget:.4g} TFLOP an image on the validation prompts."
    )


def validation_of(
    kept: RouterStore, fitted: Fitted, graph: PromptGraph, probe: str
) -> tuple[Router, list[Any], EncodedPrompts]:
    """The router, the validation prompts, and these as it reads them."""
    from matchgraph.routing.errors import NoPrompts
    from matchgraph.training.measure.prompts import load_prompt_encoder

    encoder = load_prompt_encoder(probe)
    router = kept.router(fitted, graph, encoder, exact=True)
    prompts = [prompt for prompt in graph.prompts() if prompt.split == "validation"]
    if not prompts:
        raise NoPrompts("There are no validation prompts: add prompts with `matchgraph route prompts`.")
    return router, prompts, encoder.encode([prompt.text for prompt in prompts])


@route.command()
@click.argument("prompt")
@probe_option
@metric_option
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="TFLOP",
    help="What an image may cost on average; by default what the router was calibrated for.",
)
@click.option(
    "--lambda", "lam", type=click.FloatRange(0), help="Quality that a TFLOP is worth, instead of a budget."
)
@json_option
def ask(prompt: str, probe: str, metric: str, budget: float | None, lam: float | None, as_json: bool) -> None:
    """Say which candidate is worth its cost for a prompt."""
    if budget is not None and lam is not None:
        raise click.UsageError("Give --budget or --lambda, not both.")
    from matchgraph.training.measure.prompts import load_prompt_encoder

    kept = store()
    fitted = kept.load(metric)
    with prompt_graph() as (graph, _):
        if budget is not None:
            router, _, encoded = validation_of(kept, fitted, graph, probe)
            lam = router.lambda_for(encoded, budget)
        router = kept.router(fitted, graph, load_prompt_encoder(probe))
        decision = router.decide([prompt], lam)[0]
    if as_json:
        click.echo(json.dumps(decision.to_dict()))
        return
    show_decision(decision, metric)


@route.command()
@probe_option
@click.option(
    "--metric", "metrics", multiple=True, help="All that prompts are scored by by default. Repeatable."
)
@click.option(
    "--out",
    default="routing",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Gets the page, its tables and routing.json.",
)
@click.option(
    "--folds",
    type=click.IntRange(3),
    default=10,
    show_default=True,
    help="Parts that prompts are divided into; each is tested on once.",
)
@seed_option("the parts, the network and the bootstrap")
def curve(probe: str, metrics: tuple[str, ...], out: Path, folds: int, seed: int) -> None:
    """Measure what routing is worth on prompts that it has not seen, as a page of curves and tables."""
    from importlib.metadata import version

    from matchgraph.report.routing import write_report
    from matchgraph.routing.errors import NotEnoughScores
    from matchgraph.routing.evaluation import complete, evaluate
    from matchgraph.training.measure.prompts import load_prompt_encoder

    with prompt_graph() as (graph, _):
        tables = [complete(graph.table(metric)) for metric in metrics or sorted(graph.metrics())]
    if not tables:
        raise NotEnoughScores("No prompt is scored: run `matchgraph route score` first.")
    encoder = load_prompt_encoder(probe)
    studies = [
        evaluate(table, encoder.encode([prompt.text for prompt in table.prompts]), folds=folds, seed=seed)
        for table in tables
    ]
    facts = {
        "prompts": len(tables[0].prompts),
        "folds": folds,
        "candidates": len(tables[0].variants),
        "images a prompt": int(tables[0].samples.max()),
        "probe": encoder.hash,
        "scorers": {table.metric: table.scorer for table in tables},
        "seed": seed,
        "versions": {name: version(name) for name in ("matchgraph", "torch", "numpy", "open_clip_torch")},
    }
    named = "".join(f" --metric {metric}" for metric in metrics)
    page, summary = write_report(
        studies, out, f"matchgraph route curve --folds {folds} --seed {seed}{named}", facts
    )
    for sentence in summary:
        click.echo(sentence)
    click.echo(f"Written to {page}.")


@route.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@probe_option
@metric_option
@click.option("--lambda", "lam", type=click.FloatRange(0), help="By default the calibrated one.")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for images."
)
@seed_option("the noise")
@device_option
def generate(
    prompts: tuple[str, ...], probe: str, metric: str, lam: float | None, out: Path, seed: int, device: str
) -> None:
    """Draw each prompt with the candidate it is routed to."""
    from matchgraph.routing.generate import draw
    from matchgraph.training.measure.prompts import load_prompt_encoder

    kept = store()
    with prompt_graph() as (graph, runner):
        router = kept.router(kept.load(metric), graph, load_prompt_encoder(probe))
        decisions = router.decide(prompts, lam)
        folders = model_folders(runner)
    for drawn in draw(prompts, decisions, router.variants, folders, out, seed=seed, device=device):
        click.echo(f"{drawn.path}: {drawn.prompt!r} by {drawn.variant}, {drawn.tflop:.4g} TFLOP")


@route.command()
@probe_option
@click.option(
    "--metric", "metrics", multiple=True, help="Routers to serve; all that are fitted by default. Repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
def serve(probe: str, metrics: tuple[str, ...], host: str, port: int) -> None:
    """Answer over HTTP: POST /v1/route; /docs describes it."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.routing.serving import listening, load_served, web_server

    try:
        from matchgraph.routing.service import create_app
    except ModuleNotFoundError as error:
        raise click.UsageError(f"{error.name} is not installed: pip install 'matchgraph[serve]'.") from None
    with (
        listening(host, port) as address,
        connect() as patient,
        patient.with_patience(SERVING_PATIENCE_S) as runner,
    ):
        served = load_served(store(), PromptGraph(runner), probe, metrics)
        server = web_server(create_app(served, runner.verify), host, port)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[address])


def show_decision(decision: Decision, metric: str) -> None:
    """Print all candidates and the one chosen."""
    from matchgraph.cli.rendering import new_table, stdout_console

    console = stdout_console()
    table = new_table("")
    for title in ("candidate", metric, "TFLOP"):
        table.add_column(title, justify="left" if title == "candidate" else "right")
    for option in decision.options:
        quality = "?" if option.quality is None else f"{option.quality:.4f}"
        quality += "" if option.std is None else f" ± {option.std:.4f}"
        table.add_row(option.variant, quality, f"{option.tflop:.4g}")
    console.print(table)
    why = (
        "the most similar known prompt has a cosine of"
        if decision.basis == "prompt"
        else "it is unlike all known prompts, so averages decided; the nearest has a cosine of"
    )
    console.print(
        f"Draw it with {decision.variant}: expected {metric} {decision.quality:.4f} for "
        f"{decision.tflop:.4g} TFLOP ({why} {decision.similarity:.2f}).",
        soft_wrap=True,
    )
