"""Scores of one's own, or images to score, become prompts, candidates and scores of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.errors import GraphError, UnknownMetric
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant, prompt_id
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import Progress, no_progress
from matchgraph.routing.encoders import load_encoder
from matchgraph.routing.errors import BadScoreFile
from matchgraph.routing.prompts import split
from matchgraph.routing.score_files import ScoreFile, Values, read_score_file
from matchgraph.training.measure.scorers import load_scorers
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit
    from matchgraph.graphdb.runner import Runner
    from matchgraph.training.measure.quality import Scorer

# The scorer of scores that were made elsewhere.
GIVEN = "given"
# Images scored at a time.
BATCH = 32


@dataclass(frozen=True)
class AddedScores:
    """What a file of scores added.

    Attributes:
        prompts: in the file.
        new_prompts: those that the graph did not have.
        splits: how many of the new ones each split got.
        candidates: in file order.
        values: number of values by metric, each rater's and image's counted.
        notes: columns that are not read, names that look alike, and prompts that are cut.
    """

    prompts: int
    new_prompts: int
    splits: Mapping[str, int]
    candidates: tuple[str, ...]
    values: Mapping[str, int]
    notes: tuple[str, ...] = ()


def add_scores(
    runner: Runner,
    file: Path,
    probe: str,
    *,
    metric: str | None = None,
    costs: Mapping[str, float] | None = None,
    unit: Unit | None = None,
    weights: Mapping[str, Path | None] | None = None,
    seed: int = 0,
    device: str = "auto",
    on_progress: Progress = no_progress,
) -> AddedScores:
    """Add scores that were made elsewhere, with their prompts and candidates.

    A candidate that the graph does not have is added with its cost, as a model that is not drawn here. A
    prompt that the graph has keeps its split. A score that is there is replaced.

    Args:
        runner: the connection.
        file: see `routing.score_files.read_score_file`.
        probe: what embeds the prompts, see `routing.encoders.load_encoder`.
        metric: name of the metric, where the file has no column of it; larger is better. Of a file of images,
            what they are to be scored by.
        costs: of an image of each candidate, beside those of the file.
        unit: of the costs, and of the file's column that has them; by default that of the first such column.
        weights: of what scores images, see `training.measure.scorers.load_scorers`.
        seed: of the split of new prompts into 80 % to learn from, 10 % to choose by and 10 % to report.
        device: of what scores images: `auto` or a torch device name.
        on_progress: called with the metric, scored images and all images.

    Raises:
        BadScoreFile: the file cannot be used, a candidate has no cost or another one than in the graph;
            nothing was written.
        ScorerUnavailable: images cannot be scored by the metric.
        BadImage: an image cannot be read.
        MixedExtractors: another encoder embedded the graph's prompts.
    """
    found = read_score_file(file, metric, unit, priced=frozenset(costs or {}))
    graph, models = PromptGraph(runner), MatchingGraph(runner)
    for name in found.scores:
        _check_direction(file, name, models)
    candidates = _candidates(file, found, dict(costs or {}), unit, graph.variants())
    scorer_hash = GIVEN
    if found.images:
        [scorer] = load_scorers([metric or "clip_score"], probe, weights=weights, device=device)
        found, scorer_hash = scored(found, scorer, on_progress), scorer.hash
    known = {prompt.text: prompt for prompt in graph.prompts()}
    new = [text for text in found.prompts if text not in known]
    prompts, notes = [], [*found.notes]
    if new:
        encoder = load_encoder(probe, graph)
        read = encoder.encode(new)
        embeddings, notes = read.embeddings, [*notes, *read.notes()]
        prompts = [
            Prompt(text, name, encoder.hash, embedding)
            for text, name, embedding in zip(new, split(len(new), seed), embeddings, strict=True)
        ]
        graph.check_probes(prompts)
    # Whatever cannot be saved is refused before the first of it is.
    scores = [
        Score(candidate, prompt_id(text), name, own.mean, len(own.values), own.std, scorer_hash)
        for name, of_metric in found.scores.items()
        for (candidate, text), own in of_metric.items()
    ]
    there = {model.id for model in models.models()}
    models.save_models([Model(variant.model) for variant in candidates if variant.model not in there])
    graph.save_variants(candidates)
    graph.save_prompts(prompts)
    graph.save_scores(scores)
    counts = {name: sum(len(each.values) for each in own.values()) for name, own in found.scores.items()}
    return AddedScores(
        len(found.prompts),
        len(new),
        dict(Counter(prompt.split for prompt in prompts)),
        found.candidates,
        counts,
        tuple(notes),
    )


def scored(file: ScoreFile, scorer: Scorer, on_progress: Progress = no_progress) -> ScoreFile:
    """Score the images of a file.

    Args:
        file: has images.
        scorer: of them.
        on_progress: called with the metric, scored images and all images.
    """
    from matchgraph.training.images import load_rgb

    rows = [(at, path) for at, paths in file.images.items() for path in paths]
    values: dict[tuple[str, str], tuple[float, ...]] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        found = scorer.score([text for (_, text), _ in batch], [load_rgb(path) for _, path in batch])
        for (at, _), value in zip(batch, found.tolist(), strict=True):
            values[at] = (*values.get(at, ()), value)
        on_progress(scorer.metric, start + len(batch), len(rows))
    return replace(file, scores={scorer.metric: {at: Values(own) for at, own in values.items()}})


def _check_direction(file: Path, name: str, graph: MatchingGraph) -> None:
    """Refuse a metric of which smaller is known to be better: a router would choose the worst."""
    try:
        metric = graph.metric(name)
    except UnknownMetric:
        return
    if not metric.larger_is_better:
        raise BadScoreFile(
            f"{file}: of {name}, smaller is better, and a router takes what is larger: change the signs, and "
            f"name the metric otherwise, such as less_{name}."
        )


def _candidates(
    file: Path, found: ScoreFile, costs: Mapping[str, float], unit: Unit | None, known: Sequence[Variant]
) -> list[Variant]:
    """The file's candidates that are not in the graph."""
    there = {variant.id: variant for variant in known}
    if strange := sorted(costs.keys() - set(found.candidates)):
        raise BadScoreFile(f"{file} has no candidate {strange[0]!r}: it has {', '.join(found.candidates)}.")
    unit = unit or found.unit
    if unpriced := [name for name in found.candidates if name not in {*found.costs, *costs, *there}]:
        how = "give each with --cost CANDIDATE=COST"
        how = how if found.wide else f"add a column cost (tflop, seconds, usd), or {how}"
        numbers = " In a table of a row per prompt, each column of numbers is a candidate: delete the others."
        raise BadScoreFile(
            f"{file}: the cost of {some(unpriced, 8)} is missing: {how}.{numbers if found.wide else ''}"
        )
    new = []
    priced = {**found.costs, **costs}
    for name, cost in ((name, priced[name]) for name in found.candidates if name in priced):
        old = there.get(name)
        if old is not None and (cost, unit) == (old.cost, old.unit):
            continue
        if old is not None:
            raise BadScoreFile(
                f"{name} costs {old.cost:g} {old.unit} in the graph and {cost:g} {unit or ''} here: give the "
                "same cost, or rename the candidate."
            )
        if unit is None:
            raise BadScoreFile(f"{file}: the costs' unit is missing: TFLOP, s or USD.")
        try:
            new.append(Variant(name, name, None, cost, unit))
        except GraphError as error:
            raise BadScoreFile(f"{file}: {error}") from None
    return new
