// All models as they are served.
MATCH (v:Variant)-[:OF]->(m:Model)
RETURN properties(v) AS properties, m.id AS model
ORDER BY v.id
