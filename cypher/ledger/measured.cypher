// Which properties the edge of each of the runs $ids has, from its model to its dataset: a run is done when every metric is there.
// Parameters: ids, run ids.
UNWIND $ids AS id
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: id})-[:ON]->(dataset:MatchGraphDataset)
MATCH (model)-[edge:PERFORMS]->(dataset)
RETURN run.id AS id, keys(edge) AS names
