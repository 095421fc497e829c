// Datasets and the three nearest to each
MATCH (d:Dataset)-[n:NEAREST|NEAR]->(o:Dataset)
RETURN d, n, o
