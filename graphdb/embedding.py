"""Node embeddings of the matching graph: node2vec in Graph Data Science, and the promises of any embedder."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import EmbeddingFailed, InvalidValue
from matchgraph.settings import check_settings, setting

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.runner import Runner

WEIGHT = "weight"
MAX_SEED = 2**31


@dataclass(frozen=True)
class Node2VecConfig:
    """Every parameter of node2vec, none left to a server's default.

    Attributes:
        dimension: length of a vector.
        walk_length: nodes in a walk, the start included.
        walks_per_node: walks that start at each node.
        return_factor: p; below 1 a walk tends to go straight back, above 1 it avoids that.
        in_out_factor: q; below 1 a walk tends to leave its neighbourhood, above 1 to stay in it.
        window_size: how far apart in a walk two nodes may be to count as each other's context.
        negative_sampling_rate: negative samples for each positive one.
        negative_sampling_exponent: power of a node's frequency by which negative samples are drawn; 0 is
            uniform.
        positive_sampling_factor: share of all visits from which on a node's positive samples are thinned out;
            1 thins out none.
        iterations: passes over the walks.
        initial_learning_rate: learning rate at the first step.
        min_learning_rate: learning rate at the last step.
        initializer: "NORMALIZED" (start vectors within 0.5/dimension of 0) or "UNIFORM" (within 1).
        walk_buffer_size: walks held before a training batch starts.
        seed: seed of walks, samples and start vectors.

    Raises:
        InvalidValue: a field is out of its range.

    Source:
        Parameters and defaults of GDS 2.13 `gds.node2vec` (initialLearningRate as in its code, 0.025), but
        for positiveSamplingFactor. Its 0.001 is meant for words, of which few are frequent; on a graph of 40
        nodes every node is, and four samples in five were dropped: two groups of 21 nodes, separated by
        weights of 0.22 and 0.61, had the same mean cosine within and between them. The algorithm as published
        (Grover and Leskovec 2016) thins out nothing.
    """

    dimension: int = setting(128, "Length of a vector.", at_least=1)
    walk_length: int = setting(80, "Nodes in a walk, the start included.", at_least=2)
    walks_per_node: int = setting(10, "Walks that start at each node.", at_least=1)
    return_factor: float = setting(1.0, "p.", above=0)
    in_out_factor: float = setting(1.0, "q.", above=0)
    window_size: int = setting(10, "Steps between two nodes of one context, at most.", at_least=2)
    negative_sampling_rate: int = setting(5, "Negative samples for each positive one.", at_least=1)
    negative_sampling_exponent: float = setting(
        0.75, "Power of the frequency of negative samples.", at_least=0
    )
    positive_sampling_factor: float = setting(
        1.0, "Share of visits from which on samples are thinned out.", above=0
    )
    iterations: int = setting(1, "Passes over the walks.", at_least=1)
    initial_learning_rate: float = setting(0.025, "At the first step.", above=0)
    min_learning_rate: float = setting(0.0001, "At the last step.", above=0)
    initializer: str = setting("NORMALIZED", "Of start vectors.", choices=("NORMALIZED", "UNIFORM"))
    walk_buffer_size: int = setting(1000, "Walks before a training batch starts.", at_least=1)
    seed: int = setting(42, "Of walks, samples and start vectors.", at_least=0, below=MAX_SEED)

    def __post_init__(self) -> None:
        check_settings(self, InvalidValue)
        if self.min_learning_rate > self.initial_learning_rate:
            raise InvalidValue(
                f"node2vec: min_learning_rate {self.min_learning_rate} is above initial_learning_rate "
                f"{self.initial_learning_rate}."
            )

    def gds_parameters(self) -> dict[str, Any]:
        """The configuration map of `gds.node2vec`, whole and repeatable (one thread)."""
        return {
            "embeddingDimension": self.dimension,
            "walkLength": self.walk_length,
            "walksPerNode": self.walks_per_node,
            "returnFactor": float(self.return_factor),
            "inOutFactor": float(self.in_out_factor),
            "windowSize": self.window_size,
            "negativeSamplingRate": self.negative_sampling_rate,
            "negativeSamplingExponent": float(self.negative_sampling_exponent),
            "positiveSamplingFactor": float(self.positive_sampling_factor),
            "iterations": self.iterations,
            "initialLearningRate": float(self.initial_learning_rate),
            "minLearningRate": float(self.min_learning_rate),
            "embeddingInitializer": self.initializer,
            "walkBufferSize": self.walk_buffer_size,
            "randomSeed": self.seed,
            "relationshipWeightProperty": WEIGHT,
            "concurrency": 1,
        }


class Embedder(Protocol):
    """Turns a weighted undirected graph into one vector for each node.

    An implementation promises: the same nodes, edges and configuration give the same vectors, in whatever
    order they come; a node without edges gets a vector as well; nothing that is stored changes, so a fold or
    an unsaved dataset needs no write.
    """

    name: str

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """Embed the nodes.

        Args:
            nodes: their ids, each once.
            edges: columns source, target (ids of `nodes`) and weight (positive, larger is nearer); each
                undirected edge once.

        Returns:
            A float64 vector (dimension,) for each node, in sorted order of ids.

        Raises:
            EmbeddingFailed: the edges do not fit the nodes, or a weight is not positive and finite.
        """
        ...


@dataclass(frozen=True, eq=False)
class IndexedGraph:
    """Nodes and edges as integers, in an order that depends on nothing but the ids.

    Attributes:
        nodes: sorted ids; a node's integer is its place here.
        source: int64, (n_edges,), the smaller integer of each edge.
        target: int64, (n_edges,), the larger one.
        weight: float64, (n_edges,), positive.
    """

    nodes: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def index_graph(nodes: Sequence[str], edges: pd.DataFrame) -> IndexedGraph:
    """Check nodes and edges and number them.

    Args:
        nodes: ids, each once.
        edges: columns source, target and weight, each undirected edge once.

    Raises:
        EmbeddingFailed: there is no node, a node comes twice, an edge names an unknown node, joins a node to
            itself or comes twice, or a weight is not positive and finite.
    """
    if not nodes:
        raise EmbeddingFailed("There is no node to embed: add models and datasets to the graph first.")
    ordered = tuple(sorted(nodes))
    place = {node: index for index, node in enumerate(ordered)}
    if len(place) < len(ordered):
        twice = next(a for a, b in pairwise(ordered) if a == b)
        raise EmbeddingFailed(f"The node {twice!r} is given twice.")
    if missing := [column for column in ("source", "target", WEIGHT) if column not in edges.columns]:
        raise EmbeddingFailed(
            f"The edges have no column {missing[0]!r}: source, target and weight are needed."
        )
    ends = np.array(
        [[place.get(end, -1) for end in edges[column]] for column in ("source", "target")], dtype=np.int64
    )
    first, second = ends.min(axis=0), ends.max(axis=0)
    weight = edges[WEIGHT].to_numpy(dtype=np.float64)
    # A stable sort, so that of equal pairs the one given first comes first.
    order = np.lexsort((second, first))
    again = np.zeros(len(order), dtype=bool)
    again[order[1:]] = (np.diff(first[order]) == 0) & (np.diff(second[order]) == 0)
    faulty = (first < 0) | (first == second) | again | ~(np.isfinite(weight) & (weight > 0))
    if faulty.any():
        row = int(np.argmax(faulty))
        source, target = edges["source"].iloc[row], edges["target"].iloc[row]
        what = f"The edge between {source!r} and {target!r}"
        for end in (source, target):
            if end not in place:
                raise EmbeddingFailed(f"{what}: {end!r} is not among the nodes given.")
        if source == target:
            raise EmbeddingFailed(f"{what} joins a node to itself.")
        if again[row]:
            raise EmbeddingFailed(f"{what} is given twice; edges have no direction.")
        raise EmbeddingFailed(
            f"{what} has the weight {weight[row]}: a weight must be positive and finite, larger is nearer."
        )
    return IndexedGraph(ordered, first[order], second[order], weight[order])


class GdsNode2Vec:
    """node2vec of Graph Data Science over nodes and edges that need not be stored.

    The graph is projected from parameters, under integers of ours. GDS seeds a node's start vector from its
    id, so ids taken from the database would give other vectors after every rebuild. One thread is used, since
    more make it unrepeatable.

    Args:
        runner: where to run it.
        config: the parameters.

    Source:
        Grover and Leskovec 2016, node2vec; the in-out decision of that algorithm looks at which edges exist,
        not at their weights, so on a dense graph p and q do little: see `graphdb.node2vecplus`.
    """

    name = "node2vec"

    def __init__(self, runner: Runner, config: Node2VecConfig | None = None) -> None:
        self._runner = runner
        self.config = config or Node2VecConfig()

    @cached_property
    def library(self) -> str:
        """The version of the server's Graph Data Science library, on which the vectors depend."""
        return f"GDS {self._runner.gds_version()}"

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `Embedder.embed`."""
        graph = index_graph(nodes, edges)
        if graph.weight.size == 0:
            raise EmbeddingFailed("There is no edge to walk along: record results or similarities first.")
        # Nodes first and in order, so that the projection's own ids are ours; their rows also bring in the
        # isolated ones. Columns, because a million rows take several times the memory in the server.
        nothing = [None] * len(graph.nodes)
        source = [*range(len(graph.nodes)), *graph.source.tolist()]
        target = [*nothing, *graph.target.tolist()]
        weight = [*nothing, *graph.weight.tolist()]
        projection = f"matchgraph-{uuid.uuid4().hex}"
        try:
            answer = self._runner.read(
                queries.load("read/node2vec"),
                projection=projection,
                source=source,
                target=target,
                weight=weight,
                config=self.config.gds_parameters(),
            )
        finally:
            self._runner.read(queries.load("read/drop-projection"), projection=projection)
        vectors = {row["node"]: np.array(row["embedding"], dtype=np.float64) for row in answer}
        if len(vectors) != len(graph.nodes) or not all(
            np.isfinite(vector).all() for vector in vectors.values()
        ):
            raise EmbeddingFailed(
                f"node2vec gave {len(vectors)} vectors for {len(graph.nodes)} nodes, or infinite ones: "
                "try a smaller learning rate."
            )
        return {node: vectors[index] for index, node in enumerate(graph.nodes)}
