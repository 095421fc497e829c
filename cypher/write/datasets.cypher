// Save datasets: each node gets exactly these properties, its edges stay.
UNWIND $rows AS row
MERGE (d:MatchGraphDataset {id: row.id})
SET d = row.properties, d:Dataset
