// All models as they are served.
MATCH (v:MatchGraphVariant)-[:OF]->(m:MatchGraphModel)
RETURN properties(v) AS properties, m.id AS model
ORDER BY v.id
