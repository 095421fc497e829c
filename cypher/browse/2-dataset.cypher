// All models on one dataset, and the datasets nearest to it
MATCH (m:Model)-[e:BEST|GOOD|FAIR|POOR]->(d:Dataset {id: $dataset})
OPTIONAL MATCH (d)-[n:NEAREST|NEAR]->(o:Dataset)
RETURN m, e, d, n, o
