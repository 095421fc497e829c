// Repeat the edges of these datasets to their nearest ones as NEAREST, and those to the two next ones as NEAR, for Neo4j Browser, after
// similarities-default.cypher. $datasets are ids. `matchgraph` marks these edges as ours.
MATCH (graph:MatchGraph)
MATCH (d:MatchGraphDataset)
WHERE d.id IN $datasets
CALL (d) {
  MATCH (d)-[old:NEAREST|NEAR {matchgraph: true}]->(:MatchGraphDataset)
  DELETE old
}
MATCH (d)-[e:SIMILAR]-(o:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH d, o, e, CASE WHEN e.metric IN graph.larger_is_better THEN -e.value ELSE e.value END AS distance
ORDER BY e.metric, distance, o.id
WITH d, e.metric AS metric, collect({dataset: o, value: e.value})[..3] AS nearest
UNWIND range(0, size(nearest) - 1) AS i
WITH d, nearest[i].dataset AS o, {rank: i + 1, metric: metric, value: nearest[i].value, matchgraph: true} AS shown
FOREACH (_ IN CASE shown.rank WHEN 1 THEN [1] ELSE [] END | CREATE (d)-[new:NEAREST]->(o) SET new = shown)
FOREACH (_ IN CASE shown.rank WHEN 1 THEN [] ELSE [1] END | CREATE (d)-[new:NEAR]->(o) SET new = shown)
