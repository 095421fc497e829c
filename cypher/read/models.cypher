// All models.
MATCH (m:MatchGraphModel)
RETURN properties(m) AS properties
