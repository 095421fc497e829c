// One model on every dataset: where it is strong, and where it is weak
MATCH (m:MatchGraphModel {id: $model})-[e:BEST|GOOD|FAIR|POOR]->(d:MatchGraphDataset)
RETURN m, e, d
