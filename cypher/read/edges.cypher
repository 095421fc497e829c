// All model-dataset or dataset-dataset edges with everything that was measured on them.
// Parameters: type, PERFORMS or SIMILAR.
MATCH (from:MatchGraphModel|MatchGraphDataset)-[e]->(to:MatchGraphDataset)
WHERE type(e) = $type
RETURN from.id AS from, to.id AS to, properties(e) AS properties
ORDER BY from, to
