// All datasets.
MATCH (d:MatchGraphDataset)
RETURN properties(d) AS properties
