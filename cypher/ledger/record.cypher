// Enter runs of another ledger; one that this ledger has already stays as it is.
// Parameters: rows, a list of {id, model, dataset, properties}.
UNWIND $rows AS row
MATCH (model:MatchGraphModel {id: row.model})
MATCH (dataset:MatchGraphDataset {id: row.dataset})
MERGE (run:MatchGraphRun {id: row.id})
ON CREATE SET run:Run, run += row.properties
MERGE (run)-[:OF]->(model)
MERGE (run)-[:ON]->(dataset)
