"""Routing from prompts to decisions: what the commands of `matchgraph route` and the Python API call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.prompt_models import Budget, Prompt, Variant, check_prompt
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import OnWork, Progress, no_progress, no_work
from matchgraph.routing.encoders import check_enough, load_encoder, validation_prompts
from matchgraph.routing.errors import InvalidScores, UnknownCandidate
from matchgraph.routing.fitting import fit_router
from matchgraph.routing.generate import Drawn, draw
from matchgraph.routing.policy import choose, lambda_for_budget
from matchgraph.routing.prompts import LARGEST_SIMILARITY, most_similar, split, unlike
from matchgraph.routing.scoring import SAMPLES, score_variants
from matchgraph.routing.variants import variants_of
from matchgraph.training.prompt_files import read_prompts

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.router import Decision
    from matchgraph.routing.store import Kind, RouterStore
    from matchgraph.training.measure.quality import Scorer


@dataclass(frozen=True)
class AddedPrompts:
    """How many prompts of a file were kept.

    Attributes:
        read: prompts in the file, each counted once.
        kept: those that are not too similar to an earlier one.
        splits: how many of them each split got.
        left_out: those that are too similar, each with the similarity to the most similar one kept.
        notes: fields of the file that are not read, and that prompts are cut.
    """

    read: int
    kept: int
    splits: Mapping[str, int]
    left_out: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibrated:
    """A budget as lambda.

    Attributes:
        lam: quality that a unit of cost is worth.
        budget: what an image may cost on average.
        validation_cost: what one costs on average on the validation prompts, in the budget's unit.
    """

    lam: float
    budget: Budget
    validation_cost: float


def add_prompts(
    runner: Runner,
    file: Path,
    probe: str,
    *,
    largest_similarity: float = LARGEST_SIMILARITY,
    seed: int = 0,
) -> AddedPrompts:
    """Add the prompts of a file to the graph; adding the same file again changes nothing.

    Args:
        runner: the connection.
        file: see `training.prompt_files.read_prompt_file`.
        probe: what embeds them, see `routing.encoders.load_encoder`.
        largest_similarity: cosine similarity at which the later of two prompts is left out.
        seed: of the split into 80 % to learn from, 10 % to choose by and 10 % to report.

    Raises:
        BadPromptFile: the file has no prompt, or an invalid one.
        MixedExtractors: another encoder embedded the graph's prompts.
    """
    found = read_prompts(file, check_prompt)
    texts = found.texts
    graph = PromptGraph(runner)
    encoder = load_encoder(probe, graph)
    read = encoder.encode(texts)
    embeddings = read.embeddings
    kept = unlike(embeddings, largest_similarity)
    names = split(len(kept), seed)
    graph.save_prompts(
        [
            Prompt(texts[number], name, encoder.hash, embeddings[number])
            for number, name in zip(kept, names, strict=True)
        ]
    )
    out = np.setdiff1d(np.arange(len(texts)), kept)
    nearest = most_similar(embeddings[out], embeddings[kept])
    left_out = tuple((texts[row], float(value)) for row, value in zip(out, nearest, strict=True))
    return AddedPrompts(len(texts), len(kept), Counter(names), left_out, (*found.notes, *read.notes()))


def add_variants(
    runner: Runner,
    steps: Sequence[int],
    *,
    models: Sequence[str] = (),
    guidance: float | None = None,
    sampler: str | None = None,
    resolution_px: int | None = None,
    cache_interval: int = 1,
    precision: str = "fp32",
) -> list[Variant]:
    """Add candidates to the graph, priced from their models' configurations.

    Args:
        runner: the connection.
        steps: numbers of denoising steps.
        models: ids; all models with a pipeline folder by default.
        guidance: see `routing.variants.variants_of`, as all that follows.
        sampler: likewise.
        resolution_px: likewise.
        cache_interval: likewise.
        precision: likewise.

    Raises:
        UnknownCandidate: a model has no pipeline folder.
        TrainingError: a folder cannot be priced, or the sampler or caching does not suit it.
    """
    folders = MatchingGraph(runner).model_folders()
    made = []
    for model in models or sorted(folders):
        if model not in folders:
            raise UnknownCandidate(f"There is no pipeline folder of {model!r}: ingest one first.")
        made += variants_of(
            model,
            folders[model],
            steps,
            resolution_px=resolution_px,
            guidance=guidance,
            sampler=sampler,
            cache_interval=cache_interval,
            precision=precision,
        )
    PromptGraph(runner).save_variants(made)
    return made


def score(
    runner: Runner,
    scorers: Sequence[Scorer],
    *,
    variants: Sequence[str] = (),
    samples: int = SAMPLES,
    seed: int = 0,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Progress = no_progress,
    on_work: OnWork = no_work,
) -> int:
    """Draw and score images for all prompts; see `routing.scoring.score_variants`.

    Args:
        runner: the connection.
        scorers: at least one.
        variants: ids of candidates; all by default.
        samples: images for each prompt.
        seed: of the noise.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU to stay within; by default what is free.
        on_progress: called with a candidate, its scored prompts and all prompts.
        on_work: called with what there is to draw.

    Returns:
        How many images were drawn.

    Raises:
        UnknownCandidate: a candidate is not in the graph.
        InvalidValue: one is not drawn by a pipeline of the graph.
    """
    graph = PromptGraph(runner)
    known = {variant.id: variant for variant in graph.variants()}
    for name in sorted(set(variants)):
        if name not in known:
            raise UnknownCandidate(f"There is no candidate {name!r}: add it with `route variants`.")
        known[name].require_drawing("add its scores with `route scores`")
    return score_variants(
        graph,
        MatchingGraph(runner).model_folders(),
        scorers,
        samples=samples,
        seed=seed,
        variants=[
            variant
            for variant in known.values()
            if (variant.id in variants if variants else variant.drawing is not None)
        ],
        device=device,
        gpu_memory=gpu_memory,
        on_progress=on_progress,
        on_work=on_work,
    )


def fit(
    runner: Runner,
    store: RouterStore,
    metric: str,
    probe: str | None = None,
    *,
    kind: Kind = "gaussian",
    neighbours: int | None = None,
    seed: int = 0,
) -> tuple[Path, int]:
    """Fit a router to the graph's scores by a metric, and keep it.

    Args:
        runner: the connection.
        store: gets the router.
        metric: of the scores.
        probe: the CLIP that reads prompts, which only `network` needs.
        kind: see `routing.fitting.fit_router`, as what follows.
        neighbours: likewise.
        seed: likewise.

    Returns:
        The file, and the number of candidates.
    """
    graph = PromptGraph(runner)
    table = graph.table(metric)
    encoder = load_encoder(probe, graph) if probe and kind == "network" else None
    made = fit_router(table, kind, encoder=encoder, neighbours=neighbours, seed=seed)
    return store.save(*made), len(table.variants)


def lambda_for(
    graph: PromptGraph,
    store: RouterStore,
    metric: str,
    budget: Budget,
    probe: str | None = None,
) -> tuple[float, float]:
    """The lambda for a budget, by the validation prompts.

    Args:
        graph: the prompts.
        store: has the router.
        metric: it routes by.
        budget: what an image may cost on average.
        probe: the CLIP that reads prompts, which only a router of the kind `network` needs.

    Returns:
        Lambda, and what an image of the validation prompts costs on average.

    Raises:
        NotFitted: the metric has no router.
        NoPrompts: there are no validation prompts.
        NotEnoughScores: there are too few of them.
        BudgetTooSmall: the cheapest candidates cost more.
        InvalidScores: the budget is of another unit than the candidates' costs.
    """
    fitted = store.load(metric)
    encoder = load_encoder(probe, graph) if probe and fitted.kind == "network" else None
    router = store.router(fitted, graph, encoder, exact=True)
    if router.unit != budget.unit:
        raise InvalidScores(
            f"The budget is in {budget.unit}, but the candidates for {metric} cost {router.unit}."
        )
    quality = router.compared(validation_prompts(graph, fitted.kind, encoder))
    check_enough(quality)
    lam = lambda_for_budget(quality, router.cost, budget.cost)
    return lam, float(router.cost[choose(quality, router.cost, lam)].mean())


def calibrate(
    runner: Runner, store: RouterStore, metric: str, budget: Budget, probe: str | None = None
) -> Calibrated:
    """Find the lambda that keeps the average cost within a budget, and keep it with the router.

    Args:
        runner: the connection.
        store: has the router.
        metric: it routes by.
        budget: what an image may cost on average.
        probe: the CLIP that reads prompts, which only a router of the kind `network` needs.

    Raises:
        RoutingError: as `lambda_for`.
    """
    lam, cost = lambda_for(PromptGraph(runner), store, metric, budget, probe)
    store.save(replace(store.load(metric), lam=lam, budget=budget.cost))
    return Calibrated(lam, budget, cost)


def decide(
    runner: Runner,
    store: RouterStore,
    prompts: Sequence[str],
    metric: str,
    probe: str,
    *,
    budget: Budget | None = None,
    lam: float | None = None,
    least: float | None = None,
) -> list[Decision]:
    """Decide which candidate is worth its cost for each prompt.

    Args:
        runner: the connection.
        store: has the router.
        prompts: at least one.
        metric: to route by.
        probe: what reads prompts, see `routing.encoders.load_encoder`.
        budget: what an image may cost on average.
        lam: quality that a unit of cost is worth, instead of a budget; the router's own by default.
        least: quality that counts as a success; options then have their chance of it.

    Raises:
        RoutingError: there is no router, or no candidate is within the budget.
    """
    graph, fitted = PromptGraph(runner), store.load(metric)
    if budget is not None:
        lam, _ = lambda_for(graph, store, metric, budget, probe)
    router = store.router(fitted, graph, load_encoder(probe, graph))
    return router.decide(prompts, lam, least)


def generate(
    runner: Runner,
    store: RouterStore,
    prompts: Sequence[str],
    metric: str,
    probe: str,
    out: Path,
    *,
    lam: float | None = None,
    seed: int = 0,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_work: OnWork = no_work,
) -> Iterator[Drawn]:
    """Draw each prompt with the candidate it is routed to; see `routing.generate.draw`.

    Args:
        runner: the connection.
        store: has the router.
        prompts: at least one.
        metric: to route by.
        probe: what reads prompts, see `routing.encoders.load_encoder`.
        out: folder for the images.
        lam: quality that a unit of cost is worth; the router's own by default.
        seed: of the noise.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU to stay within; by default what is free.
        on_work: called with what there is to draw.

    Yields:
        Each image as soon as it is written.
    """
    decisions = decide(runner, store, prompts, metric, probe, lam=lam)
    variants, folders = PromptGraph(runner).variants(), MatchingGraph(runner).model_folders()
    yield from draw(
        prompts,
        decisions,
        variants,
        folders,
        out,
        seed=seed,
        device=device,
        gpu_memory=gpu_memory,
        on_work=on_work,
    )
