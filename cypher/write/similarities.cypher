// Save how near datasets are to each other. What an earlier value was measured with goes away with it, and so does what was
// derived from it for Neo4j Browser. Run after lock.cypher in one transaction.
UNWIND $rows AS row
MATCH (d:MatchGraphDataset {id: row.dataset})
MATCH (o:MatchGraphDataset {id: row.other})
MERGE (d)-[e:SIMILAR]-(o)
FOREACH (name IN [k IN keys(e) WHERE k STARTS WITH row.prefix OR k IN ['metric', 'value', 'weight', 'band']] | SET e[name] = null)
SET e += row.properties
