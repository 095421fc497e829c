// Take a run back from a worker that is gone: to the queue, without an attempt less, unless too many workers in a row were lost at it.
// Run after lock.cypher in one transaction. No row: the run was taken from that worker, or is not running.
// Parameters: id, fence, error (why), most_lost.
MATCH (run:MatchGraphRun {id: $id})
WHERE run.fence = $fence AND run.status = 'RUNNING'
SET run.lost = coalesce(run.lost, 0) + 1,
    run.attempt = run.attempt - 1,
    run.error = $error,
    run.ended_at = timestamp()
SET run.status = CASE WHEN run.lost < $most_lost THEN 'QUEUED' ELSE 'FAILED' END
REMOVE run.owner, run.token, run.lease_until
RETURN run.status AS status
