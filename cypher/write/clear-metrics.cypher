// Forget all metrics. Their ranges go with them.
MATCH (graph:MatchGraph)
SET graph = {name: graph.name, version: graph.version, metrics: [], larger_is_better: []}
