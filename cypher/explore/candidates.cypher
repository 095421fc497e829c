// Candidates of routing, by cost
// Each candidate with its mean quality over the prompts that it is scored on, and the share of the prompts scored for all candidates
// on which no other one is better.
// :param quality string clip_score -- quality metric of the scores
MATCH (:MatchGraphVariant)-[e:SCORED]->(p:MatchGraphPrompt)
WHERE e[$quality] IS NOT NULL
WITH p, max(e[$quality]) AS best, count(e) AS scored
WITH collect({prompt: p.id, best: best, scored: scored}) AS prompts, max(scored) AS complete
WITH [row IN prompts WHERE row.scored = complete] AS shared
CALL (shared) {
  UNWIND shared AS row
  MATCH (v:MatchGraphVariant)-[e:SCORED]->(:MatchGraphPrompt {id: row.prompt})
  WHERE e[$quality] = row.best
  RETURN collect(v.id) AS winners
}
MATCH (v:MatchGraphVariant)-[:OF]->(m:MatchGraphModel)
OPTIONAL MATCH (v)-[e:SCORED]->(:MatchGraphPrompt)
WHERE e[$quality] IS NOT NULL
WITH v, m, avg(e[$quality]) AS mean, count(e) AS prompts, winners, size(shared) AS shared
RETURN v.id AS candidate, m.id AS model, v.steps AS steps, v.cost AS cost, v.unit AS unit, mean, prompts,
       CASE WHEN shared > 0 THEN toFloat(size([w IN winners WHERE w = v.id])) / shared END AS best_share
ORDER BY unit, cost, candidate
