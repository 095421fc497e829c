// The version of the schema, 0 where there is none of ours.
OPTIONAL MATCH (graph:MatchGraph)
RETURN coalesce(max(graph.version), 0) AS version
