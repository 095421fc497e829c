"""Routing from prompts to decisions: what the commands of `matchgraph route` and the Python API call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb.errors import GraphError
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant, check_prompt, prompt_id
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import OnWork, Progress, no_progress, no_work
from matchgraph.routing.budget import Budget
from matchgraph.routing.encoders import GivenPrompts, check_enough, encoded, load_encoder, validation_prompts
from matchgraph.routing.errors import BadScoreFile, InvalidScores, NotEnoughScores, UnknownCandidate
from matchgraph.routing.evaluation import FOLDS, Study
from matchgraph.routing.evaluation import evaluate as evaluate_table
from matchgraph.routing.fitting import fit_router
from matchgraph.routing.generate import Drawn, draw
from matchgraph.routing.policy import choose, lambda_for_budget
from matchgraph.routing.prompts import LARGEST_SIMILARITY, most_similar, split, unlike
from matchgraph.routing.robustness import reword
from matchgraph.routing.scoring import SAMPLES, score_variants
from matchgraph.routing.turns import complete
from matchgraph.routing.variants import variants_of
from matchgraph.training.prompt_files import read_prompts

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.router import Decision
    from matchgraph.routing.score_files import ScoreFile
    from matchgraph.routing.store import Kind, RouterStore
    from matchgraph.training.measure.quality import Scorer

# The scorer of scores that were made elsewhere.
GIVEN = "given"


@dataclass(frozen=True)
class AddedPrompts:
    """How many prompts of a file were kept.

    Attributes:
        read: prompts in the file, each counted once.
        kept: those that are not too similar to an earlier one.
        splits: how many of them each split got.
        left_out: those that are too similar, each with the similarity to the most similar one kept.
        notes: fields of the file that are not read.
    """

    read: int
    kept: int
    splits: Mapping[str, int]
    left_out: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AddedScores:
    """What a file of scores added.

    Attributes:
        prompts: in the file.
        new_prompts: those that the graph did not have.
        splits: how many of the new ones each split got.
        candidates: in file order.
        values: number of values by metric, each rater's and image's counted.
        notes: columns that are not read.
    """

    prompts: int
    new_prompts: int
    splits: Mapping[str, int]
    candidates: tuple[str, ...]
    values: Mapping[str, int]
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The gain of routing on held-out prompts.

    Attributes:
        studies: one for each metric.
        facts: what they were made with, ready for JSON.
    """

    studies: Sequence[Study]
    facts: Mapping[str, Any]


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
    embeddings = encoder.encode(texts).embeddings
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
    return AddedPrompts(len(texts), len(kept), Counter(names), left_out, found.notes)


def add_scores(
    runner: Runner,
    file: Path,
    probe: str,
    *,
    metric: str | None = None,
    costs: Mapping[str, float] | None = None,
    unit: Unit | None = None,
    seed: int = 0,
) -> AddedScores:
    """Add scores that were made elsewhere, with their prompts and candidates.

    A candidate that the graph does not have is added with its cost, as a model that is not drawn here. A
    prompt that the graph has keeps its split. A score that is there is replaced.

    Args:
        runner: the connection.
        file: see `routing.score_files.read_score_file`.
        probe: what embeds the prompts, see `routing.encoders.load_encoder`.
        metric: name of the metric, where the file has no column of it; larger is better.
        costs: of an image of each candidate, beside those of the file.
        unit: of the costs; by default as the file's column says.
        seed: of the split of new prompts into 80 % to learn from, 10 % to choose by and 10 % to report.

    Raises:
        BadScoreFile: the file cannot be used, or a candidate has no cost or another one than in the graph;
            nothing was written.
        MixedExtractors: another encoder embedded the graph's prompts.
    """
    from matchgraph.routing.score_files import read_score_file

    found = read_score_file(file, metric)
    graph = PromptGraph(runner)
    candidates = _candidates(file, found, dict(costs or {}), unit, graph.variants())
    known = {prompt.text: prompt for prompt in graph.prompts()}
    new = [text for text in found.prompts if text not in known]
    prompts = []
    if new:
        encoder = load_encoder(probe, graph)
        embeddings = encoder.encode(new).embeddings
        prompts = [
            Prompt(text, name, encoder.hash, embedding)
            for text, name, embedding in zip(new, split(len(new), seed), embeddings, strict=True)
        ]
        graph.check_probes(prompts)
    models = MatchingGraph(runner)
    there = {model.id for model in models.models()}
    models.save_models([Model(variant.model) for variant in candidates if variant.model not in there])
    graph.save_variants(candidates)
    graph.save_prompts(prompts)
    graph.save_scores(
        Score(candidate, prompt_id(text), name, own.mean, len(own.values), own.std, GIVEN)
        for name, scores in found.scores.items()
        for (candidate, text), own in scores.items()
    )
    counts = {name: sum(len(own.values) for own in scores.values()) for name, scores in found.scores.items()}
    return AddedScores(
        len(found.prompts),
        len(new),
        dict(Counter(prompt.split for prompt in prompts)),
        found.candidates,
        counts,
        found.notes,
    )


def _candidates(
    file: Path, found: ScoreFile, costs: Mapping[str, float], unit: Unit | None, known: Sequence[Variant]
) -> list[Variant]:
    """The file's candidates that are not in the graph."""
    there = {variant.id: variant for variant in known}
    if strange := sorted(costs.keys() - set(found.candidates)):
        raise BadScoreFile(f"{file} has no candidate {strange[0]!r}: it has {', '.join(found.candidates)}.")
    unit = unit or found.unit
    new = []
    for name in found.candidates:
        cost = costs.get(name, found.costs.get(name))
        old = there.get(name)
        if old is not None and (cost is None or (cost, unit) == (old.cost, old.unit)):
            continue
        if old is not None:
            raise BadScoreFile(
                f"{name} costs {old.cost:g} {old.unit} in the graph and {cost:g} {unit or ''} here: give the "
                "same cost, or name the candidate otherwise."
            )
        if cost is None:
            raise BadScoreFile(
                f"{file}: the cost of {name} is missing: add a column cost (tflop, seconds, usd), or give it."
            )
        if unit is None:
            raise BadScoreFile(f"{file}: the costs' unit is missing: TFLOP, s or USD.")
        try:
            new.append(Variant(name, name, None, cost, unit))
        except GraphError as error:
            raise BadScoreFile(f"{file}: {error}") from None
    return new


def add_variants(
    runner: Runner,
    steps: Sequence[int],
    *,
    models: Sequence[str] = (),
    guidance: float | None = None,
    sampler: str | None = None,
    resolution_px: int | None = None,
    cache_interval: int = 1,
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
    fitted, estimator = fit_router(table, kind, encoder=encoder, neighbours=neighbours, seed=seed)
    return store.save(fitted, estimator), len(table.variants)


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

    Raises:
        RoutingError: there is no router, or no candidate is within the budget.
    """
    graph, fitted = PromptGraph(runner), store.load(metric)
    if budget is not None:
        lam, _ = lambda_for(graph, store, metric, budget, probe)
    router = store.router(fitted, graph, load_encoder(probe, graph))
    return router.decide(prompts, lam)


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

    Yields:
        Each image as soon as it is written.
    """
    decisions = decide(runner, store, prompts, metric, probe, lam=lam)
    variants, folders = PromptGraph(runner).variants(), MatchingGraph(runner).model_folders()
    yield from draw(
        prompts, decisions, variants, folders, out, seed=seed, device=device, gpu_memory=gpu_memory
    )


def evaluate(
    runner: Runner,
    probe: str | None = None,
    *,
    metrics: Sequence[str] = (),
    folds: int = FOLDS,
    seed: int = 0,
) -> Evaluation:
    """Measure the gain of routing on held-out prompts.

    Args:
        runner: the connection.
        probe: the CLIP that embedded the prompts; without it the network is not among the routers.
        metrics: to route by; all that the graph has scores of by default.
        folds: turns of rotation, see `routing.evaluation.rotated`.
        seed: of the parts, the network and the bootstrap.

    Raises:
        NotEnoughScores: nothing is scored, or not enough of it.
    """
    from importlib.metadata import version

    graph = PromptGraph(runner)
    tables = [complete(graph.table(metric)) for metric in metrics or sorted(graph.metrics())]
    if not tables:
        raise NotEnoughScores("No prompt is scored: run `matchgraph route score` first.")
    encoder = load_encoder(probe, graph) if probe else None
    probe_hash = tables[0].prompts[0].probe
    kind: Kind = "gaussian" if encoder is None or encoder.hash != probe_hash else "network"
    # A file of embeddings has none of other wordings.
    rewords = encoder is not None and encoder.hash == probe_hash and not isinstance(encoder, GivenPrompts)
    studies = [
        evaluate_table(
            table,
            encoded(table.prompts, kind, encoder),
            reworded=encoder.encode([reword(prompt.text) for prompt in table.prompts])
            if encoder is not None and rewords
            else None,
            folds=folds,
            seed=seed,
        )
        for table in tables
    ]
    facts = {
        "prompts": len(tables[0].prompts),
        "folds": folds,
        "candidates": len(tables[0].variants),
        "images a prompt": int(tables[0].samples.max()),
        "probe": probe_hash,
        "scorers": {table.metric: table.scorer for table in tables},
        "seed": seed,
        "versions": {name: version(name) for name in ("matchgraph", "torch", "numpy", "scikit-learn")},
    }
    return Evaluation(studies, facts)
