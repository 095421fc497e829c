// Runs with their model and dataset, and the server's time in milliseconds.
// Parameters, each null for no restriction: ids, run ids; models and datasets, their ids.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(dataset:MatchGraphDataset)
WHERE ($ids IS NULL OR run.id IN $ids)
  AND ($models IS NULL OR model.id IN $models)
  AND ($datasets IS NULL OR dataset.id IN $datasets)
RETURN properties(run) AS run,
       model.id AS model,
       dataset.id AS dataset,
       run.status = 'RUNNING' AND run.lease_until < timestamp() AS expired,
       timestamp() AS now
ORDER BY model, dataset, run.id
