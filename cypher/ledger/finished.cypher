// All runs that are done, with their model and dataset.
MATCH (model:Model)<-[:OF]-(run:Run {status: 'DONE'})-[:ON]->(dataset:Dataset)
RETURN model.id AS model, dataset.id AS dataset, properties(run) AS properties
ORDER BY model, dataset, run.id
