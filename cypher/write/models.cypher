// Save models: each node gets exactly these properties, its edges stay.
UNWIND $rows AS row
MERGE (m:MatchGraphModel {id: row.id})
SET m = row.properties, m:Model
