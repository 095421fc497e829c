// Two models side by side on every dataset both were measured on
// :param model model -- id of one model
// :param other model -- id of the other
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (a:MatchGraphModel {id: $model})-[x:PERFORMS]->(d:MatchGraphDataset)<-[y:PERFORMS]-(b:MatchGraphModel {id: $other})
WHERE x[$metric] IS NOT NULL AND y[$metric] IS NOT NULL
RETURN d.id AS dataset, x[$metric] AS value, y[$metric] AS other_value,
       CASE WHEN sign * x[$metric] < sign * y[$metric] THEN a.id
            WHEN sign * x[$metric] > sign * y[$metric] THEN b.id END AS better
ORDER BY dataset
