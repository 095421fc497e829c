// Give a run back unfinished, as after Ctrl-C; the attempt does not count. Run after lock.cypher in one transaction.
// No row: the run was taken from this worker, or is not running.
// Parameters: id, fence, note (why, or null).
MATCH (run:MatchGraphRun {id: $id})
WHERE run.fence = $fence AND run.status = 'RUNNING'
SET run.status = 'QUEUED',
    run.attempt = run.attempt - 1,
    run.error = $note,
    run.lost = 0
REMOVE run.owner, run.token, run.lease_until
RETURN run.id AS id
