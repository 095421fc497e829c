// Datasets on which the newest model is the best
// The newest, by the property `released`, of the models measured on the dataset, if it strictly beats all older ones.
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d:MatchGraphDataset)
WHERE e[$metric] IS NOT NULL AND m.released IS NOT NULL
WITH sign, d, m, e[$metric] AS value
ORDER BY sign * value, m.id
WITH d, sign, max(m.released) AS newest, collect({model: m.id, released: m.released, value: value}) AS rows
WITH d, sign, newest, head([row IN rows WHERE row.released = newest]) AS new,
     head([row IN rows WHERE row.released < newest]) AS old
WHERE sign * new.value < sign * old.value
RETURN d.id AS dataset, new.model AS newest, newest AS released, new.value AS value, old.model AS best_older,
       old.value AS older_value
ORDER BY dataset
