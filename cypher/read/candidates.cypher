// Models that can be chosen for a dataset: all but students, which draw for their teachers and are not fine-tuned,
// unless one was.
MATCH (m:MatchGraphModel)
WHERE NOT EXISTS { (m)-[e]->(:MatchGraphModel) WHERE type(e) = 'DISTILLED_FROM' } OR EXISTS { (m)-[:PERFORMS]->(:MatchGraphDataset) }
RETURN properties(m) AS properties
