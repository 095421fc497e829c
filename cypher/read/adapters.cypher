// Results of adapters that were trained elsewhere, with all that is known of each edge that has one.
MATCH (m:MatchGraphModel)-[result:PERFORMS]->(d:MatchGraphDataset)
WHERE any(name IN keys(result) WHERE name ENDS WITH '__adapter')
RETURN m.id AS model, d.id AS dataset, properties(result) AS properties
