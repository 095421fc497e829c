// Cheapest models that are nearly as good as the best on a dataset
// Those whose value is worse than the best by no more than the tolerance, cheapest first; models without a known cost come last.
// :param dataset dataset -- id of the dataset
// :param tolerance float 0.1 -- largest difference to the best, as a share of the best value
// :param cost string tflop -- property of the model to use as its cost, such as tflop or params
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(:MatchGraphDataset {id: $dataset})
WHERE e[$metric] IS NOT NULL
WITH sign, collect({model: m.id, value: e[$metric], cost: m[$cost]}) AS rows, min(sign * e[$metric]) AS best
UNWIND rows AS row
WITH row, best, sign * row.value - best AS behind
WHERE behind <= $tolerance * abs(best)
RETURN row.model AS model, row.cost AS cost, row.value AS value,
       CASE WHEN best = 0 THEN 0.0 ELSE behind / abs(best) END AS worse_by
ORDER BY cost, worse_by, model
