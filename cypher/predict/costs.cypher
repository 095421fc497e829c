// What fine-tuning and sampling took for each model, as medians over its recorded results
// The dataset predicted for is left out: nothing of its results may enter its prediction.
// Parameters: metric, the metric whose provenance holds the times; dataset, the id to leave out (may be unknown).
MATCH (m:MatchGraphModel)-[e:PERFORMS]->(d:MatchGraphDataset)
WHERE d.id <> $dataset
WITH m.id AS model, e[$metric + '__training_seconds'] AS training, e[$metric + '__seconds_per_image'] AS sampling
RETURN model, percentileCont(training, 0.5) AS train_seconds, percentileCont(sampling, 0.5) AS sample_seconds_per_image
ORDER BY model
