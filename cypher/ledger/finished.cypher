// All runs that are done, with their model and dataset.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {status: 'DONE'})-[:ON]->(dataset:MatchGraphDataset)
RETURN model.id AS model, dataset.id AS dataset, properties(run) AS properties
ORDER BY model, dataset, run.id
