"""The prompt level of the graph: prompts, models as they are served, and how well these do on prompts.

`(:Variant)-[:OF]->(:Model)` and `(:Variant)-[:SCORED]->(:Prompt)`. A SCORED edge has each metric's mean over
all images drawn, under its name, and what it was measured with under `<metric>__<name>`, as PERFORMS does:
among them `<metric>__samples` and `<metric>__std`, the images' number and sample standard deviation.

Prompts to learn from also have the label MatchGraphTrainPrompt, over which the vector index
`matchgraph_prompt_embedding` is, so that held-out prompts are never anyone's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries
from matchgraph.graphdb.checks import check_metric_name
from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import InvalidValue, MixedExtractors, NodeNotFound
from matchgraph.graphdb.prompt_models import Neighbour, Prompt, Score, ScoreTable, Split, Variant

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner


BATCH_ROWS = 1000
# A transaction is held in the heap of the server until it ends.
TRANSACTION_ROWS = 50_000
# How many times as many neighbours the index is asked for as are wanted; measured in bench/README.md.
REACH = 4


class PromptGraph:
    """The prompt level of one Neo4j's graph.

    Args:
        runner: the connection; see `graphdb.connection.connect`.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def check_probes(self, prompts: Iterable[Prompt]) -> None:
        """Make sure that prompts can be saved beside those of the graph.

        Raises:
            MixedExtractors: they are embedded by another probe.
        """
        probes = {prompt.probe for prompt in prompts}
        if probes and len(probes.union(self.probes())) > 1:
            named = ", ".join(sorted(probes.union(self.probes())))
            raise MixedExtractors(
                f"Prompts are embedded by different probes ({named}) and cannot be "
                "compared: use the probe of those in the graph, or remove them first."
            )

    def save_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Save prompts; one that is there gets exactly these properties and this split, its scores stay.

        Raises:
            MixedExtractors: they are embedded by another probe than those in the graph.
        """
        self.check_probes(prompts)
        rows = [
            {
                "id": prompt.id,
                "train": prompt.split == "train",
                "properties": {
                    **prompt.properties,
                    "id": prompt.id,
                    "text": prompt.text,
                    "split": prompt.split,
                    "probe": prompt.probe,
                    "embedding": prompt.embedding.tolist(),
                },
            }
            for prompt in prompts
        ]
        self._write("prompts/save-prompts", rows)

    def save_variants(self, variants: Sequence[Variant]) -> None:
        """Save variants; one that is there gets exactly these properties, its scores stay.

        Raises:
            InvalidValue: one that has scores is of another model or drawing; nothing is written.
            NodeNotFound: a variant's model is not in the graph.
        """
        self._check_scored(variants)
        wanted = sorted({variant.model for variant in variants})
        missing = self._runner.read(queries.load("read/missing-models"), ids=wanted)
        if missing:
            raise NodeNotFound(
                f"There is no model {missing[0]['id']!r} in the graph: ingest it before its variants."
            )
        self._write(
            "prompts/save-variants",
            [
                {
                    "id": variant.id,
                    "model": variant.model,
                    "properties": {name: value for name, value in variant.flat().items() if name != "model"},
                }
                for variant in variants
            ],
        )

    def _check_scored(self, variants: Sequence[Variant]) -> None:
        """Refuse another drawing under an id whose scores would then count as scores of that drawing."""
        there = {variant.id: variant.flat() for variant in self.variants()}
        changes = {}
        for variant in variants:
            now, before = variant.flat(), there.get(variant.id)
            names = [*Drawing.__dataclass_fields__, "model"]
            if before and (name := next((one for one in names if before.get(one) != now.get(one)), None)):
                changes[variant.id] = name, before.get(name), now.get(name)
        for row in self._runner.read(queries.load("prompts/scored-variants"), ids=list(changes)):
            name, old, new = changes[row["id"]]
            again = f"--resolution {old}" if name == "resolution_px" else f"{name} {old}"
            raise InvalidValue(
                f"{row['id']} has scores of images with {name} {old}, not {new}: give `{again}`, or remove "
                f"its scores in Cypher: MATCH (:Variant {{id: '{row['id']}'}})-[s:SCORED]->() DELETE s"
            )

    def save_scores(
        self, scores: Iterable[Score], *, on_saved: Callable[[int], None] = lambda _: None
    ) -> None:
        """Save scores of prompts and variants of the graph; one of the same metric is replaced.

        One transaction for every 50,000 pairs of variant and prompt; where saving is cut short, saving again
        completes it.

        Args:
            scores: what to save.
            on_saved: called after each transaction with the pairs in it.

        Raises:
            NodeNotFound: a prompt or variant is not in the graph; nothing is written.
        """
        groups = _score_rows(scores)
        for kind in ("prompt", "variant"):
            ids = sorted({row[kind] for group in groups for row in group.rows})
            missing = self._runner.read(queries.load(f"prompts/missing-{kind}s"), ids=ids)
            if missing:
                raise NodeNotFound(
                    f"There is no {kind} {missing[0]['id']!r} in the graph: save it before its scores."
                )
        self._write_batches(
            "prompts/save-scores",
            [
                {"shared": group.shared, "prefixes": group.prefixes, "names": group.names, "rows": rows}
                for group in groups
                for rows in _batches(group.rows)
            ],
            on_saved,
        )

    def probes(self) -> list[str]:
        """Hashes of the CLIPs that embedded the prompts; of a sound graph one at most."""
        return [row["probe"] for row in self._runner.read(queries.load("prompts/probes"))]

    def prompts(self) -> list[Prompt]:
        """All prompts, sorted by id."""
        return [_prompt_from(row["properties"]) for row in self._runner.read(queries.load("prompts/prompts"))]

    def texts(self, split: Split) -> list[str]:
        """The prompts of a split, sorted by id."""
        return [prompt.text for prompt in self.prompts() if prompt.split == split]

    def variants(self) -> list[Variant]:
        """All variants, by cost and id."""
        rows = self._runner.read(queries.load("prompts/variants"))
        found = [Variant.from_flat({**row["properties"], "model": row["model"]}) for row in rows]
        return sorted(found, key=lambda variant: (variant.cost, variant.id))

    def metrics(self) -> dict[str, int]:
        """Metrics of the scores, and how many scores there are by each."""
        return {row["metric"]: row["scores"] for row in self._runner.read(queries.load("prompts/metrics"))}

    def scores(self, metric: str) -> list[Score]:
        """All scores by one metric, in no order."""
        check_metric_name(metric)
        return [
            Score(metric=metric, **row)
            for row in self._runner.read(queries.load("prompts/scores"), metric=metric)
        ]

    def scored(self, variant: str, metric: str, scorer: str, samples: int) -> set[str]:
        """Ids of the prompts that a variant is scored on by a metric, with this scorer and number of images.

        Args:
            variant: its id.
            metric: name of the metric.
            scorer: the scorer's hash.
            samples: images, at least.
        """
        check_metric_name(metric)
        rows = self._runner.read(
            queries.load("prompts/scored"), variant=variant, metric=metric, scorer=scorer, samples=samples
        )
        return {row["id"] for row in rows}

    def table(self, metric: str) -> ScoreTable:
        """All scores by one metric.

        Raises:
            MixedExtractors: they come from different scorers.
        """
        check_metric_name(metric)
        prompts, variants = self.prompts(), self.variants()
        row_of = {prompt.id: number for number, prompt in enumerate(prompts)}
        column_of = {variant.id: number for number, variant in enumerate(variants)}
        shape = (len(prompts), len(variants))
        mean, std, samples = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
        scorers = set()
        for row in self._runner.read(queries.load("prompts/scores"), metric=metric):
            at = row_of[row["prompt"]], column_of[row["variant"]]
            mean[at], samples[at] = row["value"], row["samples"]
            if row["std"] is not None:
                std[at] = row["std"]
            scorers.add(row["scorer"])
        if len(scorers) > 1:
            raise MixedExtractors(
                f"Scores by {metric} come from different scorers ({', '.join(sorted(scorers))}) and cannot "
                "be compared: score all variants with one."
            )
        return ScoreTable(metric, "".join(scorers), tuple(prompts), tuple(variants), mean, std, samples)

    def nearest(self, embedding: np.ndarray, count: int, metric: str) -> list[Neighbour]:
        """The prompts to learn from that are nearest to an embedding, with their scores, by the vector index.

        Args:
            embedding: of length 1; (d,).
            count: how many; the index is approximate and may give fewer.
            metric: of the scores.
        """
        check_metric_name(metric)
        rows = self._runner.read(
            queries.load("prompts/nearest"),
            embedding=embedding.tolist(),
            count=count,
            reach=REACH * count,
            metric=metric,
        )
        return [Neighbour(row["text"], row["cosine"], dict(row["scores"])) for row in rows]

    def _write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self._write_batches(name, [{"rows": batch} for batch in _batches(rows)])

    def _write_batches(
        self, name: str, batches: Sequence[dict[str, Any]], on_saved: Callable[[int], None] = lambda _: None
    ) -> None:
        """Run a statement for each batch, with as many in a transaction as fit the server's heap."""
        query = queries.load(name)
        transaction = [lock()]
        held = 0
        for batch in batches:
            if held + len(batch["rows"]) > TRANSACTION_ROWS:
                self._runner.write_many(transaction)
                on_saved(held)
                transaction, held = [lock()], 0
            transaction.append((query, batch))
            held += len(batch["rows"])
        self._runner.write_many(transaction)
        on_saved(held)


def _batches(rows: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    return [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]


@dataclass
class _ScoreRows:
    """Scores of pairs of variant and prompt that have the same metrics, measured with the same.

    What they share is sent once and not in every row: packing the rows takes most of the client's time.
    """

    shared: dict[str, Any]
    prefixes: list[str]
    names: list[str]
    rows: list[dict[str, Any]]


def _score_rows(scores: Iterable[Score]) -> list[_ScoreRows]:
    pairs: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        pairs.setdefault((score.variant, score.prompt), {})[score.metric] = score
    groups: dict[frozenset[tuple[str, int, str]], _ScoreRows] = {}
    for (variant, prompt), by_metric in pairs.items():
        key = frozenset((metric, own.samples, own.scorer) for metric, own in by_metric.items())
        if key not in groups:
            shared: dict[str, Any] = {}
            for metric, samples, scorer in key:
                shared |= {f"{metric}__samples": samples, f"{metric}__scorer": scorer}
            metrics = sorted(by_metric)
            names = [name for metric in metrics for name in (metric, f"{metric}__std")]
            groups[key] = _ScoreRows(shared, [f"{metric}__" for metric in metrics], names, [])
        values = [value for metric in sorted(by_metric) for value in by_metric[metric].figures]
        groups[key].rows.append({"variant": variant, "prompt": prompt, "values": values})
    return list(groups.values())


def _prompt_from(properties: Mapping[str, Any]) -> Prompt:
    rest = dict(properties)
    del rest["id"]
    known = {name: rest.pop(name) for name in ("text", "split", "probe", "embedding")}
    return Prompt(**known, properties=rest)
