// The figures of runs that repeated a measurement under another seed to tell its noise; those whose figures are in the edge are not among them.
// Parameters: metric, its name.
MATCH (m:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(d:MatchGraphDataset)
WHERE run.replicate AND run.average IS NULL AND run.status = 'DONE' AND run[$metric] IS NOT NULL
RETURN m.id AS model, d.id AS dataset, run.config AS config, run[$metric] AS value
ORDER BY model, dataset, run.id
