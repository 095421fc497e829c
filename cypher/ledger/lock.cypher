// Take the write locks of runs until the transaction ends, so that what the next statement reads is still true when it writes.
// Parameters: ids, run ids; sorted, or two transactions could wait for each other.
UNWIND $ids AS id
MATCH (run:MatchGraphRun {id: id})
SET run.lock = true
REMOVE run.lock
RETURN run.id AS id
