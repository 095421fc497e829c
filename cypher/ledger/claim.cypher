// Take a run that is queued, as one attempt more, or whose lease has expired, whose worker counts as lost and whose attempt goes on:
// a higher fence, and a lease by the server's clock. Run after lock.cypher in one transaction. The token makes a repeated commit
// count once. No row: somebody else has it.
// Parameters: id, token, owner, host (its name, for people), lease_ms, most_lost.
MATCH (model:MatchGraphModel)<-[:OF]-(run:MatchGraphRun {id: $id})-[:ON]->(dataset:MatchGraphDataset)
WITH run, model, dataset, coalesce(run.token = $token, false) AS mine, timestamp() AS now
WHERE mine
   OR run.status = 'QUEUED'
   OR (run.status = 'RUNNING' AND run.lease_until < now AND coalesce(run.lost, 0) + 1 < $most_lost)
SET run.attempt = run.attempt + CASE WHEN mine OR run.status = 'RUNNING' THEN 0 ELSE 1 END,
    run.lost = coalesce(run.lost, 0) + CASE WHEN mine OR run.status = 'QUEUED' THEN 0 ELSE 1 END,
    run.fence = run.fence + CASE WHEN mine THEN 0 ELSE 1 END,
    run.status = 'RUNNING',
    run.token = $token,
    run.owner = $owner,
    run.host = $host,
    run.lease_until = now + $lease_ms,
    run.started_at = now,
    run.stage = 'claimed'
REMOVE run.stage_at, run.stage_from, run.step, run.of, run.loss, run.updated_at, run.ended_at
RETURN properties(run) AS run, model.id AS model, dataset.id AS dataset, false AS expired, now
