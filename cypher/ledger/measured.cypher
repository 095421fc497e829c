// Which of the runs $ids have on their edge a value of each metric that they were run for.
// Parameters: ids, run ids.
UNWIND $ids AS id
MATCH (model:Model)<-[:OF]-(run:Run {id: id})-[:ON]->(dataset:Dataset)
MATCH (model)-[edge:PERFORMS]->(dataset)
WHERE all(metric IN run.metrics WHERE edge[metric] IS NOT NULL)
RETURN run.id AS id
