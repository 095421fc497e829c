// How much was measured on each dataset: results and finished runs.
MATCH (d:Dataset)
WITH d, COUNT { (d)<-[:PERFORMS]-() } AS results, COUNT { (d)<-[:ON]-(:Run {status: 'DONE'}) } AS runs
WHERE results + runs > 0
RETURN d.id AS id, results + runs AS measured
