// All models on one dataset, and the datasets nearest to it
MATCH (m:MatchGraphModel)-[e:BEST|GOOD|FAIR|POOR]->(d:MatchGraphDataset {id: $dataset})
OPTIONAL MATCH (d)-[n:NEAREST|NEAR]->(o:MatchGraphDataset)
RETURN m, e, d, n, o
