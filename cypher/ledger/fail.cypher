// End a failed attempt: back to the queue while attempts are left, else FAILED. Run after lock.cypher in one transaction.
// No row: the run was taken from this worker, or is not running.
// Parameters: id, fence, error, traceback (may be null), final (true: no further attempt).
MATCH (run:MatchGraphRun {id: $id})
WHERE run.fence = $fence AND run.status IN ['RUNNING', 'QUEUED', 'FAILED']
SET run.status = CASE WHEN run.attempt < run.max_attempts AND NOT $final THEN 'QUEUED' ELSE 'FAILED' END,
    run.error = $error,
    run.traceback = $traceback,
    run.ended_at = timestamp(),
    run.lost = 0
REMOVE run.owner, run.token, run.lease_until
RETURN run.status AS status
