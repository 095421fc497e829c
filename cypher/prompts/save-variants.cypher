// Save models as they are served, each joined to its model alone.
UNWIND $rows AS row
MATCH (m:MatchGraphModel {id: row.model})
MERGE (v:MatchGraphVariant {id: row.id})
SET v = row.properties, v:Variant
WITH v, m
OPTIONAL MATCH (v)-[old:OF]->(other:MatchGraphModel)
WHERE other <> m
DELETE old
MERGE (v)-[:OF]->(m)
