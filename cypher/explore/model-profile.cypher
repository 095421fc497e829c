// Results of a model on every dataset it was measured on
// Best rank first; `of` is how many models were measured on the dataset.
// :param model model -- id of the model
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (:MatchGraphModel {id: $model})-[mine:PERFORMS]->(d:MatchGraphDataset)
WHERE mine[$metric] IS NOT NULL
CALL (d, sign) {
  MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d)
  WHERE e[$metric] IS NOT NULL
  WITH m.id AS model, e[$metric] AS value
  ORDER BY sign * value, model
  RETURN collect({model: model, value: value}) AS rows
}
RETURN d.id AS dataset, 1 + size([row IN rows WHERE sign * row.value < sign * mine[$metric]]) AS rank,
       size(rows) AS of, mine[$metric] AS value, mine['initial_' + $metric] AS initial,
       rows[0].model AS best_model, rows[0].value AS best_value
ORDER BY rank, dataset
