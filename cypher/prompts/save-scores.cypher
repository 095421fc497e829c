// Save how well variants do on prompts. What an earlier value was measured with goes away with it.
UNWIND $rows AS row
MATCH (v:Variant {id: row.variant})
MATCH (p:Prompt {id: row.prompt})
MERGE (v)-[e:SCORED {key: row.key}]->(p)
FOREACH (name IN [k IN keys(e) WHERE k STARTS WITH row.prefix] | SET e[name] = null)
SET e += row.properties
