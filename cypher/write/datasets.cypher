// Save datasets: each node gets exactly these properties, or with $merge these beside those that it has; its edges stay.
// A new node goes by its id in Neo4j Browser until a refresh gives it a short name.
UNWIND $rows AS row
MERGE (d:MatchGraphDataset {id: row.id})
FOREACH (_ IN CASE WHEN $merge THEN [] ELSE [1] END | SET d = {id: row.id, matchgraph_name: d.matchgraph_name})
SET d += row.properties, d.matchgraph_name = coalesce(d.matchgraph_name, row.id), d:Dataset
