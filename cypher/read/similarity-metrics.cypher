// The metrics by which any two datasets were compared.
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS name
WITH name
WHERE EXISTS { (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset) WHERE e[name] IS NOT NULL }
RETURN name ORDER BY name
