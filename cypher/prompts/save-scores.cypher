// Save how well variants do on prompts by some metrics. What an earlier value of these was measured with goes
// away with it; a value that is null is left out.
UNWIND $rows AS row
MATCH (v:Variant {id: row.variant})
MATCH (p:Prompt {id: row.prompt})
MERGE (v)-[e:SCORED {key: row.key}]->(p)
FOREACH (name IN [k IN keys(e) WHERE any(prefix IN $prefixes WHERE k STARTS WITH prefix)] |
  SET e[name] = null)
SET e += $shared
FOREACH (place IN range(0, size($names) - 1) | SET e[$names[place]] = row.values[place])
