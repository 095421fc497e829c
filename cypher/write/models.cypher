// Save models: each node gets exactly these properties, or with $merge these beside those that it has; its edges stay.
UNWIND $rows AS row
MERGE (m:MatchGraphModel {id: row.id})
FOREACH (_ IN CASE WHEN $merge THEN [] ELSE [1] END | SET m = {id: row.id})
SET m += row.properties, m:Model
