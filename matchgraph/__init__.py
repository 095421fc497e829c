"""Choose the right text-to-image model for a dataset, out of a matching graph in Neo4j."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from matchgraph.errors import Error

if TYPE_CHECKING:
    __version__: str

__all__ = ["Error", "__version__"]

# Name -> module that has it. Loaded on first use: `matchgraph --help` imports this package as well.
LAZY: dict[str, str] = {}

if not TYPE_CHECKING:  # or a type checker would let every name pass

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("matchgraph")
        if name in LAZY:
            return getattr(importlib.import_module(LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
