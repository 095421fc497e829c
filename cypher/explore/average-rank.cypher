// Models by their average rank over all datasets
// A default choice if nothing is known about a dataset. Ties share the mean of their ranks; `wins` counts datasets on which no
// model is better.
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d:MatchGraphDataset)
WHERE e[$metric] IS NOT NULL
WITH d, collect({model: m.id, value: sign * e[$metric]}) AS rows
UNWIND rows AS row
WITH row.model AS model, size([other IN rows WHERE other.value < row.value]) AS better,
     size([other IN rows WHERE other.value = row.value]) AS same
RETURN model, count(*) AS datasets, avg(1 + better + (same - 1) / 2.0) AS average_rank,
       count(CASE WHEN better = 0 THEN 1 END) AS wins
ORDER BY average_rank, model
