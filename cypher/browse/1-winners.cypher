// Which model is best on which dataset (thick green), and which dataset is nearest to which (thick blue)
MATCH (m:MatchGraphModel)-[e:BEST]->(d:MatchGraphDataset)
OPTIONAL MATCH (d)-[n:NEAREST]->(o:MatchGraphDataset)
RETURN m, e, d, n, o
