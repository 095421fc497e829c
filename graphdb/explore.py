"""Named questions to the graph: the statements under `cypher/explore`, with their parameters checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb import queries
from matchgraph.graphdb.repository import MatchingGraph

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner


def explore(runner: Runner, name: str, given: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Run an exploration query.

    Args:
        runner: where to run it.
        name: its name.
        given: values of its parameters; defaults fill in the rest.

    Returns:
        Column names and rows.

    Raises:
        QueryNotFound: there is no such query.
        ParameterInvalid: a parameter is missing or unknown.
        NodeNotFound: a model or dataset is not in the graph.
        UnknownMetric: a metric is neither known nor defined in the graph.
    """
    info = queries.describe(name)
    arguments = info.arguments(given)
    graph = MatchingGraph(runner)
    for parameter in info.parameters:
        # A misspelt name would give no rows, which looks like an answer.
        match parameter.type:
            case "metric":
                graph.metric(arguments[parameter.name])
            case "model" | "dataset":
                graph.require(parameter.type, arguments[parameter.name])
    return runner.read_only(queries.load(f"{queries.EXPLORE}/{name}"), arguments)
