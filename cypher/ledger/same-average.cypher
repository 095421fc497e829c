// Guard of a mean: returns no row where the run is in another mean by now, or other runs of it are done than those known.
// Parameters: id, of the run; average, what the runs of the mean have in common, or null for a run in no mean; ids, of the other
// runs of the mean that are done, sorted.
MATCH (run:MatchGraphRun {id: $id})
WHERE run.average = $average OR (run.average IS NULL AND $average IS NULL)
OPTIONAL MATCH (other:MatchGraphRun {average: $average, status: 'DONE'})
WHERE other.id <> $id
WITH run, other.id AS other ORDER BY other
WITH run, collect(other) AS found
WHERE found = $ids
RETURN run.id AS id
