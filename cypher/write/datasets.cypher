// Save datasets: each node gets exactly these properties, or with $merge these beside those that it has; its edges stay.
UNWIND $rows AS row
MERGE (d:MatchGraphDataset {id: row.id})
FOREACH (_ IN CASE WHEN $merge THEN [] ELSE [1] END | SET d = {id: row.id})
SET d += row.properties, d:Dataset
