// Datasets most similar to one, by recorded similarity
// With the best model of each, a first guess for the given dataset.
// :param dataset dataset -- id of the dataset
// :param similarity metric clip_fid -- metric by which datasets were compared
// :param metric metric clip_fid -- metric of the results
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign,
     CASE WHEN $similarity IN graph.larger_is_better THEN -1 ELSE 1 END AS far
MATCH (:MatchGraphDataset {id: $dataset})-[s:SIMILAR]-(o:MatchGraphDataset)
WHERE s[$similarity] IS NOT NULL
CALL (o, sign) {
  OPTIONAL MATCH (m:MatchGraphModel)-[e:PERFORMS]->(o)
  WHERE e[$metric] IS NOT NULL
  RETURN m.id AS best_model, e[$metric] AS best_value
  ORDER BY sign * best_value, best_model
  LIMIT 1
}
RETURN o.id AS dataset, s[$similarity] AS similarity, best_model, best_value
ORDER BY far * similarity, dataset
LIMIT $limit
