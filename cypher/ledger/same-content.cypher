// Guard of a result: returns no row where the run's model or dataset has other content than it was queued with.
MATCH (model:Model)<-[:OF]-(run:Run {id: $id})-[:ON]->(dataset:Dataset)
WHERE coalesce(model.content_hash, run.model_fingerprint) = run.model_fingerprint
  AND coalesce(dataset.content_hash, run.dataset_fingerprint) = run.dataset_fingerprint
RETURN run.id AS id
