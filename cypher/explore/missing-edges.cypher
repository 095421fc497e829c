// Model-dataset pairs worth measuring next
// Pairs without a result, by the standing of the model on the most similar datasets: 1 if it is the best of those measured there,
// 0 if it is the worst, averaged over the nearest datasets on which it was measured. Pairs without any such dataset come last.
// :param metric metric clip_fid -- metric of the results
// :param similarity metric clip_fid -- metric by which datasets were compared
// :param neighbours integer 3 -- nearest datasets to average over
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign,
     CASE WHEN $similarity IN graph.larger_is_better THEN -1 ELSE 1 END AS far
CALL (sign) {
  MATCH (m:MatchGraphModel)-[e:PERFORMS]->(o:MatchGraphDataset)
  WHERE e[$metric] IS NOT NULL
  WITH o, collect({model: m.id, value: sign * e[$metric]}) AS rows
  WHERE size(rows) > 1
  UNWIND rows AS row
  RETURN collect({model: row.model, dataset: o.id,
                  standing: 1 - toFloat(size([r IN rows WHERE r.value < row.value])) / (size(rows) - 1)}) AS standings
}
MATCH (m:MatchGraphModel), (d:MatchGraphDataset)
WHERE NOT EXISTS { (m)-[e:PERFORMS]->(d) WHERE e[$metric] IS NOT NULL }
CALL (m, d, far, standings) {
  MATCH (d)-[s:SIMILAR]-(o:MatchGraphDataset)
  WHERE s[$similarity] IS NOT NULL
  UNWIND [row IN standings WHERE row.model = m.id AND row.dataset = o.id] AS row
  WITH row
  ORDER BY far * s[$similarity], o.id
  LIMIT $neighbours
  RETURN avg(row.standing) AS expected, count(row) AS evidence, head(collect(row.dataset)) AS nearest
}
RETURN m.id AS model, d.id AS dataset, expected, evidence, nearest
ORDER BY coalesce(expected, -1) DESC, evidence DESC, model, dataset
LIMIT $limit
