// Bring the quality band of edges of one type up to date: the quartile of the distance, or of how far a score stays behind the best.
// All edges of the type count for the quartiles; written are those that lead to one of the ids $datasets, or all of them where that is null.
MATCH (m:Metric)
WITH collect(CASE WHEN m.larger_is_better THEN m.name END) AS rising
MATCH ()-[e:PERFORMS|SIMILAR]->()
WHERE type(e) = $type AND e.value IS NOT NULL
WITH rising, e.metric AS metric, CASE WHEN e.metric IN rising THEN -e.value ELSE e.value END AS d
WITH rising, metric, percentileCont(d, 0.25) AS lower, percentileCont(d, 0.5) AS median, percentileCont(d, 0.75) AS upper
WITH rising, collect({metric: metric, lower: lower, median: median, upper: upper}) AS quartiles
MATCH (dataset:Dataset)
WHERE $datasets IS NULL OR dataset.id IN $datasets
WITH dataset, rising, quartiles
MATCH (dataset)<-[e:PERFORMS|SIMILAR]-()
WHERE type(e) = $type AND e.value IS NOT NULL
WITH e, head([of IN quartiles WHERE of.metric = e.metric]) AS of, CASE WHEN e.metric IN rising THEN -e.value ELSE e.value END AS d
WITH e, CASE WHEN d <= of.lower THEN 'best' WHEN d <= of.median THEN 'good' WHEN d <= of.upper THEN 'fair' ELSE 'poor' END AS band
WHERE e.band IS NULL OR e.band <> band
SET e.band = band
