// The ids of all datasets.
MATCH (d:MatchGraphDataset)
RETURN d.id AS id ORDER BY id
