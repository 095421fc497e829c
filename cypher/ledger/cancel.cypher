// Cancel runs that are queued or running. Run after lock.cypher in one transaction.
// The fence moves on, so whoever is at the run finds at the next heartbeat that it is no longer theirs.
// Parameters: ids, the runs.
UNWIND $ids AS id
MATCH (run:MatchGraphRun {id: id})
WHERE run.status IN ['QUEUED', 'RUNNING']
SET run.status = 'CANCELLED',
    run.fence = run.fence + 1,
    run.ended_at = timestamp()
REMOVE run.owner, run.token, run.lease_until
RETURN run.id AS id
