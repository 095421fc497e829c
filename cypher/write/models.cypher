// Save models: each node gets exactly these properties, or with $merge these beside those that it has; its edges stay.
// A new node goes by its id in Neo4j Browser until a refresh gives it a short name.
UNWIND $rows AS row
MERGE (m:MatchGraphModel {id: row.id})
FOREACH (_ IN CASE WHEN $merge THEN [] ELSE [1] END | SET m = {id: row.id, matchgraph_name: m.matchgraph_name})
SET m += row.properties, m.matchgraph_name = coalesce(m.matchgraph_name, row.id), m:Model
