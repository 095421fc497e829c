// The run that a worker had best take next, of those that are queued or running under a lease that has expired.
// First those it has not tried yet, then those of the model it has loaded, then those of models that fewest others are at.
// Parameters: wanted, a map from run id to its place in the order, or null for all runs; without, ids of runs to be left alone;
// last, ids of runs to be taken when there is no other; model, the id of the model at hand, or null; most_lost.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun)-[:ON]->(dataset:MatchGraphDataset)
WHERE ($wanted IS NULL OR $wanted[run.id] IS NOT NULL)
  AND NOT run.id IN $without
  AND (run.status = 'QUEUED'
       OR (run.status = 'RUNNING' AND run.lease_until < timestamp() AND coalesce(run.lost, 0) + 1 < $most_lost))
WITH run, model, dataset,
     run.id IN $last AS tried,
     coalesce(model.id = $model, false) AS loaded,
     COUNT { (model)<-[:OF]-(:MatchGraphRun {status: 'RUNNING'}) } AS busy
RETURN run.id AS id
ORDER BY tried, NOT loaded, busy, $wanted[run.id], run.queued_at, model.id, dataset.id, run.id
LIMIT 1
