// Models of a dataset by their mean over repeated runs
// How much a result changes when only the seed does: the mean of the finished runs, their standard deviation, and the lowest and
// highest value. Runs that differ only in the seed, and in whether the pretrained model was scored too, share a row; others are rows
// of their own. A single run has no deviation.
// :param dataset dataset -- id of the dataset
// :param metric metric clip_fid -- metric of the results
MATCH (graph:MatchGraph)
WITH CASE WHEN $metric IN graph.larger_is_better THEN -1 ELSE 1 END AS sign
MATCH (m:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(:MatchGraphDataset {id: $dataset})
WHERE run.status = 'DONE' AND run[$metric] IS NOT NULL
WITH sign, m.id AS model, run[$metric] AS value,
     split(replace(run.config, '"initial": false', '"initial": true'), '"seed": ') AS config
// The configuration is one text: what stands before the seed, and what stands behind it.
WITH sign, model, value, split(coalesce(config[1], ''), ',') AS rest, config[0] AS start
// A seed may have two runs, of which one scored the pretrained model too.
WITH sign, model, [start] + tail(rest) AS settings, head(rest) AS seed, avg(value) AS value
WITH sign, model, settings, count(value) AS runs, avg(value) AS mean, stDev(value) AS deviation, min(value) AS lowest,
     max(value) AS highest
RETURN model, runs, mean, CASE WHEN runs > 1 THEN deviation END AS deviation, lowest, highest
ORDER BY sign * mean, model
