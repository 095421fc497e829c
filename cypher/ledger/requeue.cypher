// Queue ended runs again, with all their attempts and no worker lost. Run after lock.cypher in one transaction.
// Parameters: ids, the runs; from, the statuses they may have.
UNWIND $ids AS id
MATCH (run:MatchGraphRun {id: id})
WHERE run.status IN $from
SET run.status = 'QUEUED',
    run.attempt = 0,
    run.queued_at = timestamp()
REMOVE run.error, run.traceback, run.lost, run.furthest, run.ended_at,
       run.stage, run.stage_at, run.stage_from, run.step, run.of, run.loss
RETURN run.id AS id
