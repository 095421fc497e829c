// Set the weight of every result on these datasets, after results-default.cypher.
// It is exp(-$sharpness r), r the rank among the models measured on the dataset by the same metric, as a fraction in which ties
// share their average: graphdb/weights.py, result_weight. Sorted once for each dataset, since comparing each with each takes minutes
// where thousands of models are measured on one.
// $datasets are ids. 0.0 makes one number of the two zeros, so that they tie.
MATCH (graph:MatchGraph)
MATCH (d:MatchGraphDataset)
WHERE d.id IN $datasets
MATCH (d)<-[e:PERFORMS]-(:MatchGraphModel)
WHERE e.value IS NOT NULL
WITH d, e.metric AS m, e, CASE WHEN e.metric IN graph.larger_is_better THEN 0.0 - e.value ELSE 0.0 + e.value END AS loss
ORDER BY loss
WITH d, m, collect(e) AS edges, collect(loss) AS losses
UNWIND range(0, size(edges) - 1) AS i
WITH d, m, size(edges) AS measured, losses[i] AS loss, min(i) AS first, max(i) AS last, collect(edges[i]) AS tied
UNWIND tied AS e
SET e.weight = exp(-$sharpness * (first + last + 1) / 2.0 / measured)
