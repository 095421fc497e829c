// Datasets and the three nearest to each
MATCH (d:MatchGraphDataset)-[n:NEAREST|NEAR]->(o:MatchGraphDataset)
RETURN d, n, o
