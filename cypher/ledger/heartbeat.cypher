// Extend the lease of a running run and note how far it is. Run after lock.cypher in one transaction.
// No row: the run was taken from this worker.
// Parameters: id, fence, lease_ms, stage, step, of, loss (may be null), position (of the stage and step among all).
MATCH (run:MatchGraphRun {id: $id})
WHERE run.status = 'RUNNING' AND run.fence = $fence
WITH run, timestamp() AS now, run.stage = $stage AND run.stage_at IS NOT NULL AS same
// A worker that comes further than all before it ends a row of lost ones.
SET run.lost = CASE WHEN $position > coalesce(run.furthest, 0) THEN 0 ELSE coalesce(run.lost, 0) END,
    run.furthest = CASE WHEN $position > coalesce(run.furthest, 0) THEN $position ELSE run.furthest END
// When the stage was first seen, and at which step, give its speed.
SET run.stage_at = CASE WHEN same THEN run.stage_at ELSE now END,
    run.stage_from = CASE WHEN same THEN run.stage_from ELSE $step END,
    run.stage = $stage,
    run.step = $step,
    run.of = $of,
    run.loss = $loss,
    run.updated_at = now,
    run.lease_until = now + $lease_ms
RETURN run.lease_until AS lease_until
