// Whether a run's model or dataset has other content than it was queued with.
MATCH (model:Model)<-[:OF]-(run:Run {id: $id})-[:ON]->(dataset:Dataset)
WHERE model.content_hash <> run.model_fingerprint OR dataset.content_hash <> run.dataset_fingerprint
RETURN run.id AS id
