// All runs of the ledger.
MATCH (m:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(d:MatchGraphDataset)
RETURN run.id AS run, m.id AS model, d.id AS dataset, run.status AS status, run.attempt AS attempts, run.error AS error
ORDER BY model, dataset, run
