// Guard of a result: returns no row where the run's model or dataset has other content than it was queued with.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: $id})-[:ON]->(dataset:MatchGraphDataset)
WHERE coalesce(model.content_hash, run.model_fingerprint) = run.model_fingerprint
  AND coalesce(dataset.content_hash, run.dataset_fingerprint) = run.dataset_fingerprint
RETURN run.id AS id
