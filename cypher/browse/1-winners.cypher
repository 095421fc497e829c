// Which model is best on which dataset (thick green), and which dataset is nearest to which (thick blue)
MATCH (m:Model)-[e:BEST]->(d:Dataset)
OPTIONAL MATCH (d)-[n:NEAREST]->(o:Dataset)
RETURN m, e, d, n, o
