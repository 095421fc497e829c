// How much was measured on each dataset: results and finished runs.
MATCH (d:MatchGraphDataset)
WITH d, COUNT { (d)<-[:PERFORMS]-() } AS results, COUNT { (d)<-[:ON]-(:MatchGraphRun {status: 'DONE'}) } AS runs
WHERE results + runs > 0
RETURN d.id AS id, results + runs AS measured
