// Mark a run as done. Run after lock.cypher and before the edge is written, in one transaction that is given up when this returns
// no row: the run was taken from this worker.
// Parameters: id, fence, outcome, a map of properties (seconds, adapter, hashes...).
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: $id})-[:ON]->(dataset:MatchGraphDataset)
WHERE run.fence = $fence AND run.status IN ['RUNNING', 'DONE']
SET run += $outcome,
    run.status = 'DONE',
    run.ended_at = timestamp()
REMOVE run.error, run.traceback, run.lost, run.furthest, run.owner, run.token, run.lease_until, run.stage, run.stage_at, run.stage_from, run.step, run.of,
       run.loss, run.updated_at
RETURN properties(run) AS run, model.id AS model, dataset.id AS dataset, false AS expired, timestamp() AS now
