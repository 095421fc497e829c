// Prompts that gain most from a costlier candidate
// The best candidate's gain in quality over the cheapest one, and its extra cost, for each prompt.
// :param quality string clip_score -- quality metric of the scores
// :param limit integer 20 -- maximum number of rows
MATCH (v:MatchGraphVariant)-[e:SCORED]->(p:MatchGraphPrompt)
WHERE e[$quality] IS NOT NULL
WITH p, v, e[$quality] AS value
ORDER BY v.cost, v.id
WITH p, collect({candidate: v.id, cost: v.cost, value: value}) AS scored
WITH p, scored[0] AS cheapest, reduce(best = scored[0], row IN scored | CASE WHEN row.value > best.value THEN row ELSE best END) AS best
WHERE best.value > cheapest.value
RETURN p.text AS prompt, best.candidate AS candidate, best.value - cheapest.value AS gain, best.cost / cheapest.cost AS times_the_cost
ORDER BY gain DESC, prompt
LIMIT $limit
