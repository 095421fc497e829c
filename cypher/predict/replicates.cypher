// The figures of runs under several seeds: of replicates, which the edge does not count, and of those that its mean is over; those
// that were measured with what the edge's value was, as far as it is recorded.
// Parameters: metric, its name.
MATCH (m:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(d:MatchGraphDataset)
WHERE run.status = 'DONE' AND run[$metric] IS NOT NULL
OPTIONAL MATCH (m)-[edge:PERFORMS]->(d)
OPTIONAL MATCH (first:MatchGraphRun {id: edge[$metric + '__run']})
WITH m, d, run, edge, coalesce(run.average = first.average, false) AS in_mean
WHERE (run.replicate OR in_mean)
  AND coalesce(run[$metric + '__extractor'] = edge[$metric + '__extractor'], true)
  AND coalesce(run[$metric + '__version'] = edge[$metric + '__version'], true)
RETURN m.id AS model, d.id AS dataset, run.config AS config, run[$metric] AS value, in_mean
ORDER BY model, dataset, run.id
