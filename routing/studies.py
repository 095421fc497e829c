"""The gain of routing by each metric of the graph, on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.progress import Progress, no_progress
from matchgraph.routing.encoders import GivenPrompts, encoded, load_encoder
from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator
from matchgraph.routing.evaluation import FOLDS, Study
from matchgraph.routing.evaluation import evaluate as evaluate_table
from matchgraph.routing.paraphrases import BY_RULE, GIVEN, as_given, by_rule, read_paraphrases
from matchgraph.routing.turns import complete

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The gain of routing on held-out prompts.

    Attributes:
        studies: one for each metric.
        facts: what they were made with, ready for JSON.
        left_out: by metric, prompts that some candidate with scores has none of; no metric without such.
    """

    studies: Sequence[Study]
    facts: Mapping[str, Any]
    left_out: Mapping[str, Sequence[str]]


def evaluate(
    runner: Runner,
    probe: str | None = None,
    *,
    metrics: Sequence[str] = (),
    paraphrases: Path | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> Evaluation:
    """Measure the gain of routing on held-out prompts.

    Args:
        runner: the connection.
        probe: the CLIP that embedded the prompts; without it the network is not among the routers.
        metrics: to route by; all that the graph has scores of by default.
        paraphrases: file of other wordings, see `routing.paraphrases.read_paraphrases`; it needs the probe.
        folds: turns of rotation, see `routing.evaluation.rotated`.
        seed: of the parts, the network and the bootstrap.
        on_progress: called with a metric, and parts done and all parts of all metrics; before a metric, with
            what the probe reads for it.

    Raises:
        NotEnoughScores: nothing is scored, or not enough of it.
        BadPromptPairs: the file of other wordings cannot be used.
        UnusableEstimator: there is such a file, and the probe is not what read the graph's prompts.
    """
    from importlib.metadata import version

    pairs = [] if paraphrases is None else read_paraphrases(paraphrases)
    graph = PromptGraph(runner)
    given = [graph.table(metric) for metric in metrics or sorted(graph.metrics())]
    tables = [complete(table) for table in given]
    if not tables:
        raise NotEnoughScores("No prompt is scored: run `matchgraph route score` first.")
    encoder = load_encoder(probe, graph) if probe else None
    probe_hash = tables[0].prompts[0].probe
    reader = encoder if encoder is not None and encoder.hash == probe_hash else None
    if pairs and reader is None:
        raise UnusableEstimator(f"Other wordings are read by what read the prompts, {probe_hash}: give it.")
    studies: list[Study] = []

    def report(metric: str, done: int, total: int) -> None:
        on_progress(metric, done + len(studies) * total, len(tables) * total)

    for table in tables:
        rewordings = {}
        if reader is not None:
            on_progress("Reading the prompts and other wordings of them", 0, 0)
        # A file of embeddings has none of wordings by rule.
        if reader is not None and not isinstance(reader, GivenPrompts):
            rewordings[BY_RULE] = by_rule(table.prompts, reader)
        if reader is not None and pairs:
            rewordings[GIVEN] = as_given(table.prompts, pairs, reader)
        read = encoded(table.prompts, "gaussian" if reader is None else "network", reader)
        studies.append(
            evaluate_table(table, read, rewordings=rewordings, folds=folds, seed=seed, on_progress=report)
        )
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
    left_out = {
        table.metric: sorted(
            {prompt.text for prompt in own.prompts} - {prompt.text for prompt in table.prompts}
        )
        for own, table in zip(given, tables, strict=True)
        if len(table.prompts) < len(own.prompts)
    }
    return Evaluation(studies, facts, left_out)
