// Whether a run's model or dataset has other content than it was queued with.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: $id})-[:ON]->(dataset:MatchGraphDataset)
WHERE model.content_hash <> run.model_fingerprint OR dataset.content_hash <> run.dataset_fingerprint
RETURN run.id AS id
