// Store the short names of models and datasets by which Neo4j Browser captions them. $models and $datasets are short names by id.
CALL () {
  MATCH (m:MatchGraphModel)
  SET m.matchgraph_name = $models[m.id]
}
CALL () {
  MATCH (d:MatchGraphDataset)
  SET d.matchgraph_name = $datasets[d.id]
}
