"""node2vec+: walks whose in-out decision looks at weights, not only at which edges exist.

On a dense graph of similarities every node is every other's neighbour, so node2vec's return and in-out
factors do next to nothing. node2vec+ calls an edge absent where it is weaker than is usual for its node.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.embedding import IndexedGraph, Node2VecConfig, index_graph
from matchgraph.graphdb.errors import EmbeddingFailed, InvalidValue

if TYPE_CHECKING:
    import pandas as pd

# The mean of equal weights may come out a bit above them; without this an unweighted graph would have weak
# edges.
ROUNDING = 1e-12
CELLS_AT_ONCE = 2**24


def weight_matrix(graph: IndexedGraph) -> np.ndarray:
    """The symmetric weights of a graph, float64, (n, n), 0 where there is no edge."""
    matrix = np.zeros((len(graph.nodes), len(graph.nodes)))
    matrix[graph.source, graph.target] = graph.weight
    matrix[graph.target, graph.source] = graph.weight
    return matrix


def weak_edge_thresholds(weights: np.ndarray, gamma: float = 0.0) -> np.ndarray:
    """The weight below which an edge of each node counts as weak: tau(v) = mean + gamma * standard deviation
    of its weights.

    Args:
        weights: (n, n), symmetric, 0 where there is no edge.
        gamma: how many standard deviations above its mean an edge must be to count as strong.

    Returns:
        float64, (n,), never negative; 0 for a node without edges.

    Source:
        Liu, Hirn and Krishnan 2023, node2vec+.
    """
    present = weights > 0
    degree = np.maximum(present.sum(axis=1), 1)
    mean = weights.sum(axis=1) / degree
    variance = (np.where(present, weights - mean[:, None], 0.0) ** 2).sum(axis=1) / degree
    return np.maximum(mean + gamma * np.sqrt(variance), 0.0)


def transition_probabilities(
    weights: np.ndarray,
    thresholds: np.ndarray,
    previous: np.ndarray,
    current: np.ndarray,
    return_factor: float,
    in_out_factor: float,
) -> np.ndarray:
    """Where walks go next that came from `previous` to `current`.

    With w the weights, tau the thresholds, p and q the return and in-out factors, the step to x is as likely
    as w(current, x) * alpha(x), where

    - alpha = 1/p for x = previous;
    - alpha = 1 where w(previous, x) >= tau(x): x is near `previous`;
    - otherwise, with t = w(previous, x) / tau(x), alpha = 1/q + (1 - 1/q) * t, which goes from node2vec's out
      bias at t = 0 to no bias at t = 1; but alpha = min(1, 1/q) where w(current, x) < tau(current), so that a
      weak edge is never preferred.

    With equal weights and gamma = 0 this is node2vec.

    Args:
        weights: (n, n), symmetric, 0 where there is no edge.
        thresholds: (n,), of `weak_edge_thresholds`.
        previous: int, (k,), the node each of k walks was at before.
        current: int, (k,), the node it is at, joined to `previous`.
        return_factor: p.
        in_out_factor: q.

    Returns:
        float64, (k, n), rows sum to 1.

    Source:
        Liu, Hirn and Krishnan 2023, node2vec+ (the piecewise bias alpha).
    """
    step = weights[current]
    back = weights[previous]
    strict = thresholds * (1 - ROUNDING)
    closeness = back / np.where(thresholds > 0, thresholds, 1.0)
    alpha = 1 / in_out_factor + (1 - 1 / in_out_factor) * closeness
    alpha = np.where(step < strict[current][:, None], min(1.0, 1 / in_out_factor), alpha)
    alpha = np.where(back < strict, alpha, 1.0)
    alpha[np.arange(len(current)), previous] = 1 / return_factor
    likelihood = step * alpha
    return likelihood / likelihood.sum(axis=1, keepdims=True)


def random_walks(weights: np.ndarray, config: Node2VecConfig, gamma: float = 0.0) -> np.ndarray:
    """Walk `walks_per_node` times from every node that has an edge.

    Args:
        weights: (n, n), symmetric, 0 where there is no edge.
        config: walk length, walks per node, factors and seed.
        gamma: see `weak_edge_thresholds`.

    Returns:
        int64, (walks, walk_length): the nodes visited.
    """
    generator = np.random.default_rng(config.seed)
    starts = np.flatnonzero(weights.sum(axis=1) > 0)
    thresholds = weak_edge_thresholds(weights, gamma)
    # The chances of all walks at once would be several matrices as large as the graph's.
    height = max(1, CELLS_AT_ONCE // len(weights))
    parts = [slice(start, start + height) for start in range(0, starts.size, height)]
    rounds = []
    for _ in range(config.walks_per_node if starts.size else 0):
        walks = np.empty((starts.size, config.walk_length), dtype=np.int64)
        walks[:, 0] = starts
        for part in parts:
            first = weights[starts[part]]
            walks[part, 1] = _draw(first / first.sum(axis=1, keepdims=True), generator)
        for position, part in product(range(2, config.walk_length), parts):
            chances = transition_probabilities(
                weights,
                thresholds,
                walks[part, position - 2],
                walks[part, position - 1],
                config.return_factor,
                config.in_out_factor,
            )
            walks[part, position] = _draw(chances, generator)
        rounds.append(walks)
    return np.concatenate(rounds) if rounds else np.empty((0, config.walk_length), dtype=np.int64)


def _draw(probabilities: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    cumulative = probabilities.cumsum(axis=1)
    # Scaled by the last sum, which rounding may leave below 1, a draw never falls past the last possible
    # step.
    drawn = generator.random(len(probabilities)) * cumulative[:, -1]
    return (cumulative <= drawn[:, None]).sum(axis=1)


class Node2VecPlus:
    """node2vec+ walks, then a skip-gram model with negative sampling.

    It needs no server. Vectors depend on nothing but nodes, edges, configuration and gamma. Weights are a
    full matrix, so time and memory grow with the square of the number of nodes: of ten thousand it takes
    0.8 GB, a few times over.

    Args:
        config: the parameters; `walk_buffer_size` and `initializer` mean nothing here.
        gamma: how many standard deviations above its mean an edge must be to count as strong.

    Raises:
        InvalidValue: gamma is not finite.

    Source:
        Liu, Hirn and Krishnan 2023, Accurately modeling biased random walks on weighted networks using
        node2vec+.
    """

    name = "node2vec+"

    def __init__(self, config: Node2VecConfig | None = None, gamma: float = 0.0) -> None:
        if not np.isfinite(gamma):
            raise InvalidValue(f"node2vec+: gamma is {gamma}: a finite number is needed.")
        self.config = config or Node2VecConfig()
        self.gamma = float(gamma)

    def embed(self, nodes: Sequence[str], edges: pd.DataFrame) -> dict[str, np.ndarray]:
        """See `Embedder.embed`; a node without edges keeps its start vector."""
        from gensim.models import Word2Vec

        graph = index_graph(nodes, edges)
        if graph.weight.size == 0:
            raise EmbeddingFailed("There is no edge to walk along: record results or similarities first.")
        walks = random_walks(weight_matrix(graph), self.config, self.gamma)
        config = self.config
        model = Word2Vec(
            vector_size=config.dimension,
            window=config.window_size,
            min_count=1,
            sg=1,
            hs=0,
            negative=config.negative_sampling_rate,
            ns_exponent=config.negative_sampling_exponent,
            # gensim reads a share below 1, a count from 1 on, and 0 as thinning out none.
            sample=config.positive_sampling_factor if config.positive_sampling_factor < 1 else 0,
            alpha=config.initial_learning_rate,
            min_alpha=config.min_learning_rate,
            epochs=config.iterations,
            seed=config.seed,
            workers=1,
            sorted_vocab=0,
            hashfxn=_stable_hash,
        )
        # One word for each node first, so that the vocabulary is in the order of the nodes and holds the
        # isolated ones.
        sentences = [
            [str(index) for index in range(len(graph.nodes))],
            *(list(map(str, walk)) for walk in walks.tolist()),
        ]
        model.build_vocab(sentences)
        sentences = sentences[1:]
        model.train(sentences, total_examples=len(sentences), epochs=config.iterations)
        return {node: model.wv[str(index)].astype(np.float64) for index, node in enumerate(graph.nodes)}


def _stable_hash(text: str) -> int:
    return zlib.crc32(text.encode())
