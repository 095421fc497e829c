// Save how well variants do on prompts by some metrics. What an earlier value of these was measured with goes
// away with it; a value that is null is left out. Run after lock.cypher in one transaction.
UNWIND $rows AS row
MATCH (v:MatchGraphVariant {id: row.variant})
MATCH (p:MatchGraphPrompt {id: row.prompt})
MERGE (v)-[e:SCORED]->(p)
FOREACH (name IN [k IN keys(e) WHERE any(prefix IN $prefixes WHERE k STARTS WITH prefix)] |
  SET e[name] = null)
SET e += $shared
FOREACH (place IN range(0, size($names) - 1) | SET e[$names[place]] = row.values[place])
