// One model on every dataset: where it is strong, and where it is weak
MATCH (m:Model {id: $model})-[e:BEST|GOOD|FAIR|POOR]->(d:Dataset)
RETURN m, e, d
