// All model-dataset and dataset-dataset edges with everything that was measured on them.
// Parameters: type, PERFORMS or SIMILAR.
MATCH (from)-[e]->(to:Dataset)
WHERE type(e) = $type
RETURN from.id AS from, to.id AS to, properties(e) AS properties
ORDER BY from, to
