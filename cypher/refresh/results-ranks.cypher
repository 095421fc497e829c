// Rank the results on these datasets, each among those of the same metric, after results-default.cypher: set their weight and band, and
// repeat them as edges of their band, since Neo4j Browser can tell edges apart by nothing but their type. `matchgraph` marks these as
// ours, beside edges of such a type that another application has put between our nodes.
// The weight is exp(-$sharpness r), r the rank as a fraction in which ties share their average: graphdb/weights.py, result_weight.
// The band is best for the best result of the dataset, and good, fair or poor by thirds of the ranking below it. Sorted once for each
// dataset, since comparing each with each takes minutes where thousands of models are measured on one.
// $datasets are ids. 0.0 makes one number of the two zeros, so that they tie.
MATCH (graph:MatchGraph)
MATCH (d:MatchGraphDataset)
WHERE d.id IN $datasets
CALL (d) {
  MATCH (d)<-[old:BEST|GOOD|FAIR|POOR {matchgraph: true}]-(:MatchGraphModel)
  DELETE old
}
MATCH (d)<-[e:PERFORMS]-(:MatchGraphModel)
WHERE e.value IS NOT NULL
WITH d, e.metric AS m, e, CASE WHEN e.metric IN graph.larger_is_better THEN 0.0 - e.value ELSE 0.0 + e.value END AS loss
ORDER BY loss
WITH d, m, collect(e) AS edges, collect(loss) AS losses
UNWIND range(0, size(edges) - 1) AS i
WITH d, m, size(edges) AS measured, losses[i] AS loss, min(i) AS first, max(i) AS last, collect(edges[i]) AS tied
UNWIND tied AS e
WITH d, e, startNode(e) AS model, first, {rank: first + 1, of: measured, metric: m, value: e.value, matchgraph: true} AS shown,
     exp(-$sharpness * (first + last + 1) / 2.0 / measured) AS weight,
     CASE WHEN first = 0 THEN 'best' WHEN 3 * first < measured THEN 'good' WHEN 3 * first < 2 * measured THEN 'fair' ELSE 'poor' END AS band
SET e.weight = weight, e.band = band
FOREACH (_ IN CASE band WHEN 'best' THEN [1] ELSE [] END | CREATE (model)-[new:BEST]->(d) SET new = shown)
FOREACH (_ IN CASE band WHEN 'good' THEN [1] ELSE [] END | CREATE (model)-[new:GOOD]->(d) SET new = shown)
FOREACH (_ IN CASE band WHEN 'fair' THEN [1] ELSE [] END | CREATE (model)-[new:FAIR]->(d) SET new = shown)
FOREACH (_ IN CASE band WHEN 'poor' THEN [1] ELSE [] END | CREATE (model)-[new:POOR]->(d) SET new = shown)
