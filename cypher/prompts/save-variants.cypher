// Save models as they are served, each joined to its model alone.
UNWIND $rows AS row
MATCH (m:Model {id: row.model})
MERGE (v:Variant {id: row.id})
SET v = row.properties
WITH v, m
OPTIONAL MATCH (v)-[old:OF]->(other:Model)
WHERE other <> m
DELETE old
MERGE (v)-[:OF]->(m)
