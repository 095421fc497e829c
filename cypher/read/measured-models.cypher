// How much was measured with each model: results, scores of its variants on prompts, and finished runs.
MATCH (m:MatchGraphModel)
WITH m, COUNT { (m)-[:PERFORMS]->() } AS results,
     COUNT { (m)<-[:OF]-(:MatchGraphVariant)-[:SCORED]->() } AS scores,
     COUNT { (m)<-[:OF]-(:MatchGraphRun {status: 'DONE'}) } AS runs
WHERE results + scores + runs > 0
RETURN m.id AS id, results + scores + runs AS measured
