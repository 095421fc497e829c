// Set the quality band of edges that lead to the datasets $datasets: the quartile of the distance, or of how far a score stays
// behind the best, among all edges of the type. Run after similarities-default.cypher.
MATCH (graph:MatchGraph)
WITH graph.larger_is_better AS rising
MATCH (:MatchGraphDataset)-[e:SIMILAR]->(:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH rising, e.metric AS metric, CASE WHEN e.metric IN rising THEN -e.value ELSE e.value END AS d
WITH rising, metric, percentileCont(d, 0.25) AS lower, percentileCont(d, 0.5) AS median, percentileCont(d, 0.75) AS upper
WITH rising, collect({metric: metric, lower: lower, median: median, upper: upper}) AS quartiles
MATCH (dataset:MatchGraphDataset)
WHERE dataset.id IN $datasets
MATCH (dataset)<-[e:SIMILAR]-(:MatchGraphDataset)
WHERE e.value IS NOT NULL
WITH e, head([of IN quartiles WHERE of.metric = e.metric]) AS of, CASE WHEN e.metric IN rising THEN -e.value ELSE e.value END AS d
SET e.band = CASE WHEN d <= of.lower THEN 'best' WHEN d <= of.median THEN 'good' WHEN d <= of.upper THEN 'fair' ELSE 'poor' END
