// Runs with their model and dataset, of some statuses.
// Parameters: statuses, or null for all.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(dataset:MatchGraphDataset)
WHERE $statuses IS NULL OR run.status IN $statuses
RETURN model.id AS model, dataset.id AS dataset, properties(run) AS properties
ORDER BY model, dataset, run.id
