"""The Python API: a connection to the matching graph, and everything it can do.

    import matchgraph

    with matchgraph.connect() as graph:
        graph.ingest_minizoo()
        answer = graph.predict("noto-food")
        print(answer.ranking[0].model)

Every method calls the same function as the command of its name. Nothing heavy is imported before it is
needed.
"""

from __future__ import annotations

from matchgraph.api.collaboration import Collaboration
from matchgraph.api.graph import Graph, connect
from matchgraph.api.router import Router
from matchgraph.api.runs import Runs

__all__ = ["Collaboration", "Graph", "Router", "Runs", "connect"]
