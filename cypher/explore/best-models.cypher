// Best models of a dataset
// Every model measured on the dataset after fine-tuning, best first, with its value before fine-tuning.
// :param dataset dataset -- id of the dataset
// :param metric metric clip_fid -- metric of the results
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(:MatchGraphDataset {id: $dataset})
WHERE e[$metric] IS NOT NULL
WITH sign, collect({model: m.id, value: e[$metric], initial: e['initial_' + $metric]}) AS rows
UNWIND rows AS row
RETURN 1 + size([other IN rows WHERE sign * other.value < sign * row.value]) AS rank,
       row.model AS model, row.value AS value, row.initial AS initial
ORDER BY rank, model
LIMIT $limit
