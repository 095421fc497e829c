// Results far worse than the model's or the dataset's median
// A value's excess is how much worse it is than the median, as a share of the median. Results that are bad by both come first: a
// model that failed where others did not, or a faulty run.
// :param metric metric clip_fid -- metric of the results
// :param threshold float 0.5 -- smallest excess over one of the two medians; 0.5 is 50 % worse
// :param limit integer 20 -- maximum number of rows
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d:MatchGraphDataset)
WHERE e[$metric] IS NOT NULL
WITH sign, m, collect({dataset: d, value: e[$metric]}) AS rows, percentileCont(e[$metric], 0.5) AS model_median
UNWIND rows AS row
WITH sign, row.dataset AS d, collect({model: m.id, value: row.value, median: model_median}) AS rows,
     percentileCont(row.value, 0.5) AS dataset_median
UNWIND rows AS row
WITH d.id AS dataset, row.model AS model, row.value AS value, dataset_median, row.median AS model_median,
     CASE WHEN dataset_median = 0 THEN 0.0 ELSE sign * (row.value - dataset_median) / abs(dataset_median) END AS over_dataset,
     CASE WHEN row.median = 0 THEN 0.0 ELSE sign * (row.value - row.median) / abs(row.median) END AS over_model
WHERE over_dataset >= $threshold OR over_model >= $threshold
RETURN model, dataset, value, dataset_median, over_dataset, model_median, over_model
ORDER BY CASE WHEN over_dataset < over_model THEN over_dataset ELSE over_model END DESC, model, dataset
LIMIT $limit
