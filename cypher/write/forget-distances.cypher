// Remove the distances of datasets whose images are others now, where an extractor measured them; recorded ones without stay.
// An edge that has no value left goes; of another, the first metric left by name becomes the default.
MATCH (m:Metric)
WITH m.name AS name ORDER BY name
WITH collect(name) AS metrics
UNWIND $ids AS id
MATCH (:Dataset {id: id})-[e:SIMILAR]-()
WITH DISTINCT e, metrics, [name IN metrics WHERE e[name + '__extractor'] IS NOT NULL] AS gone
WHERE size(gone) > 0
FOREACH (key IN [k IN keys(e) WHERE k IN gone OR any(name IN gone WHERE k STARTS WITH name + '__')] | SET e[key] = null)
WITH e, metrics, head([name IN metrics WHERE e[name] IS NOT NULL]) AS metric
FOREACH (key IN [k IN keys(e) WHERE NOT k CONTAINS '__' AND NOT k IN metrics AND k <> 'key'] | SET e[key] = null)
FOREACH (key IN [k IN keys(e) WHERE k STARTS WITH metric + '__'] | SET e[substring(key, size(metric) + 2)] = e[key])
SET e.metric = metric, e.value = e[metric]
WITH e WHERE e.metric IS NULL
DELETE e
