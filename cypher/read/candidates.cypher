// Models that can be chosen for a dataset: all but students, which draw for their teachers and are not fine-tuned,
// unless one was.
MATCH (m:Model)
WHERE NOT EXISTS { (m)-[e]->(:Model) WHERE type(e) = 'DISTILLED_FROM' } OR EXISTS { (m)-[:PERFORMS]->(:Dataset) }
RETURN properties(m) AS properties
