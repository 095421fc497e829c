// Give a model another id, and its name where that was the id. Run after lock.cypher in one transaction.
// In Neo4j Browser it goes by its id until a refresh gives it a short name.
MATCH (m:MatchGraphModel {id: $old})
SET m.name = CASE WHEN m.name = $old THEN $new ELSE m.name END, m.id = $new, m.matchgraph_name = $new
