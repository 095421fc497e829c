"""Choose the right text-to-image model for a dataset, out of a matching graph in Neo4j.

    with matchgraph.connect() as graph:
        graph.predict("my-images/", probe="ViT-B-32/laion2b_s34b_b79k")

`connect` is where to begin; see `matchgraph.Graph` for what a graph can do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from matchgraph.errors import Error

if TYPE_CHECKING:
    from matchgraph.api import Graph, connect
    from matchgraph.drawing import Drawing
    from matchgraph.ingest.runs.config import RunConfig
    from matchgraph.predictor.recipes import Method

    __version__: str

__all__ = ["Drawing", "Error", "Graph", "Method", "RunConfig", "__version__", "connect"]

# Name -> module that has it. Loaded on first use: `matchgraph --help` imports this package as well.
LAZY: dict[str, str] = {
    "Drawing": "matchgraph.drawing",
    "Graph": "matchgraph.api",
    "Method": "matchgraph.predictor.recipes",
    "RunConfig": "matchgraph.ingest.runs.config",
    "connect": "matchgraph.api",
}

if not TYPE_CHECKING:  # or a type checker would let every name pass

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("matchgraph")
        if name in LAZY:
            return getattr(importlib.import_module(LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
