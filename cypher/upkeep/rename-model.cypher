// Give a model another id, and its name where that was the id. Run after lock.cypher in one transaction.
MATCH (m:MatchGraphModel {id: $old})
SET m.name = CASE WHEN m.name = $old THEN $new ELSE m.name END, m.id = $new
