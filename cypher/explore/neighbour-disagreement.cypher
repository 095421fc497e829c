// Similar datasets that order the models differently
// For each pair of near datasets, the share of pairs of models (of those measured on both) that the two rank in opposite order.
// 0 is the same order, 1 the reverse; such pairs are where similarity misleads. Pairs that agree are left out.
// :param metric metric clip_fid -- metric of the results
// :param similarity metric clip_fid -- metric by which datasets were compared
// :param neighbours integer 3 -- compare each dataset with this many nearest ones
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign,
     CASE WHEN $similarity IN graph.larger_is_better THEN -1 ELSE 1 END AS far
MATCH (d:MatchGraphDataset)
CALL (d, far) {
  MATCH (d)-[s:SIMILAR]-(o:MatchGraphDataset)
  WHERE s[$similarity] IS NOT NULL
  RETURN s
  ORDER BY far * s[$similarity], o.id
  LIMIT $neighbours
}
WITH DISTINCT sign, far, s, startNode(s) AS a, endNode(s) AS b
MATCH (a)<-[here:PERFORMS]-(m:MatchGraphModel)-[there:PERFORMS]->(b)
WHERE here[$metric] IS NOT NULL AND there[$metric] IS NOT NULL
WITH far, s, a, b, m.id AS model, sign * here[$metric] AS x, sign * there[$metric] AS y
ORDER BY model
WITH far, s, a, b, collect({model: model, x: x, y: y}) AS rows, min(x) AS best_x, min(y) AS best_y
WHERE size(rows) > 1
WITH far, s, a, b, rows, best_x, best_y,
     reduce(n = 0, i IN range(0, size(rows) - 2) |
       n + size([j IN range(i + 1, size(rows) - 1)
                 WHERE (rows[i].x - rows[j].x) * (rows[i].y - rows[j].y) < 0])) AS opposite
WHERE opposite > 0
RETURN a.id AS dataset, b.id AS other, s[$similarity] AS similarity, size(rows) AS models,
       head([row IN rows WHERE row.x = best_x]).model AS best_here,
       head([row IN rows WHERE row.y = best_y]).model AS best_there,
       2.0 * opposite / (size(rows) * (size(rows) - 1)) AS disagreement
ORDER BY disagreement DESC, far * similarity, dataset, other
LIMIT $limit
