// All runs with their model and dataset, or those of $ids, and the server's time in milliseconds.
// Parameters: ids, run ids, or null for all.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(dataset:MatchGraphDataset)
WHERE $ids IS NULL OR run.id IN $ids
RETURN properties(run) AS run,
       model.id AS model,
       dataset.id AS dataset,
       run.status = 'RUNNING' AND run.lease_until < timestamp() AS expired,
       timestamp() AS now
ORDER BY model, dataset, run.id
