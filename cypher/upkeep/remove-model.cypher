// Remove a model with its results, runs, variants and their scores. A worker that is still at such a run finds it gone.
// Run after lock.cypher in one transaction.
MATCH (m:MatchGraphModel {id: $id})
OPTIONAL MATCH (m)<-[:OF]-(n:MatchGraphRun|MatchGraphVariant)
WITH m, collect(n) AS own
FOREACH (n IN own | DETACH DELETE n)
DETACH DELETE m
