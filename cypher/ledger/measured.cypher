// Which of the runs $ids have a value of each metric that they were run for: on their edge, or on themselves where they repeat a
// measurement to tell its noise.
// Parameters: ids, run ids.
UNWIND $ids AS id
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: id})-[:ON]->(dataset:MatchGraphDataset)
OPTIONAL MATCH (model)-[edge:PERFORMS]->(dataset)
WITH run, CASE WHEN coalesce(run.replicate, false) THEN properties(run) ELSE properties(edge) END AS figures
WHERE all(metric IN run.metrics WHERE figures[metric] IS NOT NULL)
RETURN run.id AS id
