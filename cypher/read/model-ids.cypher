// The ids of all models.
MATCH (m:MatchGraphModel)
RETURN m.id AS id ORDER BY id
