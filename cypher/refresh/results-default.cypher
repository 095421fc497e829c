// Repeat under plain names the value of each edge's default metric, and what it was measured with.
// The default metric is $default where the edge has it, else the first by name. $datasets are ids of those the edges lead to.
MATCH (graph:MatchGraph)
UNWIND graph.metrics AS name
WITH name ORDER BY name
WITH collect(name) AS metrics
MATCH (d:MatchGraphDataset)
WHERE d.id IN $datasets
MATCH (d)<-[e:PERFORMS]-(:MatchGraphModel)
WITH e, metrics, head([name IN [$default] + metrics WHERE e[name] IS NOT NULL]) AS metric
WITH e, metric, metrics + [name IN metrics | 'initial_' + name] AS kept
FOREACH (name IN [k IN keys(e) WHERE NOT k CONTAINS '__' AND NOT k IN kept] | SET e[name] = null)
FOREACH (name IN [k IN keys(e) WHERE k STARTS WITH metric + '__' AND NOT substring(k, size(metric) + 2) IN kept] |
  SET e[substring(name, size(metric) + 2)] = e[name])
SET e.metric = metric, e.value = e[metric]
