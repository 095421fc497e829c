// Record that a migration was applied, on the one node that is about the graph itself.
MERGE (graph:MatchGraph {name: 'matchgraph'})
ON CREATE SET graph.metrics = [], graph.larger_is_better = [], graph.version = $version
ON MATCH SET graph.version = CASE WHEN graph.version < $version THEN $version ELSE graph.version END
