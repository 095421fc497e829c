// Queue fine-tuning runs; a run that is in the ledger already stays as it is, but for where the extractors are now.
// Parameters: rows, a list of {id, model, dataset, config, extractors, replicate, average, model_fingerprint, dataset_fingerprint,
// max_attempts}.
UNWIND $rows AS row
MATCH (model:MatchGraphModel {id: row.model})
MATCH (dataset:MatchGraphDataset {id: row.dataset})
MERGE (run:MatchGraphRun {id: row.id})
ON CREATE SET run:Run,
              run.status = 'QUEUED',
              run.attempt = 0,
              run.max_attempts = row.max_attempts,
              run.fence = 0,
              run.queued_at = timestamp(),
              run.config = row.config,
              run.replicate = row.replicate,
              run.model_fingerprint = row.model_fingerprint,
              run.dataset_fingerprint = row.dataset_fingerprint
SET run.extractors = row.extractors,
    run.average = coalesce(row.average, run.average)
MERGE (run)-[:OF]->(model)
MERGE (run)-[:ON]->(dataset)
RETURN run.id AS id, run.status AS status
