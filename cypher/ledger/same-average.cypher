// Whether the runs that are done and of which an edge is the mean are still those known; no row where they are not.
// Parameters: average, id of the run that they repeat; without, id of the run that is being completed; ids, of those known, sorted.
OPTIONAL MATCH (run:MatchGraphRun {average: $average, status: 'DONE'})
WHERE run.id <> $without
WITH run.id AS id ORDER BY id
WITH collect(id) AS found
WHERE found = $ids
RETURN found
