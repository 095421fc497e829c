// Gain of fine-tuning, for each pair measured before and after it
// A positive gain is an improvement, whatever the metric's direction. The smallest gains come first: pairs that fine-tuning made worse.
// :param metric metric clip_fid -- metric of the results
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d:MatchGraphDataset)
WHERE e[$metric] IS NOT NULL AND e['initial_' + $metric] IS NOT NULL
WITH m, d, e['initial_' + $metric] AS initial, e[$metric] AS value, sign
RETURN m.id AS model, d.id AS dataset, initial, value, sign * (initial - value) AS gain
ORDER BY gain, model, dataset
LIMIT $limit
