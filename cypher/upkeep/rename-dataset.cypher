// Give a dataset another id, and its name where that was the id. Run after lock.cypher in one transaction.
// In Neo4j Browser it goes by its id until a refresh gives it a short name.
// Parameters: old, new; keys, a map from the key of each of its statistics to the new one.
MATCH (d:MatchGraphDataset {id: $old})
SET d.name = CASE WHEN d.name = $old THEN $new ELSE d.name END, d.id = $new, d.matchgraph_name = $new
WITH d
MATCH (d)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
SET s.key = $keys[s.key]
