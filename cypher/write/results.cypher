// Save how well models do on datasets. What an earlier value was measured with goes away with it, and so does what was derived
// from it for Neo4j Browser. Run after lock.cypher in one transaction.
UNWIND $rows AS row
MATCH (m:MatchGraphModel {id: row.model})
MATCH (d:MatchGraphDataset {id: row.dataset})
MERGE (m)-[e:PERFORMS]->(d)
FOREACH (name IN [k IN keys(e) WHERE k STARTS WITH row.prefix OR k IN ['metric', 'value', 'weight', 'band']] | SET e[name] = null)
SET e += row.properties
