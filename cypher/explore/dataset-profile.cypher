// One dataset at a glance
// What is recorded for it: images, models measured with the best and the median value, its nearest dataset, feature statistics.
// :param dataset dataset -- id of the dataset
// :param metric metric clip_fid -- metric of the results
// :param similarity metric clip_fid -- metric by which datasets were compared
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign,
     CASE WHEN $similarity IN graph.larger_is_better THEN -1 ELSE 1 END AS far
MATCH (d:MatchGraphDataset {id: $dataset})
CALL (d, sign) {
  OPTIONAL MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d)
  WHERE e[$metric] IS NOT NULL
  WITH m.id AS model, e[$metric] AS value
  ORDER BY sign * value, model
  RETURN count(model) AS models, head(collect(model)) AS best_model, head(collect(value)) AS best_value,
         percentileCont(value, 0.5) AS median_value
}
CALL (d, far) {
  OPTIONAL MATCH (d)-[s:SIMILAR]-(o:MatchGraphDataset)
  WHERE s[$similarity] IS NOT NULL
  RETURN o.id AS nearest, s[$similarity] AS nearest_similarity
  ORDER BY far * nearest_similarity, nearest
  LIMIT 1
}
CALL (d) {
  OPTIONAL MATCH (d)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
  WITH s ORDER BY s.extractor, s.resize
  RETURN collect(s.extractor + ' ' + s.resize + ' n=' + toString(s.n)) AS statistics
}
RETURN d.id AS dataset, d.images AS images, d.captioned AS captioned, d.probe AS probe, models, best_model, best_value,
       median_value, nearest, nearest_similarity, statistics
